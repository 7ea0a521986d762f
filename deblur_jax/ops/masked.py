"""Operations on an image inside a larger array, as if the array ended where the image does.

Networks pad with zeros at the border of an image. Where an array goes on beyond that border, every
feature map must be zero there, and then all that is inside is computed as without the rest. So
images of many sizes can share one compiled program and keep their own results.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deblur_jax.ops.operations import Operations

_WRITE_BEYOND = (
    "convolution",
    "convolve_same_each",
    "concat_conv_1x1",
    "upsampling_conv_4x4",
    "add_bias",
    "conv_general_dilated",
)
"""These make something of zeros, or of what is beyond; the others keep zeros as they are."""


def masked(operations: Operations, mask: jax.Array) -> Operations:
    """A table that keeps feature maps zero beyond an image.

    Args:
        operations: a table.
        mask: (b, H, W, 1), 1 inside the image, 0 elsewhere; the sides of the image, and where it
            begins, are multiples of the network's ``size_multiple``.

    Returns:
        A table for maps of (b, H, W, c) and of all their scales.
    """

    def inside(features: jax.Array) -> jax.Array:
        return features * _at_scale_of(features, mask).astype(features.dtype)

    def kept_inside(operation: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: jax.tree.map(inside, operation(*arguments, **options))

    def upsample_half_pixel_bilinear(features: jax.Array) -> jax.Array:
        # Beyond a border the weights of the neighbours that are there add up to 1.
        weights = operations.upsample_half_pixel_bilinear(_at_scale_of(features, mask))
        doubled = operations.upsample_half_pixel_bilinear(features)
        return inside(doubled / jnp.maximum(weights, 0.25).astype(doubled.dtype))

    replaced: dict[str, Any] = {
        name: kept_inside(getattr(operations, name)) for name in _WRITE_BEYOND
    }
    return dataclasses.replace(
        operations.on_arrays(),  # as the mask is one
        name=f"{operations.name}, masked",
        upsample_half_pixel_bilinear=upsample_half_pixel_bilinear,
        **replaced,
    )


def _at_scale_of(features: jax.Array, mask: jax.Array) -> jax.Array:
    factor = mask.shape[1] // features.shape[1]
    return mask[:, ::factor, ::factor]
