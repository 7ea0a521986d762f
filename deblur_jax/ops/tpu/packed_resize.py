"""Packed feature maps made half as large by pooling, and twice as large by interpolation.

Rows are other rows of the same arrays. Columns that share a position are other lanes, and lanes are
moved by a product with ones and zeros, or with the weights of the interpolation: exactly, at the
highest precision.
"""

import dataclasses

import jax
import jax.numpy as jnp

from deblur_jax.ops.tpu.packed import (
    Packed,
    interleaved,
    taken_apart,
    with_neighbouring_rows,
    zero_beyond,
)
from deblur_jax.ops.tpu.packed_convolution import Reads, convolve_lanes, resized_columns

_EXACT = jax.lax.Precision.HIGHEST


def max_pool_packed(packed: Packed) -> Packed:
    """``ops.pooling.max_pool_2x2``."""
    columns = max(1, packed.columns // 2)
    if packed.columns == 1:
        left, right = taken_apart(packed.array, 2, axis=2)
    else:
        halved = dataclasses.replace(packed, width=packed.width // 2, columns=columns)
        left = _mix_columns(packed, halved, lambda y: [(2 * y, 0)], (1.0,))
        right = _mix_columns(packed, halved, lambda y: [(2 * y + 1, 0)], (1.0,))
    upper, lower = taken_apart(_first_of_largest(left, right), 2, axis=1)
    return dataclasses.replace(
        packed,
        array=_first_of_largest(upper, lower),
        height=packed.height // 2,
        width=packed.width // 2,
        columns=columns,
    )


def upsample_caffe_bilinear_packed(packed: Packed) -> Packed:
    """``ops.resize.upsample_caffe_bilinear``."""
    x = packed.array
    rows = _of_rows(packed, x, 0.5 * (x + with_neighbouring_rows(packed, 0, 1)[:, 1:]))

    def reads(y: int) -> list[tuple[int, int]]:
        return [(y // 2, 1), (y // 2 + 1, 1)] if y % 2 else [(y // 2, 0)]

    return zero_beyond(_doubled_columns(rows, reads, (1.0, 0.5)))


def upsample_half_pixel_bilinear_packed(packed: Packed) -> Packed:
    """``ops.resize.upsample_half_pixel_bilinear``."""
    wider, near = with_neighbouring_rows(packed, 1, 1), 0.75 * packed.array
    rows = _of_rows(packed, near + 0.25 * wider[:, :-2], near + 0.25 * wider[:, 2:])

    def reads(y: int) -> list[tuple[int, int]]:
        return [(y // 2, 0), (y // 2 + (1 if y % 2 else -1), 1)]

    # Beyond the border lie zeros here, where the border's own value is meant.
    return zero_beyond(_doubled_columns(rows, reads, (0.75, 0.25)), at_border=4 / 3)


def _first_of_largest(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of equal values the first one, which alone gets the gradient."""
    return jnp.where(a >= b, a, b)


def _of_rows(packed: Packed, even: jax.Array, odd: jax.Array) -> Packed:
    """A map of twice the height."""
    return dataclasses.replace(
        packed, array=interleaved([even, odd], axis=1), height=2 * packed.height
    )


def _doubled_columns(packed: Packed, reads: Reads, weights: tuple[float, float]) -> Packed:
    """A map of twice the width, with any values beyond the image; as ``_mix_columns``."""
    columns = resized_columns(packed, 2, packed.channels)
    doubled = dataclasses.replace(packed, width=2 * packed.width, columns=columns)
    if columns > 1:
        return dataclasses.replace(doubled, array=_mix_columns(packed, doubled, reads, weights))
    positions = packed.array.shape[2]
    wider = jnp.pad(packed.array, ((0, 0), (0, 0), (1, 1), (0, 0)))

    def column(y: int) -> jax.Array:
        parts = [weights[i] * wider[:, :, 1 + x : 1 + x + positions] for x, i in reads(y)]
        return sum(parts[1:], parts[0])

    return dataclasses.replace(doubled, array=interleaved([column(0), column(1)], axis=2))


def _mix_columns(
    packed: Packed, grid: Packed, reads: Reads, weights: tuple[float, ...]
) -> jax.Array:
    """Columns of an output as weighted sums of columns, with any values beyond the image.

    Args:
        packed: a map.
        grid: the form of the output, but for its array.
        reads: from a column of the output, which columns it reads, each by the place of its weight.
        weights: of the columns.
    """
    dtype = packed.array.dtype
    of_channels = jnp.eye(packed.channels, dtype=dtype)
    kernel = jnp.asarray(weights, dtype)[None, :, None, None] * of_channels
    return convolve_lanes(packed.array, kernel, reads, packed, grid, precision=_EXACT)
