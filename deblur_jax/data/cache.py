"""Decoded images kept in memory."""

import itertools
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np

from deblur_jax.data.mixture import PairSource

_CHANNELS = 3
_IMAGES = ("blurred", "sharp")


class CachedPairs:
    """Keeps decoded pairs of a source in memory, as many as fit.

    Args:
        source: the pairs.
        max_bytes: memory to use; pairs met after it is full are read anew each time.
    """

    def __init__(self, source: PairSource, max_bytes: float) -> None:
        self._source = source
        self._free_bytes = max_bytes
        self._kept: dict[int, dict[str, np.ndarray]] = {}
        self.names = source.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        pair = self._source[index]
        size = sum(image.nbytes for image in pair.values())
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[index] = pair
        return pair


class SharedPairs:
    """Keeps decoded pairs in memory that the input workers of a process share.

    Each pair has a place of its own, and a byte that says whether it has been filled. Two workers
    that fill a place at the same time write the same, so no lock is needed. The memory has no
    name, except where the system has none without (not Linux): so it needs no room in /dev/shm,
    and nothing is left when the processes end, however they end.

    Args:
        source: the pairs.
        sizes: height and width of each.
        max_bytes: memory to use; pairs that find no place in it are read anew each time.
    """

    def __init__(
        self, source: PairSource, sizes: Sequence[tuple[int, int]], max_bytes: float
    ) -> None:
        self.names = source.names
        self._source = source
        self._sizes = list(sizes)
        needed = (len(_IMAGES) * height * width * _CHANNELS for height, width in sizes)
        ends = itertools.accumulate(needed, initial=len(self._sizes))
        self._ends = list(itertools.takewhile(lambda end: end <= max_bytes, ends))
        self._memory = _SharedMemory(self._ends[-1]) if len(self._ends) > 1 else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if self._memory is None or index >= len(self._ends) - 1:
            return self._source[index]
        shape = (len(_IMAGES), *self._sizes[index], _CHANNELS)
        place = self._memory.bytes[self._ends[index] : self._ends[index + 1]].reshape(shape)
        is_filled = self._memory.bytes[index : index + 1]
        if is_filled[0]:
            return dict(zip(_IMAGES, place, strict=True))
        pair = self._source[index]
        images = [pair[name] for name in _IMAGES]
        if all(image.shape == shape[1:] and image.dtype == np.uint8 for image in images):
            np.stack(images, out=place)
            is_filled[0] = 1
        return pair


class _SharedMemory:
    """Zeros that a process and its children share; pickled, it is the same memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("deblur_jax")
            self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115
            self._descriptor, self._path = self._file.fileno(), self._file.name
        os.ftruncate(self._descriptor, size)
        self._map()

    def _map(self) -> None:
        self.bytes = np.frombuffer(mmap.mmap(self._descriptor, self._size), np.uint8)

    def __getstate__(self) -> tuple[int, str]:
        return self._size, self._path

    def __setstate__(self, state: tuple[int, str]) -> None:
        self._size, self._path = state
        self._descriptor = os.open(self._path, os.O_RDWR)
        self._map()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
        elif hasattr(self, "_descriptor"):
            os.close(self._descriptor)
