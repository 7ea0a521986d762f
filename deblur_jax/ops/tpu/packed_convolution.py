"""Convolutions of packed feature maps, each one convolution of the packed arrays.

Along the columns every operation here is a table: which lane of which neighbouring position a lane
of the output reads, and through which tap of the kernel. It is the same at every position. A packed
kernel is that table times the plain kernel, with zeros where two columns are no neighbours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.convolution import LAYOUT
from deblur_jax.ops.tpu.packed import (
    LANES,
    Packed,
    by_column,
    columns_of,
    in_each_column,
    in_lanes,
    interleaved,
    with_columns,
    with_neighbouring_rows,
    zero_beyond,
)
from deblur_jax.ops.tpu.strips import SUBLANES
from deblur_jax.runtime.differentiation import naming_the_plain_backend

_FEW_ROWS = 8
"""Of a strip: with no more of them, outside of stacks, the gradient to the input is made of joined
rows. In stacks, which are loops, the compiler's estimates are better without."""
_MOST_COLUMNS_OF_ONE = 4
"""At a position of a result whose input has one column at each."""

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
    """``ops.convolution.convolution``; within a stack it ends on the other grid."""
    return add_bias_packed(_convolve(packed, kernel, stride=stride, precision=precision), bias)


def convolve_each_packed(
    packed: Packed,
    kernels: Sequence[jax.Array],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> tuple[Packed, ...]:
    """``ops.convolution.convolve_same_each``; the outputs of each kernel fill the lanes.

    A convolution that packs more columns than there were multiplies with more zeros. That is less
    than moving its outputs costs. But its gradient is that of one convolution of all outputs, at
    the columns that there were.
    """

    def as_one(packed: Packed, kernels: tuple[jax.Array, ...]) -> tuple[Packed, ...]:
        joint = _convolve(packed, jnp.concatenate(kernels, axis=-1), precision=precision)
        ends = np.cumsum([kernel.shape[-1] for kernel in kernels])[:-1]
        by_columns = by_column(joint.array, joint.columns)
        return tuple(
            with_columns(
                dataclasses.replace(joint, array=in_lanes(own)),
                columns_of(kernel.shape[-1]),
            )
            for own, kernel in zip(jnp.split(by_columns, ends, axis=-1), kernels, strict=True)
        )

    @jax.custom_vjp
    def convolved(packed: Packed, kernels: tuple[jax.Array, ...]) -> tuple[Packed, ...]:
        return tuple(
            _convolve(packed, kernel, columns_of(kernel.shape[-1]), precision=precision)
            for kernel in kernels
        )

    convolved.defvjp(
        lambda *arguments: (convolved(*arguments), arguments),
        lambda arguments, outputs: jax.vjp(as_one, *arguments)[1](outputs),
    )
    with naming_the_plain_backend():
        return tuple(zero_beyond(own) for own in convolved(packed, tuple(kernels)))


def add_bias_packed(packed: Packed, bias: jax.Array) -> Packed:
    """``ops.convolution.add_bias``."""
    each = in_each_column(jnp.asarray(bias, packed.array.dtype), packed.columns)
    with naming_the_plain_backend():
        return zero_beyond(dataclasses.replace(packed, array=_add_to_lanes(packed.array, each)))


@jax.custom_vjp
def _add_to_lanes(array: jax.Array, lanes: jax.Array) -> jax.Array:
    return array + lanes


def _sum_of_lanes(_: None, d_array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient of ``_add_to_lanes``.

    In bfloat16 the sum is a product with ones, which is exact too and takes a quarter of the time.
    """
    if d_array.dtype != jnp.bfloat16:
        return d_array, d_array.sum((0, 1, 2))
    ones = jnp.ones((*d_array.shape[:3], SUBLANES), d_array.dtype)
    sums = jax.lax.conv_general_dilated(
        ones,
        d_array,
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return d_array, sums[0, 0, 0].astype(d_array.dtype)


_add_to_lanes.defvjp(lambda array, lanes: (array + lanes, None), _sum_of_lanes)


def concatenate_packed(maps: Sequence[Packed]) -> Packed:
    """Maps of one size, by channels."""
    columns = min(packed.columns for packed in maps)
    arrays = [with_columns(packed, columns).array for packed in maps]
    whole_blocks = all(packed.channels % max(1, LANES // columns) == 0 for packed in maps)
    if whole_blocks:
        array = jnp.concatenate(arrays, axis=-1)
    else:
        by_columns = [by_column(array, columns) for array in arrays]
        array = in_lanes(jnp.concatenate(by_columns, axis=-1))
    return dataclasses.replace(maps[0], array=array, columns=columns)


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
    columns = min(
        resized_columns(packed, scale, kernel.shape[-1])
        for packed, scale in zip(maps, scales, strict=True)
    )
    partial_sums = []
    for packed, scale in zip(maps, scales, strict=True):
        rows = kernel[:, :, first_row : first_row + packed.channels, :]
        first_row += packed.channels
        partial_sums.append(_resized_conv_1x1(packed, rows, scale, columns, precision))
    if not partial_sums or first_row != kernel.shape[2]:
        raise ValueError(f"maps have {first_row} channels, the kernel {kernel.shape[2]}")
    total = partial_sums[0]
    for other in partial_sums[1:]:
        total = dataclasses.replace(total, array=total.array + other.array)
    return add_bias_packed(total, bias)


def upsampling_conv_packed(
    packed: Packed,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    precision: jax.lax.PrecisionLike = None,
) -> Packed:
    """``ops.convolution.upsampling_conv_4x4``."""
    grid = dataclasses.replace(
        packed,
        height=2 * packed.height,
        width=2 * packed.width,
        columns=resized_columns(packed, 2, kernel.shape[-1]),
    )

    def reads(y: int) -> list[tuple[int, int]]:
        return [((y + 1 - tap) // 2, tap) for tap in range(4) if (y + 1 - tap) % 2 == 0]

    rows = with_neighbouring_rows(packed, 1, 1)
    # Output row 2t reads rows t - 1 and t through taps 3 and 1, row 2t + 1 rows t and t + 1
    # through taps 2 and 0.
    even = convolve_lanes(rows[:, :-1], kernel[3::-2], reads, packed, grid, precision=precision)
    odd = convolve_lanes(rows[:, 1:], kernel[2::-2], reads, packed, grid, precision=precision)
    return add_bias_packed(dataclasses.replace(grid, array=interleaved([even, odd], axis=1)), bias)


def resized_columns(packed: Packed, scale: int | float, channels: int) -> int:
    """P of a map made of another one: as many as that gives, but no more than fill the lanes."""
    return max(1, min(round(packed.columns * scale), columns_of(channels)))


def convolve_lanes(
    rows: jax.Array,
    kernel: jax.Array,
    reads: Reads,
    packed: Packed,
    grid: Packed,
    *,
    stride: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Convolves packed rows, with any values beyond the image.

    Args:
        rows: (n, rows, positions, lanes) in the form of ``packed``.
        kernel: (y, taps, i, o).
        reads: along the columns.
        packed: the form of the input.
        grid: the form of the output, but for its array.
        stride: of the rows.
        precision: of products.
    """
    # Positions of the input under one of the output, or of the output over one of the input.
    read, held = grid.columns * packed.width, packed.columns * grid.width
    step, phases = max(1, read // held), max(1, held // read)
    positions = math.ceil(grid.positions / phases)
    of_phases = []
    for phase in range(phases):
        table = _lanes_read(reads, kernel.shape[1], packed, grid, phase * grid.columns)
        after = (positions - 1) * step + len(table.taps) - rows.shape[2] + table.first
        convolved = jax.lax.conv_general_dilated(
            rows,
            _packed_kernel(kernel, table.taps),
            (stride, step),
            ((0, 0), (-table.first, after)),
            dimension_numbers=LAYOUT,
            precision=precision,
        )
        of_phases.append(convolved)
    if phases == 1:
        return of_phases[0]
    return interleaved(of_phases, axis=2)[:, :, : grid.positions]


class _LaneTable(NamedTuple):
    """What each lane of the output reads along the columns.

    Attributes:
        first: the first position that position 0 of the output reads.
        taps: (positions read, p of the input, p of the output, taps) of ones and zeros.
    """

    first: int
    taps: np.ndarray


def _lanes_read(
    reads: Reads, taps: int, packed: Packed, grid: Packed, first_column: int
) -> _LaneTable:
    found = [
        (*divmod(x + packed.offset, packed.columns), lane, tap)
        for lane in range(grid.columns)
        for x, tap in reads(first_column + lane - grid.offset)
    ]
    first = min(position for position, *_ in found)
    last = max(position for position, *_ in found)
    table = np.zeros((last - first + 1, packed.columns, grid.columns, taps), np.float32)
    for position, *rest in found:
        table[(position - first, *rest)] = 1
    return _LaneTable(first, table)


def _packed_kernel(kernel: jax.Array, taps: np.ndarray) -> jax.Array:
    """(y, t, i, o) and (positions, u, v, t) to (y, positions, lanes, lanes)."""
    read, u, v, _ = taps.shape
    if (read, u, v) == (len(kernel[0]), 1, 1):
        return kernel
    # A product with ones and zeros is exact, and its gradient sums what belongs to each tap.
    exact = jax.lax.Precision.HIGHEST
    spread = jnp.asarray(taps, kernel.dtype)
    packed = jnp.einsum("auvt,ytio->yauivo", spread, kernel, precision=exact)
    outputs_first = in_lanes(packed).transpose(0, 1, 4, 2, 3)
    return in_lanes(outputs_first).swapaxes(-1, -2)


def _convolve(
    packed: Packed,
    kernel: jax.Array,
    columns: int | None = None,
    *,
    stride: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> Packed:
    """Without a bias, and with any values beyond the image."""
    columns = columns or _columns_of_result(packed, kernel.shape[-1], stride)
    convolve = functools.partial(_convolve_rows, stride=stride, precision=precision)
    keeps_its_form = stride == 1 and columns == packed.columns and len(kernel) % 2 == 1
    few_rows = packed.array.shape[1] <= _FEW_ROWS and not packed.in_stack
    if keeps_its_form and few_rows:
        return _with_gradient_of_joined_rows(convolve, packed, kernel, columns)
    return convolve(packed, kernel, columns)


def _columns_of_result(packed: Packed, channels: int, stride: int) -> int:
    """P of a convolution's result: the map's own, or half of it where the width is halved.

    But where the map fills the lanes with one column, as the recurrence's states do, a result of
    fewer channels fills them too, with up to four.
    """
    full_of_one = packed.columns == 1 and packed.channels == LANES
    if full_of_one and stride == 1 and columns_of(channels) <= _MOST_COLUMNS_OF_ONE:
        return columns_of(channels)
    return resized_columns(packed, 1 / stride, channels)


def _with_gradient_of_joined_rows(
    convolve: Callable[[Packed, jax.Array, int], Packed],
    packed: Packed,
    kernel: jax.Array,
    columns: int,
) -> Packed:
    """A convolution with stride 1 whose gradient to the input is one of the same form.

    The rows of neighbouring strips are joined before it, and the kernel is turned. The transposed
    convolution, which JAX takes, computes the rows at the seams in both strips, and adds: of strips
    of two rows these are as many again.

    Args:
        convolve: from a map, a kernel and p of the result to the result.
        packed: the map. Its gradient has any values beyond the image; that of the result must be
            zero there, as it is after ``zero_beyond``.
        kernel: (k, k, i, o), k odd.
        columns: p of the result.
    """

    @jax.custom_vjp
    def convolved(packed: Packed, kernel: jax.Array) -> Packed:
        return convolve(packed, kernel, columns)

    def gradients(
        arguments: tuple[Packed, jax.Array], d_output: Packed
    ) -> tuple[Packed, jax.Array]:
        packed, kernel = arguments
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        d_packed = _with_gradient_of_joined_rows(convolve, d_output, turned, packed.columns)
        _, to_kernel = jax.vjp(lambda kernel: convolve(packed, kernel, columns), kernel)
        return d_packed, *to_kernel(d_output)

    convolved.defvjp(lambda *arguments: (convolved(*arguments), arguments), gradients)
    with naming_the_plain_backend():
        return convolved(packed, kernel)


def _convolve_rows(
    packed: Packed,
    kernel: jax.Array,
    columns: int,
    *,
    stride: int,
    precision: jax.lax.PrecisionLike,
) -> Packed:
    """``_convolve``, differentiated as JAX does it."""
    size = len(kernel)
    grid = dataclasses.replace(
        packed,
        height=packed.height // stride,
        width=packed.width // stride,
        columns=columns,
        shifted=packed.in_stack and packed.columns > 1 and not packed.shifted,
    )
    before = (size - 1) // 2
    rows = with_neighbouring_rows(packed, before, max(0, size - before - stride))

    def reads(y: int) -> list[tuple[int, int]]:
        return [(stride * y + tap - before, tap) for tap in range(size)]

    array = convolve_lanes(rows, kernel, reads, packed, grid, stride=stride, precision=precision)
    return dataclasses.replace(grid, array=array)


def _resized_conv_1x1(
    packed: Packed,
    kernel: jax.Array,
    scale: int | float,
    columns: int,
    precision: jax.lax.PrecisionLike,
) -> Packed:
    """The 1x1 convolution of a map that is resized by nearest."""
    grid = dataclasses.replace(
        packed,
        height=round(packed.height * scale),
        width=round(packed.width * scale),
        columns=columns,
    )
    step, times = max(1, round(1 / scale)), max(1, round(scale))
    rows = jax.lax.slice(packed.array, (0, 0, 0, 0), packed.array.shape, (1, step, 1, 1))
    array = convolve_lanes(
        rows, kernel, lambda y: [(step * y // times, 0)], packed, grid, precision=precision
    )
    n, height, positions, lanes = array.shape
    repeated = jnp.broadcast_to(array[:, :, None], (n, height, times, positions, lanes))
    return dataclasses.replace(grid, array=repeated.reshape(n, height * times, positions, lanes))
