"""The gated recurrence as a Pallas kernel for NVIDIA GPUs, which Triton compiles.

A program of the grid owns some lines of one image in one direction, keeps their carry in registers
and walks along the scan. It reads the NHWC arrays as they lie, each of them once in each
direction. Loads do not depend on the carry, so those of several steps are issued together.
"""

import dataclasses
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
    return with_gradient_rule(_forward, _backward, interpret=interpret)


def _forward(
    inputs: jax.Array, gates: jax.Array, directions: Sequence[Direction], *, interpret: bool
) -> jax.Array:
    """States (b, h, w, d·c) of all directions."""
    states = [jax.lax.empty(gates.shape, inputs.dtype)]
    for axis, first, reverses in neighbours_over_one_axis(directions):
        scan = _Scan(axis, first, reverses, inputs.shape)
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
        scan = _Scan(axis, first, reverses, inputs.shape)
        arrays = [inputs, gates, states, d_states]
        results = _call(_backward_kernel, scan, arrays, results, interpret)
    of_directions, d_gates = results
    by_direction = of_directions.reshape(*inputs.shape[:3], len(directions), -1)
    return by_direction.sum(3).astype(inputs.dtype), d_gates


@dataclasses.dataclass(frozen=True)
class _Scan:
    """Neighbouring directions over one axis, and how programs of the grid share their lines.

    Args:
        axis: that the scan runs along, 1 or 2.
        first: the place of the first of its directions in the arrays of gates and states.
        reverses: of each of its directions.
        shape: of the inputs, (b, h, w, c).
    """

    axis: int
    first: int
    reverses: tuple[bool, ...]
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Of the scan, in steps."""
        return self.shape[self.axis]

    @property
    def width(self) -> int:
        """Of the array across the scan, in lines."""
        return self.shape[3 - self.axis]

    @property
    def channels(self) -> int:
        """Of each direction."""
        return self.shape[3]

    @property
    def block(self) -> tuple[int, int]:
        """Lines and channels of a program; Triton wants powers of two."""
        channels = pl.next_power_of_2(self.channels)
        return max(1, _VALUES_OF_A_WARP // channels), channels

    @property
    def grid(self) -> tuple[int, int, int]:
        """Images, directions, and blocks of lines."""
        return self.shape[0], len(self.reverses), math.ceil(self.width / self.block[0])


class _Lines:
    """The lines of one program of the grid, in one direction; made inside the kernel."""

    def __init__(self, scan: _Scan):
        self._scan = scan
        self._batch, direction, block = (pl.program_id(i) for i in range(3))
        lines, channels = scan.block
        self._line = block * lines
        self._first_channel = (scan.first + direction) * scan.channels
        self._reverse = _chosen(scan.reverses, direction)
        is_line = self._line + jnp.arange(lines) < scan.width
        is_channel = jnp.arange(channels) < scan.channels
        self._inside = is_line[:, None] & is_channel[None, :]

    def load(self, ref: Any, step: Any, *, all_directions: bool) -> jax.Array:
        """(lines, channels) float32 of an array at a step; 0 before the scan's start and beyond.

        Args:
            ref: the array.
            step: counted in the order of the scan.
            all_directions: whether the array has a block of channels for each direction.
        """
        place = self._place(ref, step, all_directions)
        return plgpu.load(place, mask=self._mask(step), other=0.0).astype(jnp.float32)

    def store(self, ref: Any, step: Any, values: jax.Array) -> None:
        """Writes (lines, channels) of an array with a block of channels for each direction."""
        place = self._place(ref, step, all_directions=True)
        plgpu.store(place, values.astype(ref.dtype), mask=self._mask(step))

    def _place(self, ref: Any, step: Any, all_directions: bool) -> Any:
        scan = self._scan
        position = jnp.where(self._reverse, scan.length - 1 - step, step)
        lines = pl.ds(self._line, scan.block[0])
        # Not a constant, so that a block of channels may reach beyond the array's end.
        channels = pl.ds(self._first_channel * int(all_directions), scan.block[1])
        if scan.axis == 1:
            return ref.at[self._batch, position, lines, channels]
        return ref.at[self._batch, lines, position, channels]

    def _mask(self, step: Any) -> jax.Array:
        return self._inside & (step >= 0) & (step < self._scan.length)


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
    return pl.pallas_call(
        functools.partial(kernel, scan, len(results)),
        grid=scan.grid,
        out_shape=[jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results],
        input_output_aliases={i: i for i in range(len(results))},
        compiler_params=plgpu.CompilerParams(num_warps=1),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*results, *arrays)


def _forward_kernel(scan: _Scan, num_results: int, *refs: Any) -> None:
    x_ref, g_ref, h_ref = refs[num_results:]
    lines = _Lines(scan)

    def steps(i: Any, h: jax.Array) -> jax.Array:
        here = [i * _STEPS_AT_ONCE + k for k in range(_STEPS_AT_ONCE)]
        xs = [lines.load(x_ref, t, all_directions=False) for t in here]
        gs = [lines.load(g_ref, t, all_directions=True) for t in here]
        for t, x, g in zip(here, xs, gs, strict=True):
            h = g * (h - x) + x
            lines.store(h_ref, t, h)
        return h

    jax.lax.fori_loop(
        0, math.ceil(scan.length / _STEPS_AT_ONCE), steps, jnp.zeros(scan.block, jnp.float32)
    )


def _backward_kernel(scan: _Scan, num_results: int, *refs: Any) -> None:
    """From the end of the scan: with a = dL/dh, a[t] = dy[t] + g[t+1] a[t+1]."""
    x_ref, g_ref, h_ref, dy_ref, dx_ref, dg_ref = refs[num_results:]
    lines = _Lines(scan)

    def steps(i: Any, passed_on: jax.Array) -> jax.Array:
        here = [scan.length - 1 - i * _STEPS_AT_ONCE - k for k in range(_STEPS_AT_ONCE)]
        xs = [lines.load(x_ref, t, all_directions=False) for t in here]
        gs, dys = ([lines.load(r, t, all_directions=True) for t in here] for r in (g_ref, dy_ref))
        before = [lines.load(h_ref, t - 1, all_directions=True) for t in here]
        for t, x, g, dy, h in zip(here, xs, gs, dys, before, strict=True):
            total = dy + passed_on
            lines.store(dx_ref, t, total * (1.0 - g))
            lines.store(dg_ref, t, total * (h - x))
            passed_on = g * total
        return passed_on

    jax.lax.fori_loop(
        0, math.ceil(scan.length / _STEPS_AT_ONCE), steps, jnp.zeros(scan.block, jnp.float32)
    )
