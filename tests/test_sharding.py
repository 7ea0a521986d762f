import jax
import numpy as np
import pytest

from deblur_jax.sharding import batch_sharding, data_mesh, prefetch_to_device


@pytest.mark.parametrize(("batch_size", "used"), [(16, 8), (8, 8), (4, 4), (6, 6), (7, 7), (9, 3)])
def test_a_mesh_uses_as_many_devices_as_divide_the_batch(batch_size, used):
    assert data_mesh(batch_size).size == used


def test_prefetching_keeps_order_and_loses_nothing():
    sharding = batch_sharding(data_mesh(8))
    batches = [{"x": np.full((8, 2), i, np.uint8)} for i in range(5)]
    arrived = list(prefetch_to_device(iter(batches), sharding))
    assert [int(batch["x"][0, 0]) for batch in arrived] == list(range(5))
    assert all(isinstance(batch["x"], jax.Array) for batch in arrived)
    assert arrived[0]["x"].sharding == sharding
