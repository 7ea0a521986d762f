"""Pooling and interpolation of packed maps against the plain ones."""

import jax.numpy as jnp
import pytest

from deblur_jax.ops.operations import PLAIN
from deblur_jax.ops.tpu import TPU_INTERPRETED
from deblur_jax.ops.tpu.packed import unpack
from tests.ops.tpu.packing import assert_same, random_arrays

SHAPES = [
    pytest.param((2, 12, 20, 6), 16, id="8 columns"),
    pytest.param((1, 10, 6, 40), 64, id="2 columns"),
    pytest.param((1, 18, 14, 9), 128, id="1 column"),
    pytest.param((1, 2, 2, 130), 130, id="1 column of many channels"),
]


@pytest.mark.parametrize(("shape", "channels"), SHAPES)
@pytest.mark.parametrize(
    "name", ["max_pool_2x2", "upsample_caffe_bilinear", "upsample_half_pixel_bilinear"]
)
def test_resizing_is_the_plain_one(name, shape, channels):
    form = {"channels": channels, "halvings": 1}
    maps = random_arrays(shape)
    assert_same(lambda ops, maps, _: getattr(ops, name)(*maps), maps, [form])


def test_pooling_gives_the_gradient_to_the_first_of_equal_values():
    form = {"channels": 16, "halvings": 1}
    assert_same(lambda ops, maps, _: ops.max_pool_2x2(*maps), [jnp.ones((1, 8, 12, 3))], [form])


@pytest.mark.parametrize("name", ["max_pool_2x2", "upsample_caffe_bilinear"])
def test_values_are_moved_exactly(name):
    (features,) = random_arrays((1, 12, 20, 6))
    packed = TPU_INTERPRETED.enter(features, channels=16, halvings=1)
    actual = unpack(getattr(TPU_INTERPRETED, name)(packed))
    assert jnp.array_equal(actual, getattr(PLAIN, name)(features))
