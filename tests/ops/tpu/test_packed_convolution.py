"""Packed operations against the plain ones, at sizes that are multiples and that are not."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deblur_jax.ops.tpu import TPU
from deblur_jax.ops.tpu.packed import pack
from tests.ops.tpu.packing import assert_same, random_arrays, random_kernel

QUARTERS = st.integers(1, 11)
"""Sides at a quarter of the size."""


@settings(max_examples=2)
@given(b=st.integers(1, 2), h=QUARTERS, w=QUARTERS, channels=st.sampled_from([8, 20, 32, 128]))
@example(b=1, h=9, w=11, channels=32)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2), (9, 1)])
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
    ("shape", "strips"),
    [
        ((2, 32, 32, 32), 8),
        ((1, 19, 26, 32), 8),
        ((1, 17, 9, 64), 8),
        ((1, 8, 5, 128), 8),
        ((3, 19, 26, 32), 1),
    ],
)
def test_a_residual_block_in_a_stack_is_the_plain_one(shape, strips, monkeypatch):
    monkeypatch.setattr("deblur_jax.ops.tpu.packed.strips_of", lambda *_: strips)
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


@pytest.mark.parametrize(("size", "stride", "o"), [(3, 1, 256), (3, 2, 128), (5, 1, 100)])
def test_a_convolution_to_many_channels_is_the_plain_one(size, stride, o):
    features, bias = random_arrays((1, 12, 20, 6), (o,))
    assert_same(
        lambda ops, maps, weights: ops.convolution(
            *maps, *weights, stride=stride, precision="highest"
        ),
        [features],
        [{"channels": 32, "halvings": 2}],
        [random_kernel(size, 6, o), bias],
    )


@settings(max_examples=2)
@given(b=st.integers(1, 2), h=QUARTERS, w=QUARTERS, channels=st.sampled_from([8, 64]))
@example(b=1, h=9, w=11, channels=64)
@pytest.mark.parametrize("o", [3, pytest.param(128, marks=pytest.mark.slow)])
def test_a_transposed_convolution_is_the_plain_one(b, h, w, channels, o):
    (features, bias) = random_arrays((b, 2 * h, 2 * w, 6), (o,))
    assert_same(
        lambda ops, maps, weights: ops.upsampling_conv_4x4(*maps, *weights, precision="highest"),
        [features],
        [{"channels": channels, "halvings": 1}],
        [random_kernel(4, 6, o), bias],
    )


@pytest.mark.parametrize(("o", "columns"), [(64, 2), (32, 4), (20, 4), (3, 1)])
def test_a_result_of_fewer_channels_than_lanes_takes_more_columns(o, columns):
    """Up to four, where the map has one column at a position and fills the lanes."""
    features, bias = random_arrays((1, 12, 10, 128), (o,))
    kernel = random_kernel(3, 128, o)
    result = TPU.convolution(pack(features, channels=128), kernel, bias)
    assert result.columns == columns
    two_columns = TPU.convolution(pack(features, channels=64), kernel, bias)
    assert two_columns.columns == 2
    assert_same(
        lambda ops, maps, weights: ops.convolution(*maps, *weights, precision="highest"),
        [features],
        [{"channels": 128, "halvings": 0}],
        [kernel, bias],
    )


@pytest.mark.parametrize(("channels", "o"), [(128, 128), (32, 64), (16, 24)])
def test_outputs_of_several_kernels_are_the_plain_ones(channels, o):
    """Each fills the lanes with one, two or four columns."""
    (features, bias) = random_arrays((1, 10, 18, 6), (o,))

    def convolved(ops, maps, weights):
        *kernels, bias = weights
        first, second = ops.convolve_same_each(*maps, kernels, precision="highest")
        return ops.add(ops.add_bias(first, bias), second)

    kernels = [random_kernel(3, 6, o), random_kernel(3, 6, o)[::-1]]
    form = {"channels": channels, "halvings": 0}
    assert_same(convolved, [features], [form], [*kernels, bias])


@pytest.mark.parametrize(
    "of_maps",
    [[(32, 32), (32, 32)], [(64, 64), (64, 64), (64, 128)], [(16, 20), (8, 12)], [(3, 3), (5, 5)]],
)
def test_maps_are_joined_by_channels(of_maps):
    """Each of so many channels, entered for maps of so many: blocks of lanes, and none."""
    maps = random_arrays(*[(1, 9, 14, channels) for channels, _ in of_maps])
    forms = [{"channels": wanted, "halvings": 0} for _, wanted in of_maps]
    assert_same(lambda ops, maps, _: ops.concatenate(maps), maps, forms)


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
    with pytest.raises(ValueError, match="maps have 128 channels, the kernel 256"):
        TPU.concat_conv_1x1([packed], jnp.zeros((1, 1, 256, 8)), jnp.zeros(8), scales=[1])
