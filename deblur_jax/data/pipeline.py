"""Batches of training patches: the batch of a step depends on (seed, step) alone."""

import functools
import math
import multiprocessing
import pickle
from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from deblur_jax.data.cache import CachedPairs, SharedPairs
from deblur_jax.data.mixture import Mixture, PairSource
from deblur_jax.data.transforms import random_patch
from deblur_jax.extensions import load_extensions
from deblur_jax.images.files import as_8_bits
from deblur_jax.runtime.limits import bounded_workers, memory_bytes
from deblur_jax.runtime.workers import depend_on_parent, start_resource_tracker

_BATCHES_AHEAD = 8
_READ_THREADS = 4
_GIB = 2**30
_WORKER_BYTES = 2**29
"""Memory that a worker needs besides the cache."""


def training_batches(
    source: PairSource,
    *,
    batch_size: int,
    patch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    cache_gib: float = 0.0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray]]:
    """Endless training batches, from ``start_step`` on.

    Every epoch is a new permutation of the pairs, every visit a new crop and flip. Neither depends
    on the number of processes or workers, so a checkpoint needs to store the step only.

    Args:
        source: the pairs.
        batch_size: global, over all processes.
        patch_size: height and width of the patches, in pixels.
        seed: of permutations and patches.
        start_step: the step of the first batch.
        num_workers: processes that read and crop, as many of them as cores and memory have room
            for; 0 for threads of this process.
        cache_gib: memory for decoded images, which the workers share.
        process_index: which share of every batch to give, 0 to ``process_count`` - 1.
        process_count: number of shares; it divides ``batch_size``.

    Yields:
        ``blurred`` and ``sharp``, (batch_size / process_count, patch, patch, 3) uint8.
    """
    num_workers = count_workers(num_workers)
    max_bytes = min(cache_gib * _GIB, (memory_bytes() or math.inf) / 2)
    patches = _training_patches(source, patch_size, seed, max_bytes, num_workers)
    # Batches of one share each, so that a process gets neighbouring rows of the global batch.
    shares = patches.batch(batch_size // process_count, drop_remainder=True)
    batches = shares[process_index::process_count][start_step:]
    threads = 1 if num_workers else _READ_THREADS
    iterable = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_BATCHES_AHEAD)
    )
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, parsed or not
        start_resource_tracker()
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(iterable)
    try:
        yield from map(_copied, iterator)
    finally:
        iterator.close()


def _training_patches(
    source: PairSource, size: int, seed: int, max_bytes: float, num_workers: int
) -> grain.MapDataset:
    """All training patches, endless; of a mixture, its parts in turn by their shares."""
    if isinstance(source, Mixture):
        parts = [
            _training_patches(
                part, size, seed + position, max_bytes / len(source.sources), num_workers
            )
            for position, part in enumerate(source.sources)
        ]
        return grain.MapDataset.mix(parts, source.shares)
    return (
        grain.MapDataset.source(WorkerSource(_cached(source, max_bytes, num_workers)))
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(functools.partial(_patch, size=size))
    )


def _cached(source: PairSource, max_bytes: float, num_workers: int) -> PairSource:
    sizes = getattr(source, "sizes", None)
    rounded = _EightBits(source)
    if num_workers and sizes is not None:
        return SharedPairs(rounded, sizes, max_bytes)
    return CachedPairs(rounded, max_bytes / max(1, num_workers))


class _EightBits:
    """Training takes 8 bits of every image: the rounding is far below its noise."""

    def __init__(self, source: PairSource) -> None:
        self._source = source
        self.names = source.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: as_8_bits(image) for name, image in self._source[index].items()}


def count_workers(wanted: int) -> int:
    """How many input workers are started of those that ``data.num_workers`` asks for."""
    return bounded_workers(wanted, _WORKER_BYTES)


class WorkerSource:
    """A source that brings the user's modules along to the processes that read it.

    Args:
        source: the pairs, perhaps of a class of such a module.
    """

    def __init__(self, source: PairSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._source[index]

    def __getstate__(self) -> bytes:
        return pickle.dumps(self._source)

    def __setstate__(self, pickled: bytes) -> None:
        if multiprocessing.parent_process() is not None:
            depend_on_parent()
        load_extensions()
        self._source = pickle.loads(pickled)


def _patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, *, size: int
) -> dict[str, np.ndarray]:
    return random_patch(pair, rng, size)


def _copied(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A worker's batch lies in shared memory that is freed with its arrays: keep none of them."""
    return {key: np.array(images) for key, images in batch.items()}
