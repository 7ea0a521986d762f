"""Packed operations against the plain ones, at sizes that are multiples and that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deblur_jax.models import ComputeConfig, MIMOUNetConfig, build_model
from deblur_jax.ops.tpu import TPU
from deblur_jax.ops.tpu.packed import pack
from tests.ops.tpu.packing import assert_same, random_arrays, random_kernel

QUARTERS = st.integers(1, 11)
"""Sides at a quarter of the size."""


@settings(max_examples=2)
@given(b=st.integers(1, 2), h=QUARTERS, w=QUARTERS, channels=st.sampled_from([8, 20, 32, 128]))
@example(b=1, h=9, w=11, channels=32)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_is_the_plain_one(b, h, w, channels, size, stride):
    (features, bias) = random_arrays((b, 4 * h, 4 * w, 3), (5,))
    assert_same(
        lambda ops, maps, weights: ops.convolution(
            *maps, *weights, stride=stride, precision="highest"
        ),
        [features],
        [{"channels": channels, "halvings": 2}],
        [random_kernel(size, 3, 5), bias],
    )


@pytest.mark.parametrize(
    "shape", [(2, 32, 32, 32), (1, 19, 26, 32), (1, 17, 9, 64), (1, 8, 5, 128)]
)
def test_a_residual_block_in_a_stack_is_the_plain_one(shape):
    c = shape[-1]
    features, bias_in, bias_out = random_arrays(shape, (c,), (c,))

    def block(ops, maps, weights):
        (x,) = map(ops.enter_stack, maps)
        kernel_in, kernel_out, bias_in, bias_out = weights
        inner = ops.relu(ops.convolution(x, kernel_in, bias_in, precision="highest"))
        x = ops.add(x, ops.convolution(inner, kernel_out, bias_out, precision="highest"))
        return ops.leave_stack(x)

    kernel = random_kernel(3, c, c)
    form = {"channels": c, "halvings": 0}
    assert_same(block, [features], [form], [kernel, kernel[::-1], bias_in, bias_out])


@settings(max_examples=2)
@given(b=st.integers(1, 2), h=QUARTERS, w=QUARTERS, channels=st.sampled_from([8, 32]))
@example(b=1, h=9, w=11, channels=32)
@pytest.mark.parametrize("scales", [(1, 2, 4), (0.5, 1, 2), (1, 1, 1)])
def test_maps_of_several_scales_are_merged_as_in_the_plain_form(b, h, w, channels, scales):
    of_output = 1 if scales[0] == 0.5 else 0
    of_maps = [0 if scales == (1, 1, 1) else k for k in range(3)]
    shapes = [(b, 4 * h >> k, 4 * w >> k, 3 << k) for k in of_maps]
    maps = random_arrays(*shapes)
    rows = sum(shape[-1] for shape in shapes)
    (bias,) = random_arrays((5 << of_output,))
    assert_same(
        lambda ops, maps, weights: ops.concat_conv_1x1(
            maps, *weights, scales=scales, precision="highest"
        ),
        maps,
        [{"channels": channels << k, "halvings": 2 - k} for k in of_maps],
        [random_kernel(1, rows, 5 << of_output), bias],
    )


@settings(max_examples=2)
@given(b=st.integers(1, 2), h=QUARTERS, w=QUARTERS, channels=st.sampled_from([8, 64]))
@example(b=1, h=9, w=11, channels=64)
def test_a_transposed_convolution_is_the_plain_one(b, h, w, channels):
    (features, bias) = random_arrays((b, 2 * h, 2 * w, 6), (3,))
    assert_same(
        lambda ops, maps, weights: ops.upsampling_conv_4x4(*maps, *weights, precision="highest"),
        [features],
        [{"channels": channels, "halvings": 1}],
        [random_kernel(4, 6, 3), bias],
    )


def test_products_and_dropout_are_the_plain_ones():
    a, b = random_arrays((2, 20, 12, 16), (2, 20, 12, 16))
    keys = jax.random.split(jax.random.key(0), 2)
    form = {"channels": 16, "halvings": 2}
    assert_same(
        lambda ops, maps, _: ops.channel_dropout(ops.multiply(*maps), 0.3, keys),
        [a, b],
        [form, form],
    )


def test_what_does_not_fit_is_refused():
    packed = pack(jnp.zeros((1, 8, 8, 128)), channels=128)
    with pytest.raises(ValueError, match="1 packed columns can't be convolved with stride 2"):
        TPU.convolution(packed, jnp.zeros((3, 3, 128, 128)), jnp.zeros(128), stride=2)
    with pytest.raises(ValueError, match="maps have 128 channels, the kernel 256"):
        TPU.concat_conv_1x1([packed], jnp.zeros((1, 1, 256, 8)), jnp.zeros(8), scales=[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "channels", "dtype"),
    [
        ((36, 20), 32, "float32"),
        ((32, 48), 32, "float32"),
        ((32, 48), 12, "float32"),
        ((32, 48), 32, "bfloat16"),
    ],
)
def test_the_network_computes_what_the_plain_one_does(size, channels, dtype):
    """With gradients of a smooth loss, and dropout.

    In bfloat16 the outputs only: its gradients are sums of many rounded numbers in any form.
    """
    (blurred,) = random_arrays((2, *size, 3))
    config = MIMOUNetConfig(base_channels=channels, num_res_blocks=2, dropout_rate=0.3)
    keys = jax.random.split(jax.random.key(0), 2)

    def results(backend):
        compute = ComputeConfig(precision="highest", backend=backend, dtype=dtype)
        graphdef, params = nnx.split(build_model(config, rngs=nnx.Rngs(0), compute=compute))

        def loss(params):
            outputs = nnx.merge(graphdef, params)(blurred, dropout_keys=keys)
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
