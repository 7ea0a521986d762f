"""Convolutions of packed feature maps, each one convolution of the packed arrays.

Along the columns every operation here is a table: which lane of which neighbouring position a lane
of the output reads, and through which tap of the kernel. It is the same at every position. A packed
kernel is that table times the plain kernel, with zeros where two columns are no neighbours.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.convolution import LAYOUT
from deblur_jax.ops.tpu.packed import Packed, with_neighbouring_rows, zero_beyond

Reads = Callable[[int], list[tuple[int, int]]]
"""From a column of the output, the columns that it reads, each with its tap."""


def convolve_packed(
    packed: Packed,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> Packed:
    """``ops.convolution.convolution``; within a stack it ends on the other grid.

    Raises:
        ValueError: if the stride does not divide the packed columns; ``pack`` is told how often a
            map will be halved.
    """
    size = len(kernel)
    if packed.columns % stride:
        raise ValueError(f"{packed.columns} packed columns can't be convolved with stride {stride}")
    grid = dataclasses.replace(
        packed,
        height=packed.height // stride,
        width=packed.width // stride,
        columns=packed.columns // stride,
        shifted=packed.in_stack and packed.columns > 1 and not packed.shifted,
    )
    before = (size - 1) // 2
    after = max(0, size - before - stride)
    lanes = _lanes(
        lambda y: [(stride * y + tap - before, tap) for tap in range(size)], size, packed, grid
    )
    rows = with_neighbouring_rows(packed, before, after)
    array = _convolve_columns(rows, kernel, lanes, grid, stride=stride, precision=precision)
    return _biased(array, bias, grid)


def concat_conv_packed(
    maps: Sequence[Packed],
    kernel: jax.Array,
    bias: jax.Array,
    *,
    scales: Sequence[int | float],
    precision: jax.lax.PrecisionLike = None,
) -> Packed:
    """``ops.convolution.concat_conv_1x1``: columns are resized by the packed kernel."""
    first_row = 0
    partial_sums = []
    for packed, scale in zip(maps, scales, strict=True):
        rows = kernel[:, :, first_row : first_row + packed.channels, :]
        first_row += packed.channels
        partial_sums.append(_resized_conv_1x1(packed, rows, scale, precision))
    if not partial_sums or first_row != kernel.shape[2]:
        raise ValueError(f"maps have {first_row} channels, the kernel {kernel.shape[2]}")
    total = partial_sums[0]
    for other in partial_sums[1:]:
        total = dataclasses.replace(total, array=total.array + other.array)
    return _biased(total.array, bias, total)


def upsampling_conv_packed(
    packed: Packed,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Packed:
    """``ops.convolution.upsampling_conv_4x4``."""
    grid = dataclasses.replace(
        packed, height=2 * packed.height, width=2 * packed.width, columns=2 * packed.columns
    )
    lanes = _lanes(
        lambda y: [((y + 1 - tap) // 2, tap) for tap in range(4) if (y + 1 - tap) % 2 == 0],
        4,
        packed,
        grid,
    )
    rows = with_neighbouring_rows(packed, 1, 1)
    # Output row 2t reads rows t - 1 and t through taps 3 and 1, row 2t + 1 rows t and t + 1
    # through taps 2 and 0.
    even = _convolve_columns(rows[:, :-1], kernel[3::-2], lanes, grid, precision=precision)
    odd = _convolve_columns(rows[:, 1:], kernel[2::-2], lanes, grid, precision=precision)
    n, height, positions, width = even.shape
    array = jnp.stack([even, odd], axis=2).reshape(n, 2 * height, positions, width)
    return _biased(array, bias, grid)


class _Lanes(NamedTuple):
    """What each lane of the output reads along the columns.

    Attributes:
        first: the first position that position 0 of the output reads.
        table: (positions read, p of the input, p of the output, taps) of ones and zeros.
    """

    first: int
    table: np.ndarray


def _lanes(reads: Reads, taps: int, packed: Packed, grid: Packed) -> _Lanes:
    found = [
        (*divmod(x + packed.offset, packed.columns), lane, tap)
        for lane in range(grid.columns)
        for x, tap in reads(lane - grid.offset)
    ]
    first = min(position for position, *_ in found)
    last = max(position for position, *_ in found)
    table = np.zeros((last - first + 1, packed.columns, grid.columns, taps), np.float32)
    for position, *rest in found:
        table[(position - first, *rest)] = 1
    return _Lanes(first, table)


def _convolve_columns(
    rows: jax.Array,
    kernel: jax.Array,
    lanes: _Lanes,
    grid: Packed,
    *,
    stride: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """(n, rows, positions, p·i) and (taps, taps, i, o) to the grid's (n, rows, positions, p·o)."""
    read = len(lanes.table)
    after = grid.positions - rows.shape[2] + lanes.first + read - 1
    return jax.lax.conv_general_dilated(
        rows,
        _packed_kernel(kernel, lanes.table),
        (stride, 1),
        ((0, 0), (-lanes.first, after)),
        dimension_numbers=LAYOUT,
        precision=precision,
    )


def _packed_kernel(kernel: jax.Array, table: np.ndarray) -> jax.Array:
    """(y, t, i, o) and (positions, u, v, t) to (y, positions, u·i, v·o)."""
    read, u, v, _ = table.shape
    taps, _, i, o = kernel.shape
    if (read, u, v) == (len(kernel[0]), 1, 1):
        return kernel
    # A product with ones and zeros is exact, and its gradient sums what belongs to each tap.
    exact = jax.lax.Precision.HIGHEST
    spread = jnp.asarray(table, kernel.dtype)
    packed = jnp.einsum("auvt,ytio->yauivo", spread, kernel, precision=exact)
    return packed.reshape(taps, read, u * i, v * o)


def _resized_conv_1x1(
    packed: Packed, kernel: jax.Array, scale: int | float, precision: jax.lax.PrecisionLike
) -> Packed:
    """The 1x1 convolution of a map that is resized by nearest."""
    grid = dataclasses.replace(
        packed,
        height=round(packed.height * scale),
        width=round(packed.width * scale),
        columns=round(packed.columns * scale),
    )
    rows = packed.array
    if scale < 1:
        step = round(1 / scale)
        n, height, positions, width = rows.shape
        rows = jax.lax.slice(rows, (0, 0, 0, 0), rows.shape, (1, step, 1, 1))
        lanes = _lanes(lambda y: [(step * y, 0)], 1, packed, grid)
    else:
        lanes = _lanes(lambda y: [(y // int(scale), 0)], 1, packed, grid)
    array = _convolve_columns(rows, kernel, lanes, grid, precision=precision)
    if scale > 1:
        n, height, positions, width = array.shape
        repeated = jnp.broadcast_to(array[:, :, None], (n, height, int(scale), positions, width))
        array = repeated.reshape(n, height * int(scale), positions, width)
    return dataclasses.replace(grid, array=array)


def _biased(array: jax.Array, bias: jax.Array, grid: Packed) -> Packed:
    of_lanes = jnp.tile(jnp.asarray(bias, array.dtype), grid.columns)
    return zero_beyond(dataclasses.replace(grid, array=array + of_lanes))
