import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.ops.cpu.convolution import (
    conv_general_dilated,
    convolve_same,
    convolve_same_each,
)


def plain_conv(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@settings(max_examples=12)
@given(
    b=st.integers(1, 2),
    h=st.integers(1, 9),
    w=st.sampled_from([1, 7, 130]),
    channels=st.sampled_from([(3, 8), (8, 3), (8, 9), (16, 8), (64, 16), (40, 2)]),
    size=st.sampled_from([1, 2, 3, 5, 9, 11]),
)
def test_convolve_same_and_its_gradients_are_the_plain_convolutions(b, h, w, channels, size):
    i, o = channels
    inputs, kernel, cotangents = random_arrays((b, h, w, i), (size, size, i, o), (b, h, w, o))
    kernel /= size * np.sqrt(i, dtype=np.float32)
    result, pull_back = jax.vjp(convolve_same, inputs, kernel)
    expected, plain_pull_back = jax.vjp(plain_conv, inputs, kernel)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    for actual, plain in zip(pull_back(cotangents), plain_pull_back(cotangents), strict=True):
        np.testing.assert_allclose(actual, plain, atol=2e-5 * np.abs(plain).max())


def test_the_kernels_gradient_sums_in_float32_and_has_the_kernels_dtype():
    inputs, kernel, cotangents = random_arrays((1, 64, 64, 8), (3, 3, 8, 8), (1, 64, 64, 8))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (inputs, kernel, cotangents)]
    gradient = jax.vjp(convolve_same, *half[:2])[1](half[2])[1]
    exact = jax.vjp(plain_conv, *(x.astype(jnp.float32) for x in half[:2]))[1](
        half[2].astype(jnp.float32)
    )[1]
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient, exact, atol=2**-8 * np.abs(exact).max())


def test_convolve_same_can_be_differentiated_twice():
    inputs, kernel = random_arrays((1, 4, 5, 8), (3, 3, 8, 8))

    def slope(conv):
        return jax.grad(lambda k: (jax.grad(lambda k: (conv(inputs, k) ** 3).sum())(k) ** 2).sum())

    plain = slope(plain_conv)(kernel)
    np.testing.assert_allclose(slope(convolve_same)(kernel), plain, atol=1e-4 * np.abs(plain).max())


def test_convolutions_of_one_input_are_each_its_own():
    inputs, first, second = random_arrays((2, 5, 6, 8), (3, 3, 8, 4), (3, 3, 8, 7))
    cotangents = tuple(random_arrays((2, 5, 6, 4), (2, 5, 6, 7)))
    results, pull_back = jax.vjp(lambda x, *k: convolve_same_each(x, k), inputs, first, second)
    expected, plain_pull_back = jax.vjp(
        lambda x, *kernels: tuple(plain_conv(x, k) for k in kernels), inputs, first, second
    )
    for actual, plain in zip(
        [*results, *pull_back(cotangents)], [*expected, *plain_pull_back(cotangents)], strict=True
    ):
        np.testing.assert_allclose(actual, plain, atol=1e-4)


def test_few_outputs_go_by_rows():
    inputs, kernel = random_arrays((1, 8, 8, 24), (3, 3, 24, 2))
    assert "tensor<1x3x24x6xf32>" in jax.jit(convolve_same).lower(inputs, kernel).as_text()


def test_convolutions_of_one_input_are_one():
    inputs, first, second = random_arrays((1, 8, 8, 8), (3, 3, 8, 4), (3, 3, 8, 7))
    program = jax.jit(convolve_same_each).lower(inputs, (first, second)).as_text()
    assert program.count("stablehlo.convolution") + program.count("__onednn$convolution") == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": 2},
        {"kernel_dilation": 2},
        {"input_dilation": 2, "padding": 1},
        {"feature_group_count": 4},
        {"padding": "VALID"},
        {"padding": "CIRCULAR"},
        {"padding": 2},
        {"use_bias": False},
        {"precision": "highest"},
        {"dtype": jnp.bfloat16},
    ],
    ids=str,
)
def test_whatever_nnx_conv_takes_is_passed_on(options):
    inputs, kernel, bias = random_arrays((2, 9, 8, 8), (3, 3, 8, 4), (4,))
    kernel = kernel[:, :, : 8 // options.get("feature_group_count", 1)]

    def result_and_gradients(**more):
        conv = nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(0), **options, **more)
        graphdef, params = nnx.split(conv)
        params["kernel"][...] = jnp.asarray(kernel)
        if "bias" in params:
            params["bias"][...] = jnp.asarray(bias)

        def loss(params, inputs):
            return jnp.sum(nnx.merge(graphdef, params)(inputs).astype(jnp.float32) ** 2)

        return nnx.merge(graphdef, params)(inputs), jax.grad(loss, argnums=(0, 1))(params, inputs)

    ours = result_and_gradients(conv_general_dilated=conv_general_dilated)
    tolerance = 2e-2 if "dtype" in options else 1e-4
    for a, b in zip(*map(jax.tree.leaves, (ours, result_and_gradients())), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1))


def test_one_dimension_and_three_are_passed_on():
    for size in ((3,), (3, 3, 3)):
        inputs = random_arrays((1, *(5,) * len(size), 2))[0]
        convs = [
            nnx.Conv(2, 3, size, rngs=nnx.Rngs(0), conv_general_dilated=function)
            for function in (conv_general_dilated, jax.lax.conv_general_dilated)
        ]
        np.testing.assert_allclose(*(conv(inputs) for conv in convs), atol=1e-6)
