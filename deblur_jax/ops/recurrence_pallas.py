"""The gated recurrence as a kernel for TPUs.

Arrays are laid out (b, t, d, c, n): t along the scan, d the directions over the same axis, n along
the line, so that a step of the recurrence handles whole vector registers of channels x pixels,
however few channels there are. The grid goes over batch, directions, blocks of n, and chunks of t;
the chunks of one line follow each other, and the carry stays in on-chip memory between them.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_LANES = 128
_STEPS_IN_CHUNK = 64
"""A block of 32 channels then has 1 MiB in float32; the gradient holds twelve of them."""


def pallas_forward(inputs, gates, directions):
    """As ``recurrence._scan_forward``: states (b, h, w, d·c) of all directions."""
    groups = []
    for axis, slots, reverses in _groups(directions):
        x, g = _lines(inputs, inputs, axis), _lines(_slots(gates, inputs, slots), inputs, axis)
        (states,) = _call(_forward_kernel, [x, g], [inputs.dtype], reverses)
        groups.append(_pixels(states, axis))
    return jnp.concatenate(groups, axis=-1)


def pallas_backward(inputs, gates, states, d_states, directions):
    """As ``recurrence._scan_backward``: gradients of the inputs and of the gates."""
    d_inputs, d_gates = jnp.zeros(inputs.shape, jnp.float32), []
    for axis, slots, reverses in _groups(directions):
        x = _lines(inputs, inputs, axis)
        g, h, dy = (
            _lines(_slots(array, inputs, slots), inputs, axis)
            for array in (gates, states, d_states)
        )
        against = tuple(not reverse for reverse in reverses)
        d_x, d_g = _call(
            _backward_kernel, [x, g, h, dy], [jnp.float32, gates.dtype], against, following=h
        )
        d_inputs += _pixels(d_x.sum(2, keepdims=True), axis)
        d_gates.append(_pixels(d_g, axis))
    return d_inputs.astype(inputs.dtype), jnp.concatenate(d_gates, axis=-1)


def _groups(directions):
    """Neighbouring directions over one axis: the axis, their slots, whether each is reversed."""
    numbered = enumerate(directions)
    for axis, members in itertools.groupby(numbered, key=lambda member: member[1].axis):
        slots, group = zip(*members, strict=True)
        yield axis, slice(slots[0], slots[-1] + 1), tuple(d.reverse for d in group)


def _slots(array, inputs, slots):
    channels = inputs.shape[-1]
    return array[..., slots.start * channels : slots.stop * channels]


def _lines(array, inputs, axis):
    """(b, h, w, d·c) to (b, t, d, c, n)."""
    b, h, w, _ = array.shape
    array = array.reshape(b, h, w, -1, inputs.shape[-1])
    return array.transpose((0, 1, 3, 4, 2) if axis == 1 else (0, 2, 3, 4, 1))


def _pixels(lines, axis):
    """The inverse of ``_lines``."""
    array = lines.transpose((0, 1, 4, 2, 3) if axis == 1 else (0, 4, 1, 2, 3))
    return array.reshape(*array.shape[:3], -1)


def _call(kernel, arrays, dtypes, reverses, following=None):
    """Runs a kernel over all chunks, each direction in its order.

    Of ``following``, an array, the kernel gets as its last input the line after the chunk.
    """
    inputs, gates = arrays[:2]
    b, steps, _, c, n = inputs.shape
    chunks = math.ceil(steps / _STEPS_IN_CHUNK)
    chunk = math.ceil(steps / chunks)
    width = min(n, _LANES)

    def place(d, i):
        return jnp.where(_is_reverse(reverses, d), chunks - 1 - i, i)

    def of_inputs(b, d, n, i):
        return b, place(d, i), 0, 0, n

    def of_direction(b, d, n, i):
        return b, place(d, i), d, 0, n

    def next_line(b, d, n, i):
        first = place(d, i) * chunk
        after = jnp.where(_is_reverse(reverses, d), first - 1, first + chunk)
        return b, jnp.clip(after, 0, steps - 1), d, 0, n

    block = (None, chunk, None, c, width)
    specs = [pl.BlockSpec(block, of_inputs)]
    specs += [pl.BlockSpec(block, of_direction)] * (len(arrays) - 1)
    if following is not None:
        arrays = [*arrays, following]
        specs.append(pl.BlockSpec((None, None, None, c, width), next_line))

    def call(*arrays, interpret):
        return pl.pallas_call(
            functools.partial(kernel, chunk=chunk, steps=steps, reverses=reverses),
            grid=(b, len(reverses), math.ceil(n / width), chunks),
            in_specs=specs,
            out_specs=[pl.BlockSpec(block, of_direction)] * len(dtypes),
            out_shape=[jax.ShapeDtypeStruct(gates.shape, dtype) for dtype in dtypes],
            scratch_shapes=[pltpu.VMEM((c, width), jnp.float32)],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
            ),
            interpret=interpret,
        )(*arrays)

    return jax.lax.platform_dependent(
        *arrays,
        cpu=functools.partial(call, interpret=True),
        default=functools.partial(call, interpret=False),
    )


def _is_reverse(reverses, d):
    """Whether direction d, known when the kernel runs, is a reversed one."""
    return (d == 1) != reverses[0] if len(set(reverses)) > 1 else reverses[0]


def _forward_kernel(x_ref, g_ref, h_ref, carry_ref, *, chunk, steps, reverses):
    def step(t, h):
        x, g = (ref[t].astype(jnp.float32) for ref in (x_ref, g_ref))
        h = g * (h - x) + x
        h_ref[t] = h.astype(h_ref.dtype)
        return h

    _fold_chunk(step, carry_ref, *_order(chunk, steps, reverses))


def _backward_kernel(
    x_ref, g_ref, h_ref, dy_ref, beyond_ref, dx_ref, dg_ref, carry_ref, *, chunk, steps, reverses
):
    """Scans against the recurrence: what came before h[t] there is the next line here."""
    steps_here, reverse = _order(chunk, steps, reverses)
    last = jnp.where(reverse, 0, steps_here - 1)
    at_the_end = pl.program_id(3) == pl.num_programs(3) - 1
    beyond = jnp.where(at_the_end, 0.0, beyond_ref[...].astype(jnp.float32))

    def step(t, passed_on):
        x, g, dy = (ref[t].astype(jnp.float32) for ref in (x_ref, g_ref, dy_ref))
        inside = jnp.clip(jnp.where(reverse, t - 1, t + 1), 0, chunk - 1)
        previous = jnp.where(t == last, beyond, h_ref[inside].astype(jnp.float32))
        total = dy + passed_on
        dx_ref[t] = total * (1.0 - g)
        dg_ref[t] = (total * (previous - x)).astype(dg_ref.dtype)
        return g * total

    _fold_chunk(step, carry_ref, steps_here, reverse)


def _order(chunk, steps, reverses):
    """The number of steps in this chunk, which may reach beyond the array, and their order."""
    reverse = _is_reverse(reverses, pl.program_id(1))
    if steps % chunk == 0:
        return chunk, reverse
    i = pl.program_id(3)
    place = jnp.where(reverse, pl.num_programs(3) - 1 - i, i)
    return jnp.minimum(chunk, steps - place * chunk), reverse


def _fold_chunk(step, carry_ref, steps_here, reverse):
    """Folds ``step(t, carry) -> carry`` over a chunk; the carry waits in ``carry_ref``."""

    @pl.when(pl.program_id(3) == 0)
    def _():
        carry_ref[...] = jnp.zeros_like(carry_ref)

    def in_order(i, carry):
        return step(jnp.where(reverse, steps_here - 1 - i, i), carry)

    carry_ref[...] = jax.lax.fori_loop(0, steps_here, in_order, carry_ref[...])
