"""Packed stacks against plain convolutions: values, gradients, and what lies beyond the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deblur_jax.models import ComputeConfig, MIMOUNetConfig, build_model
from deblur_jax.ops.convolution import convolution
from deblur_jax.ops.operations import PLAIN
from deblur_jax.ops.tpu import TPU
from deblur_jax.ops.tpu.packed import Packed, convolve_3x3, pack, unpack

CHANNELS = st.sampled_from([1, 3, 8, 20, 32, 48, 64, 128])
SIZES = st.integers(1, 41)


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def block(ops, x, weights):
    """A residual block, as MIMO-UNet has it."""
    kernel_in, bias_in, kernel_out, bias_out = weights
    inner = ops.relu(ops.convolution(x, kernel_in, bias_in, precision="highest"))
    return ops.add(x, ops.convolution(inner, kernel_out, bias_out, precision="highest"))


def plain_block(x, weights):
    return block(PLAIN, x, weights)


def packed_block(x, weights):
    return TPU.leave_stack(block(TPU, TPU.enter_stack(x), weights))


def weights_of(channels):
    kernels = random_arrays(*[(3, 3, channels, channels)] * 2)
    biases = random_arrays(*[(channels,)] * 2)
    scaled = [kernel / np.sqrt(9 * channels) for kernel in kernels]
    return scaled[0], biases[0], scaled[1], biases[1]


@settings(max_examples=10)
@given(st.integers(1, 3), SIZES, SIZES, CHANNELS)
@example(1, 37, 45, 32)
@example(2, 16, 16, 64)
@example(1, 1, 1, 32)
def test_a_map_is_packed_and_unpacked_as_it_was(b, h, w, c):
    (features,) = random_arrays((b, h, w, c))
    np.testing.assert_array_equal(unpack(pack(features)), features)


@settings(max_examples=6)
@given(st.integers(1, 3), SIZES, SIZES, CHANNELS)
@example(1, 37, 45, 32)
@example(3, 20, 17, 64)
@example(1, 16, 4, 128)
def test_one_and_two_convolutions_are_the_plain_ones(b, h, w, c):
    (features,) = random_arrays((b, h, w, c))
    kernel, bias, *_ = weights_of(c)
    expected, packed = features, pack(features)
    for _ in range(2):
        expected = convolution(expected, kernel, bias, precision="highest")
        packed = convolve_3x3(packed, kernel, bias, precision="highest")
        atol = 1e-5 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(unpack(packed), expected, atol=atol)
        assert_zero_beyond(packed)
    assert not packed.shifted


def assert_zero_beyond(packed: Packed):
    """All the values that ``unpack`` leaves out."""
    inside = jnp.sum(jnp.square(unpack(packed)))
    np.testing.assert_allclose(jnp.sum(jnp.square(packed.array)), inside, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(2, 32, 32, 32), (1, 19, 26, 32), (1, 17, 9, 64), (1, 40, 5, 128)]
)
def test_gradients_of_a_block_are_the_plain_ones(shape):
    features, seeds = random_arrays(shape, shape)
    weights = weights_of(shape[-1])

    def gradients(of_block):
        return jax.grad(lambda x, w: jnp.sum(seeds * jnp.tanh(of_block(x, w))), argnums=(0, 1))(
            features, weights
        )

    for actual, expected in zip(
        *(jax.tree.leaves(gradients(of_block)) for of_block in (packed_block, plain_block)),
        strict=True,
    ):
        atol = 1e-5 * float(jnp.abs(expected).max())
        np.testing.assert_allclose(actual, expected, atol=atol)


@pytest.mark.parametrize(("b", "h"), [(1, 720), (4, 256), (1, 97), (2, 64), (64, 64), (1, 6)])
def test_strips_fill_a_batch_and_waste_few_rows(b, h):
    packed = pack(jnp.zeros((b, h, 4, 32)))
    n, rows, *_ = packed.array.shape
    assert n == b * packed.strips
    assert packed.strips == 1 or n <= 2 * 32
    assert rows * packed.strips - h <= 0.1 * h


def test_a_stack_refuses_what_it_does_not_hold():
    packed = pack(jnp.zeros((1, 8, 8, 32)))
    with pytest.raises(ValueError, match="a stack holds 3x3 convolutions of stride 1"):
        TPU.convolution(packed, jnp.zeros((1, 1, 32, 32)), jnp.zeros(32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "dtype"),
    [((36, 20), "float32"), ((32, 48), "float32"), ((32, 48), "bfloat16")],
)
def test_the_network_computes_what_the_plain_one_does(size, dtype):
    """Of channels that are packed by 4, by 2, and not at all; with gradients of a smooth loss.

    In bfloat16 the outputs only: its gradients are sums of many rounded numbers in any form.
    """
    (blurred,) = random_arrays((1, *size, 3))
    config = MIMOUNetConfig(base_channels=32, num_res_blocks=1)

    def results(backend):
        compute = ComputeConfig(precision="highest", backend=backend, dtype=dtype)
        graphdef, params = nnx.split(build_model(config, rngs=nnx.Rngs(0), compute=compute))

        def loss(params):
            outputs = nnx.merge(graphdef, params)(blurred)
            return sum(jnp.sum(jnp.sin(output)) for output in outputs), outputs

        gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
        return (gradients, outputs) if dtype == "float32" else outputs

    limit = 1e-5 if dtype == "float32" else 0.05
    for actual, expected in zip(
        *(jax.tree.leaves(results(backend)) for backend in ("tpu_interpreted", "plain")),
        strict=True,
    ):
        difference = np.abs(np.asarray(actual) - np.asarray(expected)).max()
        assert difference <= limit * np.abs(np.asarray(expected)).max()
