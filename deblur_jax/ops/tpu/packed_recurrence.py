"""The gated recurrence of packed feature maps, as Pallas kernels.

Arrays lie in memory as (rows of a strip, positions, b·strips, lanes), so the kernels take them in
this order and nothing is moved for them. A vector register holds 8 strips, of one or more images.

Along the columns a kernel goes from position to position, and within one from column to column by
rolling the lanes. Along the rows all strips are scanned at once from their true beginning. Where an
image has several, a scan from zero comes first: it gives what each strip hands on to the next, h at
its last row as a + b·(h before its first row). Beyond the image x and g are zero, hence h as well.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deblur_jax.ops.recurrence import DIRECTIONS, Direction, Recurrence
from deblur_jax.ops.tpu.packed import LANES, Packed, pack_as, unpack
from deblur_jax.ops.tpu.strips import SUBLANES
from deblur_jax.runtime.differentiation import naming_the_plain_backend

_BYTES_ON_CHIP = 12 * 2**20
"""For the blocks of a kernel, each twice; of the 16 MiB that a kernel may take."""
_ROWS = 1
"""The axis of ``Direction`` along which rows follow each other."""


def make_packed_recurrence(of_arrays: Recurrence, *, interpret: bool) -> Callable[..., Packed]:
    """The recurrence of packed maps; see ``ops.recurrence.gated_recurrence``.

    It has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.

    Args:
        of_arrays: for maps whose lanes are not full, or whose lines are too long for the chip.
        interpret: run the kernels step by step in JAX, as a machine without a TPU can (slowly).
    """

    def recurrence(
        inputs: Packed, gates: Packed, directions: Sequence[str] = tuple(DIRECTIONS)
    ) -> Packed:
        if not _fits(inputs, gates):
            return pack_as(of_arrays(unpack(inputs), unpack(gates), directions), inputs)
        scans = tuple(DIRECTIONS[name] for name in directions)
        order = (1, 2, 0, 3)
        with naming_the_plain_backend():
            states = _states(
                inputs.array.transpose(order),
                gates.array.transpose(order),
                scans,
                _Form(inputs.columns, inputs.strips),
                interpret,
            )
        return dataclasses.replace(gates, array=states.transpose(2, 0, 1, 3))

    return recurrence


class _Form(NamedTuple):
    """How many columns share a position, and how many strips an image has."""

    columns: int
    strips: int


def _fits(inputs: Packed, gates: Packed) -> bool:
    """Whether registers are full, lanes correspond, and a line of the map fits on the chip."""
    n, rows, positions, lanes = inputs.array.shape
    group = math.lcm(SUBLANES, inputs.strips)
    fill = lanes == LANES and n % group == 0
    fit = _lines_at_once(max(rows, positions), group, arrays=7) > 0
    return fill and fit and gates.columns == inputs.columns


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _states(
    inputs: jax.Array,
    gates: jax.Array,
    directions: tuple[Direction, ...],
    form: _Form,
    interpret: bool,
) -> jax.Array:
    written: dict[int, jax.Array] = {}
    for slot, direction in enumerate(directions):
        kernel = _forward_rows if direction.axis == _ROWS else _forward_columns
        outputs = [jax.ShapeDtypeStruct(gates.shape, inputs.dtype)]
        results = _call(
            functools.partial(kernel, reverse=direction.reverse, form=form),
            [(inputs, 0), (gates, slot)],
            outputs,
            [slot],
            written,
            direction,
            form.strips,
            operations=3,
            interpret=interpret,
        )
        written = {0: results[0]}
    return written[0]


def _keep(
    inputs: jax.Array,
    gates: jax.Array,
    directions: tuple[Direction, ...],
    form: _Form,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    states = _states(inputs, gates, directions, form, interpret)
    return states, (inputs, gates, states)


def _pull_back(
    directions: tuple[Direction, ...],
    form: _Form,
    interpret: bool,
    kept: tuple[jax.Array, jax.Array, jax.Array],
    d_states: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    inputs, gates, states = kept
    d_inputs = jnp.zeros(inputs.shape, jnp.float32)
    written: dict[int, jax.Array] = {}
    for slot, direction in enumerate(directions):
        kernel = _backward_rows if direction.axis == _ROWS else _backward_columns
        outputs = [
            jax.ShapeDtypeStruct(inputs.shape, jnp.float32),
            jax.ShapeDtypeStruct(gates.shape, gates.dtype),
        ]
        d_inputs, written[1] = _call(
            functools.partial(kernel, reverse=direction.reverse, form=form),
            [(inputs, 0), (gates, slot), (states, slot), (d_states, slot), (d_inputs, 0)],
            outputs,
            [0, slot],
            written,
            direction,
            form.strips,
            operations=7,
            interpret=interpret,
        )
    return d_inputs.astype(inputs.dtype), written[1]


_states.defvjp(_keep, _pull_back)


def _lines_at_once(steps: int, group: int, arrays: int) -> int:
    """How many lines, each of a group of strips, go over the chip at once."""
    return _BYTES_ON_CHIP // (2 * arrays * 4 * group * LANES * steps)


def _call(
    kernel: Callable,
    arrays: Sequence[tuple[jax.Array, int]],
    outputs: Sequence[jax.ShapeDtypeStruct],
    slots: Sequence[int],
    written: dict[int, jax.Array],
    direction: Direction,
    strips: int,
    *,
    operations: int,
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel for one direction, over blocks of lines and of whole images.

    Args:
        kernel: takes references to (rows, positions, b·strips, 128) of each array and output.
        arrays: each with the 128 lanes of it that the kernel reads.
        outputs: shapes and dtypes.
        slots: for each output the 128 lanes that the kernel writes.
        written: arrays whose other lanes an output keeps, by the place of the output.
        direction: of the scan.
        strips: of each image.
        operations: additions and multiplications for each value of a state.
        interpret: run it step by step in JAX.
    """
    rows, positions, n, _ = arrays[0][0].shape
    along_rows = direction.axis == _ROWS
    steps, lines = (rows, positions) if along_rows else (positions, rows)
    group = math.lcm(SUBLANES, strips)  # whole registers, and whole images
    most = max(1, _lines_at_once(steps, group, len(arrays) + len(outputs)))
    of_lines = max(k for k in range(1, min(most, lines) + 1) if lines % k == 0)
    of_groups = max(k for k in range(1, most // of_lines + 1) if n // group % k == 0)
    shape = (steps, of_lines) if along_rows else (of_lines, steps)

    def spec(slot: int) -> pl.BlockSpec:
        def place(block: Any, line: Any) -> tuple:
            return (0, line, block, slot) if along_rows else (line, 0, block, slot)

        return pl.BlockSpec((*shape, of_groups * group, LANES), place)

    def run(*refs: Any) -> None:
        kernel(*refs[: len(arrays)], *refs[len(arrays) + len(written) :])

    size = rows * positions * n * LANES
    moved = sum(size * array.dtype.itemsize for array, _ in arrays)
    return pl.pallas_call(
        run,
        grid=(n // group // of_groups, lines // of_lines),
        in_specs=[spec(slot) for _, slot in arrays]
        + [pl.BlockSpec(memory_space=pl.ANY)] * len(written),
        out_specs=[spec(slot) for slot in slots],
        out_shape=list(outputs),
        input_output_aliases={len(arrays) + i: output for i, output in enumerate(sorted(written))},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=operations * size,
            transcendentals=0,
            bytes_accessed=moved + sum(size * output.dtype.itemsize for output in outputs),
        ),
        interpret=interpret,
    )(*(array for array, _ in arrays), *(written[i] for i in sorted(written)))


def _forward_columns(x_ref: Any, g_ref: Any, h_ref: Any, *, reverse: bool, form: _Form) -> None:
    steps = x_ref.shape[1]
    columns = form.columns
    column = _column(x_ref[:, 0].shape, columns)

    def step(i: Any, before: jax.Array) -> jax.Array:
        position = steps - 1 - i if reverse else i
        x, g = (ref[:, position].astype(jnp.float32) for ref in (x_ref, g_ref))
        states = before
        for u in _in_order(columns, reverse):
            before = _to_next_column(before, columns, reverse)
            before = g * (before - x) + x
            states = jnp.where(column == u, before, states)
        h_ref[:, position] = states.astype(h_ref.dtype)
        return states

    jax.lax.fori_loop(0, steps, step, jnp.zeros(column.shape, jnp.float32))


def _backward_columns(
    x_ref: Any,
    g_ref: Any,
    h_ref: Any,
    dy_ref: Any,
    earlier_ref: Any,
    dx_ref: Any,
    dg_ref: Any,
    *,
    reverse: bool,
    form: _Form,
) -> None:
    """Goes against the scan's direction."""
    steps = x_ref.shape[1]
    columns = form.columns
    column = _column(x_ref[:, 0].shape, columns)
    last = 0 if reverse else columns - 1

    def step(i: Any, passed_on: jax.Array) -> jax.Array:
        position = i if reverse else steps - 1 - i
        x, g, h, dy = (
            ref[:, position].astype(jnp.float32) for ref in (x_ref, g_ref, h_ref, dy_ref)
        )
        neighbour = jnp.clip(position + (1 if reverse else -1), 0, steps - 1)
        beyond = h_ref[:, neighbour].astype(jnp.float32)
        beyond = jnp.where(i == steps - 1, 0.0, beyond)
        previous = jnp.where(column == last, beyond, h)
        previous = _to_next_column(previous, columns, reverse)
        totals = passed_on
        for u in _in_order(columns, not reverse):
            passed_on = _to_next_column(passed_on, columns, not reverse)
            total = dy + passed_on
            totals = jnp.where(column == u, total, totals)
            passed_on = g * total
        dx_ref[:, position] = earlier_ref[:, position] + totals * (1.0 - g)
        dg_ref[:, position] = (totals * (previous - x)).astype(dg_ref.dtype)
        return passed_on

    jax.lax.fori_loop(0, steps, step, jnp.zeros(column.shape, jnp.float32))


def _forward_rows(x_ref: Any, g_ref: Any, h_ref: Any, *, reverse: bool, form: _Form) -> None:

    def step(row: Any, h: jax.Array) -> jax.Array:
        x, g = (ref[row].astype(jnp.float32) for ref in (x_ref, g_ref))
        return g * (h - x) + x

    def keep(row: Any, h: jax.Array) -> jax.Array:
        h = step(row, h)
        h_ref[row] = h.astype(h_ref.dtype)
        return h

    begin = _strips_begin_with(step, g_ref, form.strips, reverse)
    _fold_rows(keep, begin, g_ref, reverse)


def _backward_rows(
    x_ref: Any,
    g_ref: Any,
    h_ref: Any,
    dy_ref: Any,
    earlier_ref: Any,
    dx_ref: Any,
    dg_ref: Any,
    *,
    reverse: bool,
    form: _Form,
) -> None:
    """Goes against the scan's direction."""
    rows = g_ref.shape[0]
    first, last = (rows - 1, 0) if reverse else (0, rows - 1)
    # Before the first row of a strip lies the last one of the strip before it.
    beyond = _to_next_strip(h_ref[last].astype(jnp.float32), form.strips, reverse)

    def step(row: Any, passed_on: jax.Array) -> jax.Array:
        return g_ref[row].astype(jnp.float32) * (dy_ref[row].astype(jnp.float32) + passed_on)

    def keep(row: Any, passed_on: jax.Array) -> jax.Array:
        x, g, dy = (ref[row].astype(jnp.float32) for ref in (x_ref, g_ref, dy_ref))
        neighbour = jnp.clip(row + (1 if reverse else -1), 0, rows - 1)
        previous = jnp.where(row == first, beyond, h_ref[neighbour].astype(jnp.float32))
        total = dy + passed_on
        dx_ref[row] = earlier_ref[row] + total * (1.0 - g)
        dg_ref[row] = (total * (previous - x)).astype(dg_ref.dtype)
        return g * total

    begin = _strips_begin_with(step, g_ref, form.strips, not reverse)
    _fold_rows(keep, begin, g_ref, not reverse)


def _strips_begin_with(step: Callable, g_ref: Any, strips: int, reverse: bool) -> jax.Array:
    """The carry before the first row of each strip, (positions, b·strips, 128)."""
    zeros = jnp.zeros(g_ref.shape[1:], jnp.float32)
    if strips == 1:
        return zeros

    def with_product(row: Any, carry: tuple) -> tuple:
        end, product = carry
        return step(row, end), product * g_ref[row].astype(jnp.float32)

    end, product = _fold_rows(with_product, (zeros, zeros + 1.0), g_ref, reverse)
    begin = zeros
    for _ in range(strips - 1):
        begin = _to_next_strip(end + product * begin, strips, reverse)
    return begin


def _fold_rows(step: Callable, carry: Any, ref: Any, reverse: bool) -> Any:
    rows = ref.shape[0]
    return jax.lax.fori_loop(
        0, rows, lambda i, carry: step(rows - 1 - i if reverse else i, carry), carry
    )


def _to_next_strip(array: jax.Array, strips: int, reverse: bool) -> jax.Array:
    """Each strip's values to the one that follows it; zeros to the first one."""
    if strips == 1:
        return jnp.zeros_like(array)
    axis = array.ndim - 2
    strip = jax.lax.rem(jax.lax.broadcasted_iota(jnp.int32, array.shape, axis), strips)
    shift = array.shape[axis] - 1 if reverse else 1
    first = strips - 1 if reverse else 0
    return jnp.where(strip == first, 0.0, pltpu.roll(array, shift, axis))


def _to_next_column(array: jax.Array, columns: int, reverse: bool) -> jax.Array:
    """Each column's values to the lanes of the one that follows it, the last one's to the first."""
    if columns == 1:
        return array
    width = LANES // columns
    return pltpu.roll(array, LANES - width if reverse else width, array.ndim - 1)


def _column(shape: tuple[int, ...], columns: int) -> jax.Array:
    """The column of each lane."""
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    return jax.lax.div(lane, LANES // columns)


def _in_order(columns: int, reverse: bool) -> Sequence[int]:
    return range(columns - 1, -1, -1) if reverse else range(columns)
