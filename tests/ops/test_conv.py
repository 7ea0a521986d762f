import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.ops.conv import (
    concat_conv_1x1,
    conv_same,
    conv_same_each,
    upsampling_conv_4x4,
)


def plain_conv(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@given(
    b=st.integers(1, 2),
    h=st.integers(1, 9),
    w=st.sampled_from([1, 7, 130]),
    channels=st.sampled_from([(3, 8), (8, 3), (8, 9), (16, 8), (64, 16), (40, 2)]),
    size=st.sampled_from([1, 2, 3, 5, 9, 11]),
)
def test_conv_same_and_its_gradients_are_the_plain_convolutions(b, h, w, channels, size):
    i, o = channels
    inputs, kernel, cotangents = random_arrays((b, h, w, i), (size, size, i, o), (b, h, w, o))
    kernel /= size * np.sqrt(i, dtype=np.float32)
    result, pull_back = jax.vjp(conv_same, inputs, kernel)
    expected, plain_pull_back = jax.vjp(plain_conv, inputs, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    for actual, plain in zip(pull_back(cotangents), plain_pull_back(cotangents), strict=True):
        np.testing.assert_allclose(actual, plain, atol=2e-5 * np.abs(plain).max())


def test_the_kernels_gradient_sums_in_float32_and_has_the_kernels_dtype():
    inputs, kernel, cotangents = random_arrays((1, 64, 64, 8), (3, 3, 8, 8), (1, 64, 64, 8))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (inputs, kernel, cotangents)]
    gradient = jax.vjp(conv_same, *half[:2])[1](half[2])[1]
    exact = jax.vjp(plain_conv, *(x.astype(jnp.float32) for x in half[:2]))[1](
        half[2].astype(jnp.float32)
    )[1]
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient, exact, atol=2**-8 * np.abs(exact).max())


def test_conv_same_can_be_differentiated_twice():
    inputs, kernel = random_arrays((1, 4, 5, 8), (3, 3, 8, 8))

    def slope(conv):
        return jax.grad(lambda k: (jax.grad(lambda k: (conv(inputs, k) ** 3).sum())(k) ** 2).sum())

    plain = slope(plain_conv)(kernel)
    np.testing.assert_allclose(slope(conv_same)(kernel), plain, atol=1e-4 * np.abs(plain).max())


def test_conv_same_has_one_way_of_differentiation_on_each_platform():
    inputs, kernel = random_arrays((1, 8, 8, 8), (3, 3, 8, 8))
    gradient = jax.jit(jax.grad(lambda k: conv_same(inputs, k).sum()))
    loops = {
        platform: gradient.trace(kernel)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.while")
        for platform in ("cpu", "tpu")
    }
    assert loops == {"cpu": 1, "tpu": 0}


def test_few_outputs_go_by_rows_on_the_cpu_alone():
    inputs, kernel = random_arrays((1, 8, 8, 24), (3, 3, 24, 2))
    conv = jax.jit(conv_same).trace(inputs, kernel)
    by_rows = {
        platform: "tensor<1x3x24x6xf32>" in conv.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    assert by_rows == {"cpu": True, "tpu": False}


def test_convolutions_of_one_input_are_each_its_own():
    inputs, first, second = random_arrays((2, 5, 6, 8), (3, 3, 8, 4), (3, 3, 8, 7))
    cotangents = tuple(random_arrays((2, 5, 6, 4), (2, 5, 6, 7)))
    results, pull_back = jax.vjp(lambda x, *k: conv_same_each(x, k), inputs, first, second)
    expected, plain_pull_back = jax.vjp(
        lambda x, *kernels: tuple(plain_conv(x, k) for k in kernels), inputs, first, second
    )
    for actual, plain in zip(
        [*results, *pull_back(cotangents)], [*expected, *plain_pull_back(cotangents)], strict=True
    ):
        np.testing.assert_allclose(actual, plain, atol=1e-4)


def test_convolutions_of_one_input_are_one_on_the_cpu_alone():
    inputs, first, second = random_arrays((1, 8, 8, 8), (3, 3, 8, 4), (3, 3, 8, 7))
    convs = jax.jit(conv_same_each).trace(inputs, (first, second))
    counted = {
        platform: convs.lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.convolution")
        for platform in ("cpu", "tpu")
    }
    assert counted == {"cpu": 1, "tpu": 2}


def transposed_convolution(features, kernel):
    """PyTorch's definition for kernel 4, stride 2, padding 1: every input adds a 4x4 stamp."""
    b, h, w, _ = features.shape
    padded = np.zeros((b, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for row in range(h):
        for column in range(w):
            stamp = np.einsum("bi,yxio->byxo", features[:, row, column], kernel)
            padded[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return padded[:, 1:-1, 1:-1]


@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)
)
def test_upsampling_conv_is_the_transposed_convolution(b, h, w, i, o):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((b, h, w, i), np.float32)
    kernel = rng.standard_normal((4, 4, i, o), np.float32)
    expected = transposed_convolution(features, kernel)
    np.testing.assert_allclose(upsampling_conv_4x4(features, kernel), expected, atol=1e-5)


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
    expected = np.concatenate(resized, -1) @ kernel[0, 0]
    actual = concat_conv_1x1(maps, kernel, scales=scales)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_concat_conv_never_forms_the_concatenation():
    maps = [np.zeros((1, 16 // s, 16 // s, 8), np.float32) for s in (1, 2, 4)]
    kernel = np.zeros((1, 1, 24, 8), np.float32)
    jaxpr = jax.make_jaxpr(lambda m, k: concat_conv_1x1(m, k, scales=(1, 2, 4)))(maps, kernel)
    assert "concatenate" not in str(jaxpr)
    assert max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars) <= 16 * 16 * 8


def test_concat_conv_refuses_maps_that_do_not_fill_the_kernel():
    with pytest.raises(ValueError, match="maps have 2 channels, the kernel 3"):
        concat_conv_1x1([np.zeros((1, 4, 4, 2))], np.zeros((1, 1, 3, 1)), scales=(1,))
