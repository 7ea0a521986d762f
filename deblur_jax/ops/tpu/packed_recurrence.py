"""The gated recurrence of packed feature maps, as Pallas kernels.

Arrays lie in memory as (rows of a strip, positions, b·strips, lanes), so the kernels take them in
this order and nothing is moved for them. A vector register holds 8 strips, of one or more images.

Along the columns a loop goes from position to position, and within one from column to column by
rolling the lanes. Along the rows all strips are scanned at once from their true beginning. Where an
image has several, a scan from zero comes first: it gives what each strip hands on to the next, h at
its last row as a + b·(h before its first row). Beyond the image x and g are zero, hence h as well.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from deblur_jax.ops.recurrence import DIRECTIONS, Recurrence
from deblur_jax.ops.tpu.packed import Packed, pack_as, unpack
from deblur_jax.ops.tpu.recurrence_blocks import (
    BACKWARD,
    FORWARD,
    BlockArray,
    BlockOutput,
    Size,
    call_kernel,
    plan_kernels,
    size_of,
)
from deblur_jax.ops.tpu.recurrence_lanes import (
    COLUMNS,
    ROWS,
    Lanes,
    Lines,
    lane_blocks,
    lines_of,
    to_next_column,
    to_next_strip,
    turns_of,
)
from deblur_jax.runtime.differentiation import naming_the_plain_backend

_IN_MEMORY = (1, 2, 0, 3)
_AS_PACKED = (2, 0, 1, 3)


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
        def unpacked(inputs: Packed, gates: Packed) -> Packed:
            return pack_as(of_arrays(unpack(inputs), unpack(gates), directions), gates)

        blocks = lane_blocks(inputs, gates, tuple(DIRECTIONS[name] for name in directions))
        if not blocks:
            return unpacked(inputs, gates)
        itemsize = max(inputs.array.dtype.itemsize, gates.array.dtype.itemsize)
        forward = size_of(inputs, blocks[0], itemsize, FORWARD)
        backward = size_of(inputs, blocks[0], itemsize, BACKWARD)

        @jax.custom_vjp
        def states(inputs: Packed, gates: Packed) -> Packed:
            if not forward.fits:
                return unpacked(inputs, gates)
            arrays = [of.array.transpose(_IN_MEMORY) for of in (inputs, gates)]
            array = _states(arrays, blocks, forward, interpret)
            return dataclasses.replace(gates, array=array.transpose(_AS_PACKED))

        def keep(inputs: Packed, gates: Packed) -> tuple[Packed, tuple[Packed, ...]]:
            result = states(inputs, gates)
            return result, (inputs, gates, result)

        def pull_back(kept: tuple[Packed, ...], d_states: Packed) -> tuple[Packed, ...]:
            if not backward.fits:
                return jax.vjp(unpacked, *kept[:2])[1](d_states)
            arrays = [of.array.transpose(_IN_MEMORY) for of in (*kept, d_states)]
            gradients = _gradients(arrays, blocks, backward, interpret)
            return tuple(
                dataclasses.replace(of, array=gradient.transpose(_AS_PACKED))
                for of, gradient in zip(kept[:2], gradients, strict=True)
            )

        states.defvjp(keep, pull_back)
        with naming_the_plain_backend():
            return states(inputs, gates)

    return recurrence


def _states(
    arrays: Sequence[jax.Array], blocks: Sequence[Lanes], size: Size, interpret: bool
) -> jax.Array:
    """From the inputs and the gates."""
    inputs, gates = arrays
    shape = jax.ShapeDtypeStruct(gates.shape, inputs.dtype)
    states: jax.Array | None = None
    for slot, lanes in enumerate(blocks):
        for plan in plan_kernels(lanes, size):
            (states,) = call_kernel(
                functools.partial(_forward, lanes=lanes, axes=plan.axes),
                plan,
                [jnp.asarray(lanes.spreading(), jnp.bfloat16)],
                [BlockArray(inputs, 0, False), BlockArray(gates, slot, True)],
                [BlockOutput(shape, slot, True, states)],
                operations=3,
                interpret=interpret,
            )
    assert states is not None
    return states


def _gradients(
    arrays: Sequence[jax.Array], blocks: Sequence[Lanes], size: Size, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Of the inputs and of the gates; from both, the states and the gradient of these."""
    inputs, *as_gates = arrays
    gates = as_gates[0]
    of_blocks: list[jax.Array] = []
    d_gates: jax.Array | None = None
    for slot, lanes in enumerate(blocks):
        spreading = jnp.asarray(lanes.spreading(), jnp.bfloat16)
        d_inputs: jax.Array | None = None
        plans = plan_kernels(lanes, size)
        for plan in plans:
            completed = plan is plans[-1] and len(blocks) == 1
            dtype = inputs.dtype if completed else jnp.float32
            d_inputs, d_gates = call_kernel(
                functools.partial(_backward, lanes=lanes, axes=plan.axes, positions=gates.shape[1]),
                plan,
                [spreading, spreading.swapaxes(1, 2)],
                [
                    BlockArray(inputs, 0, False),
                    *(BlockArray(array, slot, True) for array in as_gates),
                ],
                [
                    BlockOutput(jax.ShapeDtypeStruct(inputs.shape, dtype), 0, False, d_inputs),
                    BlockOutput(
                        jax.ShapeDtypeStruct(gates.shape, gates.dtype), slot, True, d_gates
                    ),
                ],
                operations=7,
                interpret=interpret,
            )
        assert d_inputs is not None
        of_blocks.append(d_inputs)
    assert d_gates is not None
    return sum(of_blocks[1:], of_blocks[0]).astype(inputs.dtype), d_gates


def _forward(
    table: Any, x_ref: Any, g_ref: Any, *others: Any, lanes: Lanes, axes: Sequence[int]
) -> None:
    *begun, h_ref = others
    for ref in begun:
        h_ref[...] = ref[...]
    for axis in axes:
        _scan_forward(lines_of(g_ref, axis, lanes), table, x_ref, g_ref, h_ref)


def _scan_forward(lines: Lines, table: Any, x_ref: Any, g_ref: Any, h_ref: Any) -> None:
    turn_of, turns = turns_of(lines)

    def read(i: Any) -> tuple[jax.Array, jax.Array]:
        return lines.read_inputs(x_ref, table, i), lines.read(g_ref, i)

    def once(i: Any, h: jax.Array) -> jax.Array:
        x, g = read(i)
        return g * (h - x) + x

    def step(i: Any, before: jax.Array) -> jax.Array:
        x, g = read(i)
        states = before
        for turn in range(turns):
            before = to_next_column(before, lines)
            before = g * (before - x) + x
            states = before if turns == 1 else jnp.where(turn_of == turn, before, states)
        lines.write(h_ref, i, states)
        return states

    begin = _strips_begin_with(once, lines, g_ref)
    jax.lax.fori_loop(0, lines.steps, step, begin)


def _backward(
    table: Any,
    table_back: Any,
    x_ref: Any,
    g_ref: Any,
    h_ref: Any,
    dy_ref: Any,
    *others: Any,
    lanes: Lanes,
    axes: Sequence[int],
    positions: int,
) -> None:
    *begun, dx_ref, dg_ref, sums_ref = others
    if begun:
        sums_ref[...] = begun[0][...].astype(jnp.float32)
        dg_ref[...] = begun[1][...]
    else:
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)
    for axis in axes:
        lines = lines_of(g_ref, axis, lanes, against=True)
        _scan_backward(
            lines, (table, table_back), (x_ref, g_ref, h_ref, dy_ref), (sums_ref, dg_ref), positions
        )
    dx_ref[...] = sums_ref[...].astype(dx_ref.dtype)


def _scan_backward(
    lines: Lines,
    tables: tuple[Any, Any],
    read_from: tuple[Any, Any, Any, Any],
    write_to: tuple[Any, Any],
    positions: int,
) -> None:
    x_ref, g_ref, h_ref, dy_ref = read_from
    sums_ref, dg_ref = write_to
    turn_of, turns = turns_of(lines)
    last = lines.steps - 1
    inside = _inside(lines, positions)
    # Before the first row of a strip lies the last one of the strip before it.
    forward = dataclasses.replace(lines, against=False)
    beyond = jnp.zeros(lines.shape, jnp.float32)
    if lines.axis == ROWS:
        beyond = to_next_strip(forward.read(h_ref, last), forward)

    def once(i: Any, passed_on: jax.Array) -> jax.Array:
        return lines.read(g_ref, i) * (lines.read(dy_ref, i) + passed_on)

    def step(i: Any, passed_on: jax.Array) -> jax.Array:
        x = lines.read_inputs(x_ref, tables[0], i)
        g, h, dy = (lines.read(ref, i) for ref in (g_ref, h_ref, dy_ref))
        previous = jnp.where(i == last, beyond, lines.read(h_ref, jnp.minimum(i + 1, last)))
        if turns > 1:
            previous = jnp.where(turn_of == 0, previous, h)
            previous = to_next_column(previous, forward)
        totals = passed_on
        for turn in range(turns):
            passed_on = to_next_column(passed_on, lines)
            total = dy + passed_on
            totals = total if turns == 1 else jnp.where(turn_of == turn, total, totals)
            passed_on = g * total
        d_inputs = totals * (1.0 - g)
        if inside is not None:
            d_inputs = jnp.where(inside, d_inputs, 0.0)
        lines.add_inputs(sums_ref, tables[1], i, d_inputs)
        lines.write(dg_ref, i, totals * (previous - x))
        return passed_on

    begin = _strips_begin_with(once, lines, g_ref)
    jax.lax.fori_loop(0, lines.steps, step, begin)


def _inside(lines: Lines, positions: int) -> jax.Array | None:
    """Which positions of a line of rows the map has; None where all blocks are full."""
    in_block = lines.shape[0]
    if lines.axis == COLUMNS or positions % in_block == 0:
        return None
    first = pl.program_id(2) * in_block
    return first + jax.lax.broadcasted_iota(jnp.int32, lines.shape, 0) < positions


def _strips_begin_with(once: Callable, lines: Lines, g_ref: Any) -> jax.Array:
    """The carry before the first line: zeros, or of each strip what those before it hand on."""
    zeros = jnp.zeros(lines.shape, jnp.float32)
    if lines.axis == COLUMNS or lines.lanes.strips == 1:
        return zeros

    def with_product(i: Any, carry: tuple) -> tuple:
        end, product = carry
        return once(i, end), product * lines.read(g_ref, i)

    end, product = jax.lax.fori_loop(0, lines.steps, with_product, (zeros, zeros + 1.0))
    begin = zeros
    for _ in range(lines.lanes.strips - 1):
        begin = to_next_strip(end + product * begin, lines)
    return begin
