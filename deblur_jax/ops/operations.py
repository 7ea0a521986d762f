"""The operations that networks are written in, as a table that a backend fills.

Between ``enter`` and ``leave`` feature maps are whatever the backend makes of them. Networks hand
them on to other operations of the same table and never index or reshape them. In the plain table a
map is the NHWC array itself; the operations of every table take such arrays too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp

from deblur_jax.ops import convolution as convolutions
from deblur_jax.ops import pooling, recurrence, resize

Features = Any
"""A feature map (b, h, w, c) in the form of the backend: a pytree of arrays."""


def _identity(array: jax.Array) -> jax.Array:
    return array


def _enter(images: jax.Array, *, channels: int | None = None, halvings: int = 0) -> jax.Array:
    del channels, halvings  # of use to backends that pack
    return images


def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    return a + b


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return a * b


def _concatenate(maps: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate(maps, axis=-1)


def _limit(features: jax.Array, limit: float) -> jax.Array:
    return jnp.clip(features, -limit, limit)


def _channel_dropout(features: jax.Array, rate: float, keys: jax.Array) -> jax.Array:
    kept = kept_channels(rate, keys, features.shape[-1])
    return jnp.where(kept[:, None, None], features / (1.0 - rate), 0.0).astype(features.dtype)


def kept_channels(rate: float, keys: jax.Array, channels: int) -> jax.Array:
    """Which channels dropout keeps: (b,) random keys to (b, channels) of booleans."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (channels,)))(keys)


@dataclasses.dataclass(frozen=True)
class Operations:
    """One function per operation; each default is the plain one.

    Attributes:
        name: of the backend.
        enter: ``(images, *, channels=None, halvings=0)``: images or other NHWC arrays (b, h, w, c)
            to a feature map. A network that halves maps as it doubles their channels says for
            images of each size how many channels its maps of that size have, and how often it
            halves them; the backend may then keep all of them in a form of its own.
        leave: a feature map to an NHWC array.
        enter_stack: a feature map to the form in which this backend keeps it within a stack of 3x3
            convolutions of stride 1. There it is added, rectified and convolved, an even number of
            times, and nothing else.
        leave_stack: back from that form.
        convolution: with bias, stride and perhaps a ReLU; see ``ops.convolution.convolution``.
        convolve_same_each: of one map with several kernels, without bias.
        concat_conv_1x1: of maps at several scales; see ``ops.convolution.concat_conv_1x1``.
        upsampling_conv_4x4: transposed, to twice the size.
        add_bias: one number per channel.
        conv_general_dilated: for ``nnx.Conv`` in networks that keep NHWC arrays.
        add, multiply: of two maps.
        concatenate: maps of one size, by channels.
        relu, tanh: of every value.
        leaky_relu: of every value, with the slope below 0.
        limit: every value to plus or minus a limit.
        channel_dropout: ``(features, rate, keys)``: zeroes whole channels with probability
            ``rate`` and scales the others by 1/(1 - rate); one random key per row of the batch.
        max_pool_2x2: the largest of every cell.
        upsample_caffe_bilinear, upsample_half_pixel_bilinear: to twice the size.
        gated_recurrence: see ``ops.recurrence.gated_recurrence``.
    """

    name: str = "plain"
    enter: Callable[..., Features] = _enter
    leave: Callable[[Features], jax.Array] = _identity
    enter_stack: Callable[[Features], Features] = _identity
    leave_stack: Callable[[Features], Features] = _identity
    convolution: Callable[..., Features] = convolutions.convolution
    convolve_same_each: Callable[..., tuple[Features, ...]] = convolutions.convolve_same_each
    concat_conv_1x1: Callable[..., Features] = convolutions.concat_conv_1x1
    upsampling_conv_4x4: Callable[..., Features] = convolutions.upsampling_conv_4x4
    add_bias: Callable[[Features, jax.Array], Features] = convolutions.add_bias
    conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated
    add: Callable[[Features, Features], Features] = _add
    multiply: Callable[[Features, Features], Features] = _multiply
    concatenate: Callable[[Sequence[Features]], Features] = _concatenate
    relu: Callable[[Features], Features] = jax.nn.relu
    tanh: Callable[[Features], Features] = jnp.tanh
    leaky_relu: Callable[[Features, float], Features] = jax.nn.leaky_relu
    limit: Callable[[Features, float], Features] = _limit
    channel_dropout: Callable[[Features, float, jax.Array], Features] = _channel_dropout
    max_pool_2x2: Callable[[Features], Features] = pooling.max_pool_2x2
    upsample_caffe_bilinear: Callable[[Features], Features] = resize.upsample_caffe_bilinear
    upsample_half_pixel_bilinear: Callable[[Features], Features] = (
        resize.upsample_half_pixel_bilinear
    )
    gated_recurrence: Callable[..., Features] = recurrence.gated_recurrence

    def on_arrays(self) -> Self:
        """The same operations for maps that stay NHWC arrays, which may be indexed."""
        return dataclasses.replace(
            self,
            enter=_enter,
            leave=_identity,
            enter_stack=_identity,
            leave_stack=_identity,
        )


PLAIN = Operations()
"""Ordinary ``jax.lax``: it can be differentiated, mapped, sharded and exported in every way."""
