"""Convolutions in the form in which they cost least, on NHWC arrays with HWIO kernels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from deblur_jax.ops.resize import depth_to_space, downsample_nearest, upsample_nearest

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def concat_conv_1x1(
    maps: Sequence[jax.Array],
    kernel: jax.Array,
    *,
    scales: Sequence[int | float],
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """A 1x1 convolution of feature maps resized (nearest) to one size and concatenated.

    A 1x1 convolution commutes with nearest resizing, so each map is convolved with its rows of the
    kernel at the smaller of the two sizes, and the products are summed. The concatenated tensor,
    MIMO-UNet's largest, never exists; the result is the same up to rounding.

    Args:
        maps: arrays (b, h_k, w_k, c_k).
        kernel: (1, 1, sum of c_k, o), its rows in the order of the maps.
        scales: for each map the factor that brings it to the output size: 1, 2, 4, or 0.5.

    Returns:
        (b, h, w, o), without bias.
    """
    total = None
    first_row = 0
    for feature, scale in zip(maps, scales, strict=True):
        rows = kernel[:, :, first_row : first_row + feature.shape[-1], :]
        first_row += feature.shape[-1]
        if scale < 1:
            feature = downsample_nearest(feature, round(1 / scale))
        product = jax.lax.conv_general_dilated(
            feature, rows, (1, 1), "VALID", dimension_numbers=_LAYOUT, precision=precision
        )
        if scale > 1:
            product = upsample_nearest(product, int(scale))
        total = product if total is None else total + product
    if first_row != kernel.shape[2]:
        raise ValueError(f"maps have {first_row} channels, the kernel {kernel.shape[2]}")
    return total


def upsampling_conv_4x4(
    features: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """A transposed convolution with kernel 4, stride 2, padding 1, as PyTorch defines it.

    Each of the four output phases sees a 2x2 neighbourhood of the input, so the whole is one 2x2
    convolution to four times the channels, followed by depth-to-space: no product with an inserted
    zero, and no wasted one.

    Args:
        features: (b, h, w, i).
        kernel: (4, 4, i, o); tap k of an axis contributes to output 2·t + k - 1 from input t.

    Returns:
        (b, 2h, 2w, o), without bias.
    """
    _, _, i, o = kernel.shape
    # Output 2t+p-1 reads inputs t-1 and t through taps p+2 and p, for phase p in (0, 1).
    taps = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1, :]
    phases = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, i, 4 * o)
    padded = jax.lax.conv_general_dilated(
        features, phases, (1, 1), [(1, 1), (1, 1)], dimension_numbers=_LAYOUT, precision=precision
    )
    return depth_to_space(padded, 2)[:, 1:-1, 1:-1, :]


def add_bias(features: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds one number a channel: (b, h, w, c) + (c,), in the dtype of the features."""
    return features + jnp.asarray(bias, features.dtype)
