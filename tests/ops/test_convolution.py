import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.ops import convolution as plain
from deblur_jax.ops.convolution import concat_conv_1x1
from deblur_jax.ops.cpu import convolution as cpu


def plain_conv(inputs, kernel, padding="SAME"):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("form", [plain, cpu], ids=["plain", "cpu"])
def test_a_convolution_pads_with_zeros_and_adds_its_bias(form, stride):
    features, kernel, bias = random_arrays((2, 6, 8, 3), (5, 5, 3, 4), (4,))
    actual = form.convolution(features, kernel, bias, stride=stride)
    expected = plain_conv(np.pad(features, ((0, 0), (2, 2), (2, 2), (0, 0))), kernel, "VALID")
    np.testing.assert_allclose(actual, expected[:, ::stride, ::stride] + bias, atol=1e-5)


@pytest.mark.parametrize("form", [plain, cpu], ids=["plain", "cpu"])
def test_a_kernel_that_is_not_square_is_refused(form):
    with pytest.raises(ValueError, match="expected a square kernel"):
        form.convolve_same(np.zeros((1, 4, 4, 2)), np.zeros((3, 1, 2, 2)))


def transposed_convolution(features, kernel):
    """PyTorch's definition for kernel 4, stride 2, padding 1: every input adds a 4x4 stamp."""
    b, h, w, _ = features.shape
    padded = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for row in range(h):
        for column in range(w):
            stamp = np.einsum("bi,yxio->byxo", features[:, row, column], kernel)
            padded[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return padded[:, 1:-1, 1:-1]


@settings(max_examples=8)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)
)
def test_upsampling_conv_is_the_transposed_convolution(b, h, w, i, o):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((b, h, w, i), np.float32)
    kernel, bias = rng.standard_normal((4, 4, i, o), np.float32), rng.random(o, np.float32)
    expected = transposed_convolution(features, kernel) + bias
    for form in (plain, cpu):
        actual = form.upsampling_conv_4x4(features, kernel, bias)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(1, 2, 4), (0.5, 1, 2), (1, 1, 1)])
def test_concat_conv_equals_resizing_concatenating_convolving(scales):
    rng = np.random.default_rng(0)
    channels, out_size = (2, 3, 5), 8
    maps = [
        rng.standard_normal((2, int(out_size / s), int(out_size / s), c), np.float32)
        for s, c in zip(scales, channels, strict=True)
    ]
    kernel = rng.standard_normal((1, 1, sum(channels), 4), np.float32)
    index = np.arange(out_size)
    resized = [
        m[:, (index / s).astype(int)][:, :, (index / s).astype(int)]
        for m, s in zip(maps, scales, strict=True)
    ]
    bias = rng.random(4, np.float32)
    expected = np.concatenate(resized, -1) @ kernel[0, 0] + bias
    for form in (plain, cpu):
        actual = form.concat_conv_1x1(maps, kernel, bias, scales=scales)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_concat_conv_never_forms_the_concatenation():
    maps = [np.zeros((1, 16 // s, 16 // s, 8), np.float32) for s in (1, 2, 4)]
    kernel = np.zeros((1, 1, 24, 8), np.float32)
    bias = np.zeros(8, np.float32)
    jaxpr = jax.make_jaxpr(lambda m, k: concat_conv_1x1(m, k, bias, scales=(1, 2, 4)))(maps, kernel)
    assert "concatenate" not in str(jaxpr)
    assert max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars) <= 16 * 16 * 8


def test_concat_conv_refuses_maps_that_do_not_fill_the_kernel():
    with pytest.raises(ValueError, match="maps have 2 channels, the kernel 3"):
        concat_conv_1x1([np.zeros((1, 4, 4, 2))], np.zeros((1, 1, 3, 1)), np.zeros(1), scales=(1,))
