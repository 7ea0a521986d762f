"""The gated recurrence as a Pallas kernel for TPUs.

Arrays are laid out (b, t, d, c, n): t along the scan, d the directions over the same axis, n along
the line, so that a step of the recurrence handles whole vector registers of channels x pixels,
however few channels there are. The grid goes over batch, directions, blocks of n, and chunks of t;
the chunks of one line follow each other, and the carry stays in on-chip memory between them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deblur_jax.ops.recurrence import (
    Direction,
    Recurrence,
    neighbours_over_one_axis,
    with_gradient_rule,
)

_LANES = 128
_STEPS_IN_CHUNK = 64
"""A block of 32 channels then has 1 MiB in float32; the gradient holds twelve of them."""


def make_recurrence(*, interpret: bool) -> Recurrence:
    """The recurrence as a kernel; as ``ops.recurrence.gated_recurrence``.

    It has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.

    Args:
        interpret: run the kernel step by step in JAX, as a machine without a TPU can (slowly).
    """
    return with_gradient_rule(_forward, _backward, interpret=interpret)


def _forward(
    inputs: jax.Array, gates: jax.Array, directions: Sequence[Direction], *, interpret: bool
) -> jax.Array:
    """States (b, h, w, d·c) of all directions."""
    groups = []
    for axis, first, reverses in neighbours_over_one_axis(directions):
        of_group = _slots(gates, inputs, first, len(reverses))
        x, g = _lines(inputs, inputs, axis), _lines(of_group, inputs, axis)
        (states,) = _call(_forward_kernel, [x, g], [inputs.dtype], reverses, 3, interpret)
        groups.append(_pixels(states, axis))
    return jnp.concatenate(groups, axis=-1)


def _backward(
    inputs: jax.Array,
    gates: jax.Array,
    states: jax.Array,
    d_states: jax.Array,
    directions: Sequence[Direction],
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the inputs and of the gates."""
    d_inputs, d_gates = jnp.zeros(inputs.shape, jnp.float32), []
    for axis, first, reverses in neighbours_over_one_axis(directions):
        x = _lines(inputs, inputs, axis)
        g, h, dy = (
            _lines(_slots(array, inputs, first, len(reverses)), inputs, axis)
            for array in (gates, states, d_states)
        )
        against = tuple(not reverse for reverse in reverses)
        d_x, d_g = _call(
            _backward_kernel,
            [x, g, h, dy],
            [jnp.float32, gates.dtype],
            against,
            6,
            interpret,
            following=h,
        )
        d_inputs += _pixels(d_x.sum(2, keepdims=True), axis)
        d_gates.append(_pixels(d_g, axis))
    return d_inputs.astype(inputs.dtype), jnp.concatenate(d_gates, axis=-1)


def _slots(array: jax.Array, inputs: jax.Array, first: int, count: int) -> jax.Array:
    channels = inputs.shape[-1]
    return array[..., first * channels : (first + count) * channels]


def _lines(array: jax.Array, inputs: jax.Array, axis: int) -> jax.Array:
    """(b, h, w, d·c) to (b, t, d, c, n)."""
    b, h, w, _ = array.shape
    array = array.reshape(b, h, w, -1, inputs.shape[-1])
    return array.transpose((0, 1, 3, 4, 2) if axis == 1 else (0, 2, 3, 4, 1))


def _pixels(lines: jax.Array, axis: int) -> jax.Array:
    """The inverse of ``_lines``."""
    array = lines.transpose((0, 1, 4, 2, 3) if axis == 1 else (0, 4, 1, 2, 3))
    return array.reshape(*array.shape[:3], -1)


def _call(
    kernel: Callable,
    arrays: list[jax.Array],
    dtypes: Sequence[Any],
    reverses: tuple[bool, ...],
    operations: int,
    interpret: bool,
    following: jax.Array | None = None,
) -> list[jax.Array]:
    """Runs a kernel over all chunks, each direction in its order.

    The kernel takes ``operations`` additions and multiplications for each value of a state. If
    ``following``, an array, is given, its last input is the array's line after the chunk.
    """
    inputs, gates = arrays[:2]
    b, steps, _, c, n = inputs.shape
    chunks = math.ceil(steps / _STEPS_IN_CHUNK)
    chunk = math.ceil(steps / chunks)
    width = min(n, _LANES)

    def place(d: Any, i: Any) -> Any:
        return jnp.where(_is_reverse(reverses, d), chunks - 1 - i, i)

    def of_inputs(b: Any, d: Any, n: Any, i: Any) -> tuple:
        return b, place(d, i), 0, 0, n

    def of_direction(b: Any, d: Any, n: Any, i: Any) -> tuple:
        return b, place(d, i), d, 0, n

    def next_line(b: Any, d: Any, n: Any, i: Any) -> tuple:
        first = place(d, i) * chunk
        after = jnp.where(_is_reverse(reverses, d), first - 1, first + chunk)
        return b, jnp.clip(after, 0, steps - 1), d, 0, n

    results = [jax.ShapeDtypeStruct(gates.shape, dtype) for dtype in dtypes]
    cost = pl.CostEstimate(  # without the line after each chunk
        flops=operations * gates.size,
        transcendentals=0,
        bytes_accessed=sum(array.nbytes for array in arrays)
        + sum(gates.size * result.dtype.itemsize for result in results),
    )
    block = (None, chunk, None, c, width)
    specs = [pl.BlockSpec(block, of_inputs)]
    specs += [pl.BlockSpec(block, of_direction)] * (len(arrays) - 1)
    if following is not None:
        arrays = [*arrays, following]
        specs.append(pl.BlockSpec((None, None, None, c, width), next_line))

    return pl.pallas_call(
        functools.partial(kernel, chunk=chunk, steps=steps, reverses=reverses),
        grid=(b, len(reverses), math.ceil(n / width), chunks),
        in_specs=specs,
        out_specs=[pl.BlockSpec(block, of_direction)] * len(dtypes),
        out_shape=results,
        scratch_shapes=[pltpu.VMEM((c, width), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        cost_estimate=cost,
        interpret=interpret,
    )(*arrays)


def _is_reverse(reverses: tuple[bool, ...], d: Any) -> Any:
    """Whether direction d, known when the kernel runs, is a reversed one."""
    return (d == 1) != reverses[0] if len(set(reverses)) > 1 else reverses[0]


def _forward_kernel(
    x_ref: Any,
    g_ref: Any,
    h_ref: Any,
    carry_ref: Any,
    *,
    chunk: int,
    steps: int,
    reverses: tuple[bool, ...],
) -> None:
    def step(t: Any, h: jax.Array) -> jax.Array:
        x, g = (ref[t].astype(jnp.float32) for ref in (x_ref, g_ref))
        h = g * (h - x) + x
        h_ref[t] = h.astype(h_ref.dtype)
        return h

    _fold_chunk(step, carry_ref, *_order(chunk, steps, reverses))


def _backward_kernel(
    x_ref: Any,
    g_ref: Any,
    h_ref: Any,
    dy_ref: Any,
    beyond_ref: Any,
    dx_ref: Any,
    dg_ref: Any,
    carry_ref: Any,
    *,
    chunk: int,
    steps: int,
    reverses: tuple[bool, ...],
) -> None:
    """Scans in the opposite direction: the line before h[t] is the next one here."""
    steps_here, reverse = _order(chunk, steps, reverses)
    last = jnp.where(reverse, 0, steps_here - 1)
    at_the_end = pl.program_id(3) == pl.num_programs(3) - 1
    beyond = jnp.where(at_the_end, 0.0, beyond_ref[...].astype(jnp.float32))

    def step(t: Any, passed_on: jax.Array) -> jax.Array:
        x, g, dy = (ref[t].astype(jnp.float32) for ref in (x_ref, g_ref, dy_ref))
        inside = jnp.clip(jnp.where(reverse, t - 1, t + 1), 0, chunk - 1)
        previous = jnp.where(t == last, beyond, h_ref[inside].astype(jnp.float32))
        total = dy + passed_on
        dx_ref[t] = total * (1.0 - g)
        dg_ref[t] = (total * (previous - x)).astype(dg_ref.dtype)
        return g * total

    _fold_chunk(step, carry_ref, steps_here, reverse)


def _order(chunk: int, steps: int, reverses: tuple[bool, ...]) -> tuple[Any, Any]:
    """The number of steps in this chunk, which may reach beyond the array, and their order."""
    reverse = _is_reverse(reverses, pl.program_id(1))
    if steps % chunk == 0:
        return chunk, reverse
    i = pl.program_id(3)
    place = jnp.where(reverse, pl.num_programs(3) - 1 - i, i)
    return jnp.minimum(chunk, steps - place * chunk), reverse


def _fold_chunk(step: Callable, carry_ref: Any, steps_here: Any, reverse: Any) -> None:
    """Folds ``step(t, carry) -> carry`` over a chunk; the carry is kept in ``carry_ref``."""

    @pl.when(pl.program_id(3) == 0)
    def _() -> None:
        carry_ref[...] = jnp.zeros_like(carry_ref)

    def in_order(i: Any, carry: jax.Array) -> jax.Array:
        return step(jnp.where(reverse, steps_here - 1 - i, i), carry)

    carry_ref[...] = jax.lax.fori_loop(0, steps_here, in_order, carry_ref[...])
