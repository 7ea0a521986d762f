import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.ops.resize import (
    depth_to_space,
    downsample_bilinear,
    downsample_nearest,
    upsample_caffe_bilinear,
    upsample_half_pixel_bilinear,
    upsample_nearest,
)
from tests import svrnn_golden


def random_image(h, w, c=2):
    return np.random.default_rng(0).random((2, h, w, c), np.float32)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([2, 4]))
def test_nearest_down_undoes_nearest_up(h, w, factor):
    image = random_image(h, w)
    enlarged = upsample_nearest(image, factor)
    assert enlarged.shape == (2, h * factor, w * factor, 2)
    np.testing.assert_array_equal(enlarged, image.repeat(factor, 1).repeat(factor, 2))
    np.testing.assert_array_equal(downsample_nearest(enlarged, factor), image)


def test_nearest_downsampling_keeps_the_first_pixel_of_each_cell():
    image = random_image(6, 10)
    np.testing.assert_array_equal(downsample_nearest(image, 2), image[:, [0, 2, 4]][:, :, ::2])


def test_bilinear_takes_the_mean_of_the_centre_2x2():
    image = random_image(8, 12)
    half, quarter = downsample_bilinear(image, 2), downsample_bilinear(image, 4)
    np.testing.assert_allclose(half[:, 1, 2], image[:, 2:4, 4:6].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(quarter[:, 1, 2], image[:, 5:7, 9:11].mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize(("size", "factor"), [((6, 8), 4), ((8, 8), 3), ((7, 8), 2)])
def test_bilinear_refuses_sizes_it_would_have_to_guess(size, factor):
    with pytest.raises(ValueError, match="cannot shrink"):
        downsample_bilinear(random_image(*size), factor)


def test_depth_to_space_puts_the_row_offset_first():
    cells = np.arange(4.0).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(depth_to_space(cells, 2)[0, :, :, 0], [[0, 1], [2, 3]])


def test_caffes_bilinear_equals_the_official_layer():
    recorded = svrnn_golden.recorded("resize")
    x, y, dy, dx = (recorded[k].transpose(0, 2, 3, 1) for k in ("x", "y", "dy", "dx"))
    enlarged, pull_back = jax.vjp(upsample_caffe_bilinear, x)
    np.testing.assert_allclose(enlarged, y, atol=1e-6)
    np.testing.assert_allclose(pull_back(dy)[0], dx, atol=1e-6)


def test_half_pixel_bilinear_keeps_a_ramp_inside():
    ramp = np.arange(6.0, dtype=np.float32).reshape(1, 6, 1, 1)
    enlarged = np.asarray(upsample_half_pixel_bilinear(ramp))
    assert enlarged.shape == (1, 12, 2, 1)
    np.testing.assert_allclose(enlarged[0, 1:-1, 0, 0], np.arange(10) / 2 + 0.25, rtol=1e-6)
