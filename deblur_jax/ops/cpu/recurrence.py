"""The gated recurrence in place: the fastest form on the CPU.

Each step of the scan slices its lines out of the whole arrays and writes its results into the whole
result. On the CPU that is many times faster than a scan over transposed copies. The gradient is the
same recurrence in the opposite direction: it keeps inputs, gates and states, and nothing else.

It has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deblur_jax.ops.recurrence import Direction, with_gradient_rule

_LINES_FORWARD, _LINES_BACKWARD = 2, 1
"""How many lines one step of the scan computes; these are the fastest numbers on the CPU. With one
line forward, which is written where the line before it was, XLA does not vectorize. A backward step
has so many results that XLA computes shared parts of longer chains again."""


def _forward(inputs: jax.Array, gates: jax.Array, directions: Sequence[Direction]) -> jax.Array:
    """The state of each pixel is written where its gate was: no new array is needed."""
    states = gates.astype(jnp.promote_types(inputs.dtype, gates.dtype))
    for slot, direction in enumerate(directions):
        states = _one_forward(states, inputs, slot, direction)
    return states.astype(inputs.dtype)


def _one_forward(
    states: jax.Array, inputs: jax.Array, slot: int, direction: Direction
) -> jax.Array:
    channels = inputs.shape[-1]
    first = slot * channels

    def step(carry: Any, lines: _Lines) -> Any:
        h, states = carry
        results = []
        for x, g in zip(lines.of(inputs), lines.of(states, first, channels), strict=True):
            h = g * (h - x) + x
            results.append(h)
        return h, lines.written(states, results, first)

    start = (_zero_line(inputs, direction), states)
    return _over_lines(step, start, inputs.shape, direction, _LINES_FORWARD)[1]


def _backward(
    inputs: jax.Array,
    gates: jax.Array,
    states: jax.Array,
    d_states: jax.Array,
    directions: Sequence[Direction],
) -> tuple[jax.Array, jax.Array]:
    d_inputs = jnp.zeros(inputs.shape, jnp.float32)
    d_gates = jax.lax.empty(gates.shape, gates.dtype)
    for slot, direction in enumerate(directions):
        d_inputs, d_gates = _one_backward(
            d_inputs, d_gates, inputs, gates, states, d_states, slot, direction
        )
    return d_inputs.astype(inputs.dtype), d_gates


def _one_backward(
    d_inputs: jax.Array,
    d_gates: jax.Array,
    inputs: jax.Array,
    gates: jax.Array,
    states: jax.Array,
    d_states: jax.Array,
    slot: int,
    direction: Direction,
) -> tuple[jax.Array, jax.Array]:
    """The gradient of one direction: with a = dL/dh, a[t] = dy[t] + g[t+1] a[t+1] from the end."""
    channels = inputs.shape[-1]
    first = slot * channels

    def step(carry: Any, lines: _Lines) -> Any:
        passed_on, d_inputs, d_gates = carry
        gs, hs, dys = (lines.of(array, first, channels) for array in (gates, states, d_states))
        previous = [*hs[1:], lines.after(states, first, channels)]
        summed, results = [], []
        for x, g, h, dy, so_far in zip(
            lines.of(inputs), gs, previous, dys, lines.of(d_inputs), strict=True
        ):
            total = dy + passed_on
            summed.append(so_far + total * (1.0 - g))
            results.append(total * (h - x))
            passed_on = g * total
        d_inputs = lines.written(d_inputs, summed)
        return passed_on, d_inputs, lines.written(d_gates, results, first)

    opposite = Direction(direction.axis, not direction.reverse)
    start = (_zero_line(inputs, direction), d_inputs, d_gates)
    return _over_lines(step, start, inputs.shape, opposite, _LINES_BACKWARD)[1:]


class _Lines(NamedTuple):
    """Some neighbouring rows or columns, in the order of a scan, starting at ``start``."""

    start: jax.Array | int
    how_many: int
    direction: Direction

    def of(
        self, array: jax.Array, first_channel: int = 0, channels: int | None = None
    ) -> list[jax.Array]:
        """The lines of an array, each (b, 1, w, c) or (b, h, 1, c), float32."""
        block = self._slice(array, self.start, self.how_many, first_channel, channels)
        lines = jnp.split(block.astype(jnp.float32), self.how_many, self.direction.axis)
        return lines[::-1] if self.direction.reverse else lines

    def after(self, array: jax.Array, first_channel: int, channels: int | None) -> jax.Array:
        """The line that follows in the order of the scan; 0 beyond the end."""
        beyond = array.shape[self.direction.axis]
        index = self.start - 1 if self.direction.reverse else self.start + self.how_many
        line = self._slice(array, jnp.clip(index, 0, beyond - 1), 1, first_channel, channels)
        inside = (index >= 0) & (index < beyond)
        return jnp.where(inside, line.astype(jnp.float32), 0.0)

    def written(
        self, array: jax.Array, lines: list[jax.Array], first_channel: int = 0
    ) -> jax.Array:
        """The array with the lines in their places."""
        lines = lines[::-1] if self.direction.reverse else lines
        block = jnp.concatenate(lines, self.direction.axis).astype(array.dtype)
        return jax.lax.dynamic_update_slice(array, block, self._corner(self.start, first_channel))

    def _slice(
        self, array: jax.Array, start: Any, count: int, first_channel: int, channels: int | None
    ) -> jax.Array:
        sizes = list(array.shape)
        sizes[self.direction.axis] = count
        sizes[-1] = channels or array.shape[-1]
        return jax.lax.dynamic_slice(array, self._corner(start, first_channel), sizes)

    def _corner(self, start: Any, first_channel: int) -> list[Any]:
        corner = [0, 0, 0, first_channel]
        corner[self.direction.axis] = start
        return corner


def _over_lines(
    step: Callable, carry: Any, shape: Sequence[int], direction: Direction, at_once: int
) -> Any:
    """Folds ``step(carry, lines) -> carry`` over all lines of the scan, some at once."""
    length = shape[direction.axis]
    blocks, rest = divmod(length, at_once)
    # What does not fill a block comes last in the order of the scan.
    offset = rest if direction.reverse else 0

    def scanned(carry: Any, block: jax.Array) -> tuple[Any, None]:
        return step(carry, _Lines(offset + block * at_once, at_once, direction)), None

    if blocks:
        carry, _ = jax.lax.scan(scanned, carry, jnp.arange(blocks), reverse=direction.reverse)
    if rest:
        carry = step(carry, _Lines(0 if direction.reverse else length - rest, rest, direction))
    return carry


def _zero_line(inputs: jax.Array, direction: Direction) -> jax.Array:
    shape = list(inputs.shape)
    shape[direction.axis] = 1
    return jnp.zeros(shape, jnp.float32)


recurrence_in_place = with_gradient_rule(_forward, _backward)
