"""The gated recurrence as a Pallas kernel for NVIDIA GPUs, which Triton compiles.

A program of the grid owns some lines of one image in one direction, keeps their carry in registers
and walks along the scan. It reads the NHWC arrays as they lie, each of them once in each
direction. Loads do not depend on the carry, so those of several steps are issued together.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from deblur_jax.ops.recurrence import (
    Direction,
    Recurrence,
    neighbours_over_one_axis,
    with_gradient_rule,
)

_VALUES_OF_A_WARP = 128
"""Four for each of 32 threads: loads of 16 bytes in float32."""

_STEPS_AT_ONCE = 8
"""Steps whose loads are issued together."""


def make_recurrence(*, interpret: bool) -> Recurrence:
    """The recurrence as a kernel; as ``ops.recurrence.gated_recurrence``.

    It has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.

    Args:
        interpret: run the kernel step by step in JAX, as a machine without a GPU can (slowly).
    """
    return with_gradient_rule(
        functools.partial(_forward, interpret=interpret),
        functools.partial(_backward, interpret=interpret),
    )


def _forward(
    inputs: jax.Array, gates: jax.Array, directions: Sequence[Direction], *, interpret: bool
) -> jax.Array:
    """States (b, h, w, d·c) of all directions."""
    states = [jax.lax.empty(gates.shape, inputs.dtype)]
    for axis, first, reverses in neighbours_over_one_axis(directions):
        scan = _Scan(axis, first, reverses)
        states = _call(_forward_kernel, scan, [inputs, gates], states, interpret)
    return states[0]


def _backward(
    inputs: jax.Array,
    gates: jax.Array,
    states: jax.Array,
    d_states: jax.Array,
    directions: Sequence[Direction],
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the inputs and of the gates; those of the inputs are summed in one order."""
    results = [
        jax.lax.empty(gates.shape, jnp.dtype(jnp.float32)),
        jax.lax.empty(gates.shape, gates.dtype),
    ]
    for axis, first, reverses in neighbours_over_one_axis(directions):
        scan = _Scan(axis, first, reverses)
        arrays = [inputs, gates, states, d_states]
        results = _call(_backward_kernel, scan, arrays, results, interpret)
    of_directions, d_gates = results
    by_direction = of_directions.reshape(*inputs.shape[:3], len(directions), -1)
    return by_direction.sum(3).astype(inputs.dtype), d_gates


class _Scan:
    """Where a program of the grid reads and writes: its lines, its channels, the order of steps.

    Args:
        axis: that the scan runs along, 1 or 2.
        first: the place of the first of its directions in the arrays of gates and states.
        reverses: of each of its directions.
    """

    def __init__(self, axis: int, first: int, reverses: tuple[bool, ...]):
        self.axis, self.first, self.reverses = axis, first, reverses

    def lay_out(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Takes the shape of the inputs; returns the grid."""
        self.length, self.width, self.channels = shape[self.axis], shape[3 - self.axis], shape[3]
        self.padded_channels = pl.next_power_of_2(self.channels)
        self.lines = max(1, _VALUES_OF_A_WARP // self.padded_channels)
        return shape[0], len(self.reverses), math.ceil(self.width / self.lines)

    def begin(self) -> None:
        """Reads this program's place in the grid."""
        self._batch, direction, block = (pl.program_id(i) for i in range(3))
        self._line = block * self.lines
        self._first_channel = (self.first + direction) * self.channels
        self._reverse = _chosen(self.reverses, direction)
        line = self._line + jnp.arange(self.lines)
        channel = jnp.arange(self.padded_channels)
        self._inside = (line < self.width)[:, None] & (channel < self.channels)[None, :]

    def zeros(self) -> jax.Array:
        """A carry, (lines, channels)."""
        return jnp.zeros((self.lines, self.padded_channels), jnp.float32)

    def load(self, ref: Any, step: Any, *, all_directions: bool) -> jax.Array:
        """The lines of an array at a step of the scan in float32; 0 before its start and beyond.

        Args:
            ref: the array.
            step: counted in the order of the scan.
            all_directions: whether the array has a block of channels for each direction.
        """
        place = self._place(ref, step, all_directions)
        return plgpu.load(place, mask=self._mask(step), other=0.0).astype(jnp.float32)

    def store(self, ref: Any, step: Any, values: jax.Array) -> None:
        """Writes the lines of an array with a block of channels for each direction."""
        place = self._place(ref, step, all_directions=True)
        plgpu.store(place, values.astype(ref.dtype), mask=self._mask(step))

    def _place(self, ref: Any, step: Any, all_directions: bool) -> Any:
        position = jnp.where(self._reverse, self.length - 1 - step, step)
        lines = pl.ds(self._line, self.lines)
        # Not a constant, so that a block of channels may reach beyond the array's end.
        channels = pl.ds(self._first_channel * int(all_directions), self.padded_channels)
        if self.axis == 1:
            return ref.at[self._batch, position, lines, channels]
        return ref.at[self._batch, lines, position, channels]

    def _mask(self, step: Any) -> jax.Array:
        return self._inside & (step >= 0) & (step < self.length)


def _chosen(reverses: tuple[bool, ...], direction: Any) -> Any:
    """Whether a direction, known when the kernel runs, is a reversed one."""
    chosen: Any = reverses[0]
    for i, reverse in enumerate(reverses[1:], 1):
        chosen = jnp.where(direction == i, reverse, chosen)
    return chosen


def _call(
    kernel: Callable,
    scan: _Scan,
    arrays: list[jax.Array],
    results: list[jax.Array],
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel, which writes its directions' blocks of channels into ``results``."""
    grid = scan.lay_out(arrays[0].shape)
    return pl.pallas_call(
        functools.partial(kernel, scan, len(results)),
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results],
        input_output_aliases={i: i for i in range(len(results))},
        compiler_params=plgpu.CompilerParams(num_warps=1),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*results, *arrays)


def _forward_kernel(scan: _Scan, num_results: int, *refs: Any) -> None:
    x_ref, g_ref, h_ref = refs[num_results:]
    scan.begin()

    def steps(i: Any, h: jax.Array) -> jax.Array:
        here = [i * _STEPS_AT_ONCE + k for k in range(_STEPS_AT_ONCE)]
        xs = [scan.load(x_ref, t, all_directions=False) for t in here]
        gs = [scan.load(g_ref, t, all_directions=True) for t in here]
        for t, x, g in zip(here, xs, gs, strict=True):
            h = g * (h - x) + x
            scan.store(h_ref, t, h)
        return h

    jax.lax.fori_loop(0, math.ceil(scan.length / _STEPS_AT_ONCE), steps, scan.zeros())


def _backward_kernel(scan: _Scan, num_results: int, *refs: Any) -> None:
    """From the end of the scan: with a = dL/dh, a[t] = dy[t] + g[t+1] a[t+1]."""
    x_ref, g_ref, h_ref, dy_ref, dx_ref, dg_ref = refs[num_results:]
    scan.begin()

    def steps(i: Any, passed_on: jax.Array) -> jax.Array:
        here = [scan.length - 1 - i * _STEPS_AT_ONCE - k for k in range(_STEPS_AT_ONCE)]
        xs = [scan.load(x_ref, t, all_directions=False) for t in here]
        gs, dys = ([scan.load(r, t, all_directions=True) for t in here] for r in (g_ref, dy_ref))
        before = [scan.load(h_ref, t - 1, all_directions=True) for t in here]
        for t, x, g, dy, h in zip(here, xs, gs, dys, before, strict=True):
            total = dy + passed_on
            scan.store(dx_ref, t, total * (1.0 - g))
            scan.store(dg_ref, t, total * (h - x))
            passed_on = g * total
        return passed_on

    jax.lax.fori_loop(0, math.ceil(scan.length / _STEPS_AT_ONCE), steps, scan.zeros())
