"""Pairs that count how often they are read."""

import numpy as np


class CountingPairs:
    """Four pairs of 10x10 pixels."""

    names = ("a", "b", "c", "d")
    sizes = ((10, 10),) * 4

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return len(self.names)

    @staticmethod
    def image(index, key):
        return np.full((10, 10, 3), index + 100 * (key == "sharp"), np.uint8)

    def __getitem__(self, index):
        self.reads += 1
        return {key: self.image(index, key) for key in ("blurred", "sharp")}
