import pickle

import numpy as np
import pytest

from deblur_jax.data.cache import CachedPairs, SharedPairs
from deblur_jax.data.pipeline import training_batches
from tests import shared_memory
from tests.data.counting import CountingPairs

PAIR_BYTES = 2 * 10 * 10 * 3


def read_all(cached, times=3):
    for _ in range(times):
        for index in range(len(cached)):
            for key in ("blurred", "sharp"):
                np.testing.assert_array_equal(cached[index][key], CountingPairs.image(index, key))


def test_cache_reads_what_fits_once():
    source = CountingPairs()
    cached = CachedPairs(source, max_bytes=2 * PAIR_BYTES)
    read_all(cached)
    assert source.reads == 2 + 2 * 6
    assert len(cached) == 4


@pytest.mark.parametrize("fitting", [0, 2, 4])
def test_shared_memory_holds_what_fits(fitting):
    source = CountingPairs()
    cached = SharedPairs(source, source.sizes, max_bytes=4 + fitting * PAIR_BYTES)
    read_all(cached, times=1)
    before = source.reads
    read_all(cached, times=1)
    assert source.reads - before == 2 * (4 - fitting)
    assert len(cached) == 4


def test_what_one_worker_reads_the_others_have():
    source = CountingPairs()
    cached = SharedPairs(source, source.sizes, max_bytes=1 << 20)
    other = pickle.loads(pickle.dumps(cached))
    read_all(cached, times=1)
    assert source.reads == 4
    read_all(other, times=2)
    assert other._source.reads == 0


def test_a_pair_of_another_size_than_was_said_is_not_kept():
    source = CountingPairs()
    cached = SharedPairs(source, [(5, 20), (10, 10), (9, 10), (10, 10)], max_bytes=1 << 20)
    read_all(cached)
    assert source.reads == 2 + 6 * 2


def test_nothing_is_left_in_shared_memory(tmp_path):
    before = shared_memory.names()
    source = CountingPairs()
    options = {"batch_size": 2, "patch_size": 8, "seed": 0, "cache_gib": 0.01}
    batches = training_batches(source, num_workers=2, **options)
    ours = [next(batches) for _ in range(6)]
    batches.close()
    shared_memory.assert_nothing_stays(before)
    alone = training_batches(source, **options)
    for batch in ours:
        np.testing.assert_array_equal(batch["sharp"], next(alone)["sharp"])
    alone.close()
