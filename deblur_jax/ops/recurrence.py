"""The linear recurrence that scans a feature map in one direction, gated at every pixel.

``h[t] = g[t] (h[t-1] - x[t]) + x[t]`` with ``h[-1] = 0``: an IIR filter of the first order whose
coefficient g changes from pixel to pixel (Zhang et al., CVPR 2018, section 3).
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from deblur_jax.ops.recurrence_pallas import pallas_backward, pallas_forward

Implementation = Literal["auto", "scan", "associative", "pallas"]
IMPLEMENTATIONS = ("auto", "scan", "associative", "pallas")

_LINES_FORWARD, _LINES_BACKWARD = 2, 1
"""Lines a step of the scan, the fastest on the CPU: one line forward, written where the one before
was, is not vectorized; the backward step has so many results that XLA computes shared parts of
longer chains again."""


class Direction(NamedTuple):
    """Over rows (axis 1) or columns (axis 2), from the last one in ``reverse``."""

    axis: int
    reverse: bool


DIRECTIONS = {
    "top_to_bottom": Direction(1, False),
    "bottom_to_top": Direction(1, True),
    "left_to_right": Direction(2, False),
    "right_to_left": Direction(2, True),
}


def gated_recurrence(
    inputs: jax.Array,
    gates: jax.Array,
    *,
    axis: int,
    reverse: bool = False,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Scans ``inputs`` along one spatial axis.

    The carry is float32 whatever the dtype. The gradient is the same recurrence in the opposite
    direction; it keeps inputs, gates and outputs, and nothing else.

    Args:
        inputs: x, (b, h, w, c).
        gates: g in (-1, 1), the same shape.
        axis: 1 to scan over rows, 2 over columns.
        reverse: from the last row or column to the first.
        implementation:
            "scan" is ``jax.lax.scan``, the reference.
            "associative" is ``jax.lax.associative_scan``, of logarithmic depth and more memory.
            "pallas" is a kernel for TPUs, interpreted (slowly) on the CPU. It was compiled for
            TPUs and has not run on one.
            "auto" is "pallas" on TPUs and "scan" elsewhere. "scan" is the fastest on the CPU; on
            GPUs the choice is not measured.

    Returns:
        h, the shape and dtype of ``inputs``.

    Raises:
        ValueError: for other shapes, axes or implementations.
    """
    if inputs.ndim != 4 or inputs.shape != gates.shape:
        raise ValueError(
            f"expected inputs and gates of one shape (b, h, w, c), got {inputs.shape} and "
            f"{gates.shape}"
        )
    if axis not in (1, 2):
        raise ValueError(f"axis is 1, over rows, or 2, over columns, not {axis}")
    _check(implementation)
    return _recurrences(inputs, gates, (Direction(axis, reverse),), implementation)


def four_way_recurrence(
    inputs: jax.Array, gates: jax.Array, *, implementation: Implementation = "auto"
) -> jax.Array:
    """Scans ``inputs`` in all four directions, as one stage of SVRNN does.

    The same as four ``gated_recurrence``, side by side; without copies of the gates and outputs.

    Args:
        inputs: x, (b, h, w, c).
        gates: (b, h, w, 4c), one block of c for each of ``DIRECTIONS``, in their order.
        implementation: as of ``gated_recurrence``.

    Returns:
        h of each direction, (b, h, w, 4c), in the same order.

    Raises:
        ValueError: for other shapes or implementations.
    """
    expected = (*inputs.shape[:-1], len(DIRECTIONS) * inputs.shape[-1])
    if inputs.ndim != 4 or gates.shape != expected:
        raise ValueError(
            f"expected inputs (b, h, w, c) and gates (b, h, w, 4c), got {inputs.shape} and "
            f"{gates.shape}"
        )
    _check(implementation)
    return _recurrences(inputs, gates, tuple(DIRECTIONS.values()), implementation)


def _check(implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"unknown implementation {implementation!r}: choose from {known}")


# One rule of differentiation for all: gates and states have a block of channels a direction.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _recurrences(inputs, gates, directions, implementation):
    forward, _ = _ALGORITHMS[implementation]
    return forward(inputs, gates, directions)


def _recurrences_forward(inputs, gates, directions, implementation):
    states = _recurrences(inputs, gates, directions, implementation)
    return states, (inputs, gates, states)


def _recurrences_backward(directions, implementation, saved, d_states):
    _, backward = _ALGORITHMS[implementation]
    return backward(*saved, d_states, directions)


_recurrences.defvjp(_recurrences_forward, _recurrences_backward)


# ------------------------------------------------------------------------------------------- scan
# A step slices its lines out of the whole arrays and writes its results into the whole result:
# many times faster on the CPU than scanning over transposed copies.


def _scan_forward(inputs, gates, directions):
    """Each gate gives its place to the state it leads to: no new array, if none needs the gates."""
    states = gates.astype(jnp.promote_types(inputs.dtype, gates.dtype))
    for slot, direction in enumerate(directions):
        states = _scan_one_forward(states, inputs, slot, direction)
    return states.astype(inputs.dtype)


def _scan_one_forward(states, inputs, slot, direction):
    channels = inputs.shape[-1]
    first = slot * channels

    def step(carry, lines):
        h, states = carry
        results = []
        for x, g in zip(lines.of(inputs), lines.of(states, first, channels), strict=True):
            h = g * (h - x) + x
            results.append(h)
        return h, lines.written(states, results, first)

    start = (_zero_line(inputs, direction), states)
    return _over_lines(step, start, inputs.shape, direction, _LINES_FORWARD)[1]


def _scan_backward(inputs, gates, states, d_states, directions):
    d_inputs = jnp.zeros(inputs.shape, jnp.float32)
    d_gates = jax.lax.empty(gates.shape, gates.dtype)
    for slot, direction in enumerate(directions):
        d_inputs, d_gates = _scan_one_backward(
            d_inputs, d_gates, inputs, gates, states, d_states, slot, direction
        )
    return d_inputs.astype(inputs.dtype), d_gates


def _scan_one_backward(d_inputs, d_gates, inputs, gates, states, d_states, slot, direction):
    """With a[t] = dL/dh[t] in all: a[t] = dy[t] + g[t+1] a[t+1], from the scan's end."""
    channels = inputs.shape[-1]
    first = slot * channels

    def step(carry, lines):
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
    count: int
    direction: Direction

    def of(self, array, first_channel=0, channels=None):
        """The lines of an array, each (b, 1, w, c) or (b, h, 1, c), float32."""
        block = self._slice(array, self.start, self.count, first_channel, channels)
        lines = jnp.split(block.astype(jnp.float32), self.count, self.direction.axis)
        return lines[::-1] if self.direction.reverse else lines

    def after(self, array, first_channel, channels):
        """The line that follows in the order of the scan; 0 beyond the end."""
        beyond = array.shape[self.direction.axis]
        index = self.start - 1 if self.direction.reverse else self.start + self.count
        line = self._slice(array, jnp.clip(index, 0, beyond - 1), 1, first_channel, channels)
        inside = (index >= 0) & (index < beyond)
        return jnp.where(inside, line.astype(jnp.float32), 0.0)

    def written(self, array, lines, first_channel=0):
        """The array with the lines in their places."""
        lines = lines[::-1] if self.direction.reverse else lines
        block = jnp.concatenate(lines, self.direction.axis).astype(array.dtype)
        return jax.lax.dynamic_update_slice(array, block, self._corner(self.start, first_channel))

    def _slice(self, array, start, count, first_channel, channels):
        sizes = list(array.shape)
        sizes[self.direction.axis] = count
        sizes[-1] = channels or array.shape[-1]
        return jax.lax.dynamic_slice(array, self._corner(start, first_channel), sizes)

    def _corner(self, start, first_channel):
        corner = [0, 0, 0, first_channel]
        corner[self.direction.axis] = start
        return corner


def _over_lines(step, carry, shape, direction, at_once):
    """Folds ``step(carry, lines) -> carry`` over all lines of the scan, some at once."""
    length = shape[direction.axis]
    blocks, rest = divmod(length, at_once)
    # What does not fill a block comes last in the order of the scan.
    offset = rest if direction.reverse else 0

    def scanned(carry, block):
        return step(carry, _Lines(offset + block * at_once, at_once, direction)), None

    if blocks:
        carry, _ = jax.lax.scan(scanned, carry, jnp.arange(blocks), reverse=direction.reverse)
    if rest:
        carry = step(carry, _Lines(0 if direction.reverse else length - rest, rest, direction))
    return carry


def _zero_line(inputs, direction):
    shape = list(inputs.shape)
    shape[direction.axis] = 1
    return jnp.zeros(shape, jnp.float32)


# ------------------------------------------------------------------------------------ associative


def _associative_forward(inputs, gates, directions):
    x = inputs.astype(jnp.float32)
    blocks = jnp.split(gates.astype(jnp.float32), len(directions), axis=-1)
    states = [
        _linear_recurrence(g, (1.0 - g) * x, direction)
        for g, direction in zip(blocks, directions, strict=True)
    ]
    return jnp.concatenate(states, axis=-1).astype(inputs.dtype)


def _associative_backward(inputs, gates, states, d_states, directions):
    x = inputs.astype(jnp.float32)
    d_inputs, d_gates = jnp.zeros_like(x), []
    blocks = (
        jnp.split(array.astype(jnp.float32), len(directions), axis=-1)
        for array in (gates, states, d_states)
    )
    for g, h, dy, direction in zip(*blocks, directions, strict=True):
        opposite = Direction(direction.axis, not direction.reverse)
        total = _linear_recurrence(_previous(g, opposite), dy, opposite)
        d_inputs += total * (1.0 - g)
        d_gates.append(total * (_previous(h, direction) - x))
    d_gates = jnp.concatenate(d_gates, axis=-1)
    return d_inputs.astype(inputs.dtype), d_gates.astype(gates.dtype)


def _linear_recurrence(gates, terms, direction):
    """``h[t] = g[t] h[t-1] + u[t]``, u being ``terms``."""
    elements = (gates, terms)
    axis, reverse = direction
    return jax.lax.associative_scan(_compose, elements, reverse=reverse, axis=axis)[1]


def _compose(first, second):
    """Two steps of the recurrence as one: h -> g2 (g1 h + u1) + u2."""
    (gate_1, term_1), (gate_2, term_2) = first, second
    return gate_1 * gate_2, gate_2 * term_1 + term_2


def _previous(values, direction):
    """The line before each one in the order of the scan, 0 before the first."""
    axis, reverse = direction
    length = values.shape[axis]
    padding = [(0, 0)] * values.ndim
    padding[axis] = (0, 1) if reverse else (1, 0)
    start = 1 if reverse else 0
    return jax.lax.slice_in_dim(jnp.pad(values, padding), start, start + length, axis=axis)


# ------------------------------------------------------------------------------------------- auto


def _auto_forward(*arrays_and_directions):
    *arrays, directions = arrays_and_directions
    return jax.lax.platform_dependent(
        *arrays,
        tpu=functools.partial(pallas_forward, directions=directions),
        default=functools.partial(_scan_forward, directions=directions),
    )


def _auto_backward(*arrays_and_directions):
    *arrays, directions = arrays_and_directions
    return jax.lax.platform_dependent(
        *arrays,
        tpu=functools.partial(pallas_backward, directions=directions),
        default=functools.partial(_scan_backward, directions=directions),
    )


_ALGORITHMS = {
    "auto": (_auto_forward, _auto_backward),
    "scan": (_scan_forward, _scan_backward),
    "associative": (_associative_forward, _associative_backward),
    "pallas": (pallas_forward, pallas_backward),
}
