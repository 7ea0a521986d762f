"""Packed feature maps: what is packed is unpacked as it was, and zero beyond the image."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from deblur_jax.ops.tpu import TPU
from deblur_jax.ops.tpu.packed import (
    Packed,
    interleaved,
    pack,
    taken_apart,
    unpack,
    with_columns,
    with_neighbouring_rows,
)
from tests.ops.tpu.packing import random_arrays

SIDES = st.integers(1, 41)


@settings(max_examples=4)
@given(st.integers(1, 3), SIDES, SIDES, st.sampled_from([1, 3, 12, 32, 64, 128]), st.integers(0, 2))
@example(1, 45, 37, 32, 2)
@example(1, 1, 1, 32, 0)
def test_a_map_is_packed_and_unpacked_as_it_was(b, h, w, channels, halvings):
    (features,) = random_arrays((b, h << halvings, w << halvings, channels))
    packed = pack(features, channels=channels, halvings=halvings)
    np.testing.assert_array_equal(unpack(packed), features)
    np.testing.assert_allclose(jnp.sum(packed.array**2), jnp.sum(features**2), rtol=1e-5)


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_scales_that_are_packed_have_the_same_positions_and_strips(channels):
    maps = [
        pack(jnp.zeros((2, 72 >> k, 104 >> k, 3)), channels=channels << k, halvings=2 - k)
        for k in range(3)
    ]
    assert len({(len(packed.array), packed.array.shape[2]) for packed in maps}) == 1


@pytest.mark.parametrize("columns", [1, 2, 4, 8])
def test_a_map_is_packed_otherwise(columns):
    (features,) = random_arrays((1, 9, 22, 32))
    packed = with_columns(pack(features, channels=32), columns)
    assert packed.columns == columns
    assert packed.array.shape[2] == packed.positions
    np.testing.assert_array_equal(unpack(packed), features)


def test_the_maps_of_the_papers_network_fill_the_lanes():
    for k, columns in enumerate((4, 2, 1)):
        packed = pack(jnp.zeros((1, 16, 16, 32 << k)), channels=32 << k, halvings=2 - k)
        assert (packed.columns, packed.array.shape[-1]) == (columns, 128)


def test_images_enter_with_the_columns_of_the_maps_that_are_made_of_them():
    packed = TPU.enter(jnp.zeros((1, 16, 16, 3)), channels=32, halvings=2)
    assert isinstance(packed, Packed)
    assert packed.array.shape[-1] == 4 * 3


def test_arrays_that_enter_alone_stay_what_they_are():
    images = jnp.zeros((1, 16, 16, 3))
    assert TPU.enter(images) is images
    assert TPU.leave(TPU.leave_stack(TPU.enter_stack(images))) is images


@pytest.mark.parametrize(("above", "below"), [(0, 0), (1, 0), (1, 1), (3, 2), (6, 7)])
def test_strips_see_the_rows_of_their_neighbours(above, below):
    (features,) = random_arrays((2, 40, 8, 32))
    packed = pack(features, channels=32)
    rows = packed.array.shape[1]
    strips = len(packed.array) // 2
    wider = np.pad(features, ((0, 0), (above, rows * strips - 40 + below), (0, 0), (0, 0)))
    actual = with_neighbouring_rows(packed, above, below)
    for n, of_strip in enumerate(np.asarray(actual)):
        image, strip = divmod(n, strips)
        expected = wider[image, strip * rows : (strip + 1) * rows + above + below]
        np.testing.assert_array_equal(of_strip.reshape(expected.shape), expected)


@pytest.mark.parametrize(("count", "axis"), [(2, 1), (2, 2), (3, 2)])
def test_interleaved_lines_are_taken_apart_again(count, axis):
    arrays = random_arrays(*[(2, 3, 4, 5)] * count)
    array = interleaved(arrays, axis)
    shape = [2, 3, 4, 5]
    shape[axis] *= count
    assert jnp.array_equal(array, jnp.stack(arrays, axis + 1).reshape(shape))
    for part, expected in zip(taken_apart(array, count, axis), arrays, strict=True):
        assert jnp.array_equal(part, expected)
    check_grads(lambda *arrays: interleaved(arrays, axis), arrays, 1, ["rev"], rtol=1e-2)
    check_grads(lambda array: taken_apart(array, count, axis), [array], 1, ["rev"], rtol=1e-2)
