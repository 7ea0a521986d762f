"""Means of scores, some of which may be infinite: an image equal to the truth has that PSNR."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """The mean of the finite values, and how many are not.

    Attributes:
        value: infinite if all values are, and not a number if there are none.
        infinite: how many values are infinite.
    """

    value: float
    infinite: int


def finite_mean(values: Iterable[float]) -> Mean:
    """The mean of the values that are finite.

    Args:
        values: finite or infinite.
    """
    every = list(values)
    finite = [value for value in every if math.isfinite(value)]
    if finite:
        return Mean(float(np.mean(finite)), len(every) - len(finite))
    return Mean(every[0] if every else math.nan, len(every))
