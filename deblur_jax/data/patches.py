"""What ``prepare`` stores of a data set: its pairs, or patches that are cut from them."""

import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from deblur_jax.data.layouts import PairError
from deblur_jax.data.prepared import EncodedPair
from deblur_jax.data.transforms import augmented_patch, random_patch
from deblur_jax.images.files import as_8_bits
from deblur_jax.images.reading import read_png, read_rgb
from deblur_jax.images.writing import encoded_png
from deblur_jax.runtime.files import file_size
from deblur_jax.runtime.threads import map_ahead

PairFiles = Mapping[str, tuple[epath.Path, epath.Path | tuple[epath.Path, ...]]]
"""Files (blurred, sharp) by name, as ``folder.find_pairs`` gives them; sharp may be several."""


class WholePairs:
    """Makes the pairs of files as they are; see ``preparing.PairMaker``."""

    items_per_shard = 64

    def __init__(self, pairs: PairFiles) -> None:
        self._pairs = list(pairs.items())

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def identity(self) -> str:
        """Names and sizes in bytes of the files."""
        return _identity(self._pairs)

    def make(self, start: int, end: int) -> Iterator[list[EncodedPair]]:
        """The pairs from ``start`` to ``end``.

        Raises:
            ImageError: if an image is broken.
        """
        return _in_threads(self._encoded, range(start, end))

    def _encoded(self, index: int) -> list[EncodedPair]:
        name, (blurred, sharp) = self._pairs[index]
        if isinstance(sharp, tuple):
            return [(name, read_png(blurred), [read_png(frame) for frame in sharp])]
        return [(name, read_png(blurred), read_png(sharp))]


class Patches:
    """Cuts random patches of pairs, named after them: "SEQUENCE/000001-007".

    Args:
        pairs: the files.
        size: height and width of a patch, in pixels.
        per_image: patches of each pair.
        augment: cut them by ``transforms.augmented_patch``.
        seed: of places and augmentation.
    """

    items_per_shard = 64

    def __init__(
        self, pairs: PairFiles, *, size: int, per_image: int, augment: bool, seed: int = 0
    ) -> None:
        self._pairs = list(pairs.items())
        self._size, self._per_image, self._seed = size, per_image, seed
        self._cut = augmented_patch if augment else random_patch

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def identity(self) -> str:
        """Names and sizes in bytes of the files."""
        return _identity(self._pairs)

    def make(self, start: int, end: int) -> Iterator[list[EncodedPair]]:
        """The patches of the pairs from ``start`` to ``end``.

        Raises:
            PairError: if an image is smaller than a patch.
            ImageError: if it is broken.
        """
        return _in_threads(self._patches, range(start, end))

    def _patches(self, index: int) -> list[EncodedPair]:
        name, (blurred, sharp) = self._pairs[index]
        assert not isinstance(sharp, tuple), "only test pairs have several sharp images"
        pair = {key: as_8_bits(read_rgb(f)) for key, f in (("blurred", blurred), ("sharp", sharp))}
        digits = len(str(self._per_image - 1))
        made: list[EncodedPair] = []
        for number in range(self._per_image):
            rng = np.random.default_rng([self._seed, index, number])
            try:
                patch = self._cut(pair, rng, self._size)
            except PairError as error:
                raise PairError(f"{sharp}: {error}") from None
            images = encoded_png(patch["blurred"]), encoded_png(patch["sharp"])
            made.append((f"{name}-{number:0{digits}}", *images))
        return made


def _identity(pairs: list[tuple[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name, (blurred, sharp) in pairs:
        files = [blurred, *(sharp if isinstance(sharp, tuple) else [sharp])]
        digest.update(f"{name}\0{[file_size(file) for file in files]}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _in_threads(
    make: Callable[[int], list[EncodedPair]], indices: range
) -> Iterator[list[EncodedPair]]:
    """In order, a few ahead: decoding and encoding release Python's lock."""
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
        yield from map_ahead(threads, make, indices, ahead=workers)
