"""Several data sets as one, each with its share of the training patches."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from deblur_jax.data.layouts import PairError


class PairSource(Protocol):
    """Pairs by index: ``blurred`` and ``sharp``, each (h, w, 3) uint8."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the pairs, in their order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


class Mixture:
    """Several data sets, one after the other.

    Args:
        sources: the data sets.
        shares: of the training patches, for each; only their ratios count.

    Attributes:
        names: of all pairs.
        sizes: heights and widths where all sources know them, else None.
    """

    def __init__(self, sources: Sequence[PairSource], shares: Sequence[float]) -> None:
        self.sources = list(sources)
        self.shares = list(shares)
        self.names = [name for source in sources for name in source.names]
        self.sizes: list[tuple[int, int]] | None = []
        for source in sources:
            sizes = getattr(source, "sizes", None)
            self.sizes = None if sizes is None or self.sizes is None else [*self.sizes, *sizes]
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        position = bisect.bisect_right(self._ends, index)
        before = self._ends[position - 1] if position else 0
        return self.sources[position][index - before]


def named_shares(name: str) -> list[tuple[str, float]]:
    """The data sets in a name such as "A=0.7,B=0.3", and the share of each.

    A name in which a part does not end with "=" and a number is that of one data set.

    Raises:
        PairError: if a share is not above 0, or a data set is named twice.
    """
    parts = [part.rpartition("=") for part in name.split(",")]
    try:
        shares = [(part[0].strip(), float(part[2])) for part in parts if part[1]]
    except ValueError:
        shares = []
    if len(shares) < len(parts):
        return [(name, 1.0)]
    for data_set, share in shares:
        if not 0 < share < float("inf"):
            raise PairError(f"data.train: the share of {data_set} must be above 0, not {share:g}")
        if not data_set or [other for other, _ in shares].count(data_set) > 1:
            raise PairError(f"data.train: {name} must name each data set once, as in A=0.7,B=0.3")
    return shares
