"""What a TPU wants otherwise: packed feature maps, and the recurrence as a Pallas kernel.

The recurrence has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from deblur_jax.ops.operations import PLAIN, Features, kept_channels
from deblur_jax.ops.pooling import max_pool_2x2_by_windows
from deblur_jax.ops.tpu.packed import Packed, pack, unpack
from deblur_jax.ops.tpu.packed_convolution import (
    concat_conv_packed,
    convolve_packed,
    upsampling_conv_packed,
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
    of_packed: Callable[..., Packed], of_arrays: Callable[..., jax.Array]
) -> Callable[..., Features]:
    """The one or the other, as the first argument is: a map, or a sequence of maps."""

    def operation(features: Features, *arguments: jax.Array, **options: object) -> Features:
        first = features[0] if isinstance(features, tuple | list) else features
        chosen = of_packed if isinstance(first, Packed) else of_arrays
        return chosen(features, *arguments, **options)

    return operation


def _add(a: Features, b: Features) -> Features:
    return jax.tree.map(jax.lax.add, a, b)


def _multiply(a: Features, b: Features) -> Features:
    return jax.tree.map(jax.lax.mul, a, b)


def _relu(features: Features) -> Features:
    return jax.tree.map(jax.nn.relu, features)


def _channel_dropout(packed: Packed, rate: float, keys: jax.Array) -> Packed:
    kept = kept_channels(rate, keys, packed.channels)
    strips = len(packed.array) // len(kept)
    of_lanes = jnp.tile(jnp.repeat(kept, strips, axis=0), packed.columns)
    array = jnp.where(of_lanes[:, None, None], packed.array / (1.0 - rate), 0.0)
    return dataclasses.replace(packed, array=array.astype(packed.array.dtype))


TPU = dataclasses.replace(
    PLAIN,
    name="tpu",
    enter=_enter,
    leave=_leave,
    enter_stack=_enter_stack,
    leave_stack=_leave_stack,
    convolution=_either(convolve_packed, PLAIN.convolution),
    concat_conv_1x1=_either(concat_conv_packed, PLAIN.concat_conv_1x1),
    upsampling_conv_4x4=_either(upsampling_conv_packed, PLAIN.upsampling_conv_4x4),
    channel_dropout=_either(_channel_dropout, PLAIN.channel_dropout),
    add=_add,
    multiply=_multiply,
    relu=_relu,
    max_pool_2x2=max_pool_2x2_by_windows,
    gated_recurrence=make_recurrence(interpret=False),
)
TPU_INTERPRETED = dataclasses.replace(
    TPU, name="tpu_interpreted", gated_recurrence=make_recurrence(interpret=True)
)
"""The same for machines without a TPU: its kernels are run step by step, slowly, to test them."""
