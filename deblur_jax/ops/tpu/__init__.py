"""What a TPU wants otherwise: packed feature maps, and the recurrence as a Pallas kernel.

This backend has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deblur_jax.ops.operations import PLAIN, Features, kept_channels
from deblur_jax.ops.pooling import max_pool_2x2_by_windows
from deblur_jax.ops.tpu.packed import Packed, in_each_column, pack, unpack
from deblur_jax.ops.tpu.packed_convolution import (
    add_bias_packed,
    concat_conv_packed,
    concatenate_packed,
    convolve_each_packed,
    convolve_packed,
    upsampling_conv_packed,
)
from deblur_jax.ops.tpu.packed_recurrence import make_packed_recurrence
from deblur_jax.ops.tpu.packed_resize import (
    max_pool_packed,
    upsample_caffe_bilinear_packed,
    upsample_half_pixel_bilinear_packed,
)
from deblur_jax.ops.tpu.recurrence import make_recurrence


def _enter(images: jax.Array, *, channels: int | None = None, halvings: int = 0) -> Features:
    return images if channels is None else pack(images, channels=channels, halvings=halvings)


def _leave(features: Features) -> jax.Array:
    return unpack(features) if isinstance(features, Packed) else features


def _enter_stack(features: Features) -> Features:
    if isinstance(features, Packed):
        return dataclasses.replace(features, in_stack=True)
    return features


def _leave_stack(features: Features) -> Features:
    if isinstance(features, Packed):
        return dataclasses.replace(features, in_stack=False)
    return features


def _either(
    of_packed: Callable[..., Features], of_arrays: Callable[..., Features]
) -> Callable[..., Features]:
    """The one or the other, as the first argument is: a map, or a sequence of maps."""

    def operation(features: Features, *arguments: jax.Array, **options: object) -> Features:
        first = features[0] if isinstance(features, tuple | list) else features
        chosen = of_packed if isinstance(first, Packed) else of_arrays
        return chosen(features, *arguments, **options)

    return operation


def _of_values(operation: Callable[..., jax.Array]) -> Callable[..., Features]:
    """An operation on every value, which leaves zeros as they are."""

    def on_maps(features: Features, *others: Features | float) -> Features:
        if not isinstance(features, Packed):
            return operation(features, *others)
        values = [other.array if isinstance(other, Packed) else other for other in others]
        return dataclasses.replace(features, array=operation(features.array, *values))

    return on_maps


def _convolution(
    features: Features, kernel: jax.Array, bias: jax.Array, *, relu: bool = False, **options: Any
) -> Features:
    linear = _either(convolve_packed, PLAIN.convolution)(features, kernel, bias, **options)
    return _of_values(PLAIN.relu)(linear) if relu else linear


def _channel_dropout(packed: Packed, rate: float, keys: jax.Array) -> Packed:
    kept = kept_channels(rate, keys, packed.channels)
    strips = len(packed.array) // len(kept)
    of_lanes = in_each_column(jnp.repeat(kept, strips, axis=0), packed.columns)
    array = jnp.where(of_lanes[:, None, None], packed.array / (1.0 - rate), 0.0)
    return dataclasses.replace(packed, array=array.astype(packed.array.dtype))


def _recurrence(*, interpret: bool) -> Callable[..., Features]:
    of_arrays = make_recurrence(interpret=interpret)
    return _either(make_packed_recurrence(of_arrays, interpret=interpret), of_arrays)


TPU = dataclasses.replace(
    PLAIN,
    name="tpu",
    enter=_enter,
    leave=_leave,
    enter_stack=_enter_stack,
    leave_stack=_leave_stack,
    convolution=_convolution,
    convolve_same_each=_either(convolve_each_packed, PLAIN.convolve_same_each),
    concat_conv_1x1=_either(concat_conv_packed, PLAIN.concat_conv_1x1),
    upsampling_conv_4x4=_either(upsampling_conv_packed, PLAIN.upsampling_conv_4x4),
    add_bias=_either(add_bias_packed, PLAIN.add_bias),
    concatenate=_either(concatenate_packed, PLAIN.concatenate),
    add=_of_values(PLAIN.add),
    multiply=_of_values(PLAIN.multiply),
    relu=_of_values(PLAIN.relu),
    tanh=_of_values(PLAIN.tanh),
    leaky_relu=_of_values(PLAIN.leaky_relu),
    limit=_of_values(PLAIN.limit),
    channel_dropout=_either(_channel_dropout, PLAIN.channel_dropout),
    max_pool_2x2=_either(max_pool_packed, max_pool_2x2_by_windows),
    upsample_caffe_bilinear=_either(upsample_caffe_bilinear_packed, PLAIN.upsample_caffe_bilinear),
    upsample_half_pixel_bilinear=_either(
        upsample_half_pixel_bilinear_packed, PLAIN.upsample_half_pixel_bilinear
    ),
    gated_recurrence=_recurrence(interpret=False),
)
TPU_INTERPRETED = dataclasses.replace(
    TPU, name="tpu_interpreted", gated_recurrence=_recurrence(interpret=True)
)
"""The same for machines without a TPU: its kernels are run step by step, slowly, to test them."""
