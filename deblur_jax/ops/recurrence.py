"""The linear recurrence that scans a feature map in one direction, gated at every pixel.

``h[t] = g[t] (h[t-1] - x[t]) + x[t]`` with ``h[-1] = 0``: an IIR filter of the first order whose
coefficient g changes from pixel to pixel (Zhang et al., CVPR 2018, section 3).

This is the reference form, ``jax.lax.scan`` along rows or columns; it can be differentiated in
every way. The faster forms of single backends have the same signature: ``cpu/recurrence.py``,
``gpu/recurrence.py`` and ``tpu/recurrence.py``.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deblur_jax.runtime.differentiation import naming_the_plain_backend


class Direction(NamedTuple):
    """A scan over rows (axis 1) or columns (axis 2), from the last one if ``reverse``."""

    axis: int
    reverse: bool


DIRECTIONS = {
    "top_to_bottom": Direction(1, False),
    "bottom_to_top": Direction(1, True),
    "left_to_right": Direction(2, False),
    "right_to_left": Direction(2, True),
}

Recurrence = Callable[[jax.Array, jax.Array, Sequence[str]], jax.Array]
"""The signature of ``gated_recurrence`` and of every other form of it."""


def gated_recurrence(
    inputs: jax.Array, gates: jax.Array, directions: Sequence[str] = tuple(DIRECTIONS)
) -> jax.Array:
    """Scans a feature map in one or several directions.

    The carry is float32 whatever the dtype.

    Args:
        inputs: x, (b, h, w, c).
        gates: g in (-1, 1), (b, h, w, c * directions): for each direction a block of c channels.
        directions: names in ``DIRECTIONS``.

    Returns:
        The states h of each direction, in the shape and the order of ``gates``, in the dtype of
        ``inputs``.

    Raises:
        ValueError: for other shapes, or an unknown direction.
    """
    scans = check_recurrence(inputs, gates, directions)
    blocks = jnp.split(gates, len(scans), axis=-1)
    states = [_scan(inputs, block, scan) for block, scan in zip(blocks, scans, strict=True)]
    return jnp.concatenate(states, axis=-1)


def _scan(inputs: jax.Array, gates: jax.Array, direction: Direction) -> jax.Array:
    axis, reverse = direction
    lines = [jnp.moveaxis(a.astype(jnp.float32), axis, 0) for a in (inputs, gates)]

    def step(h: jax.Array, line: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, g = line
        h = g * (h - x) + x
        return h, h

    before = jnp.zeros_like(jax.lax.squeeze(jax.lax.slice_in_dim(lines[0], 0, 1), [0]))
    _, states = jax.lax.scan(step, before, lines, reverse=reverse)
    return jnp.moveaxis(states, 0, axis).astype(inputs.dtype)


def check_recurrence(
    inputs: jax.Array, gates: jax.Array, directions: Sequence[str]
) -> tuple[Direction, ...]:
    """Checks the arguments of a recurrence; returns the directions.

    Raises:
        ValueError: saying what is wrong.
    """
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown or not directions:
        raise ValueError(f"unknown directions {unknown}: choose from {', '.join(DIRECTIONS)}")
    expected = (*inputs.shape[:-1], len(directions) * inputs.shape[-1])
    if inputs.ndim != 4 or gates.shape != expected:
        raise ValueError(
            f"expected inputs (b, h, w, c) and gates (b, h, w, {len(directions)}c), got "
            f"{inputs.shape} and {gates.shape}"
        )
    return tuple(DIRECTIONS[name] for name in directions)


def neighbours_over_one_axis(
    directions: Sequence[Direction],
) -> Iterator[tuple[int, int, tuple[bool, ...]]]:
    """Neighbouring directions over one axis: the axis, the first's place, whether each reverses."""
    numbered = enumerate(directions)
    for axis, members in itertools.groupby(numbered, key=lambda member: member[1].axis):
        places, group = zip(*members, strict=True)
        yield axis, places[0], tuple(direction.reverse for direction in group)


def with_gradient_rule(forward: Callable, backward: Callable, **options: Any) -> Recurrence:
    """Makes a recurrence of a function for the states and one for the gradient.

    The gradient keeps inputs, gates and states, and nothing else.

    Args:
        forward: ``(inputs, gates, directions) -> states``.
        backward: ``(inputs, gates, states, d_states, directions) -> (d_inputs, d_gates)``.
        **options: handed to both.

    Returns:
        A function like ``gated_recurrence``, without a forward mode of differentiation.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def states_of(
        inputs: jax.Array, gates: jax.Array, directions: tuple[Direction, ...]
    ) -> jax.Array:
        return forward(inputs, gates, directions, **options)

    def keep(
        inputs: jax.Array, gates: jax.Array, directions: tuple[Direction, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        states = states_of(inputs, gates, directions)
        return states, (inputs, gates, states)

    def pull_back(
        directions: tuple[Direction, ...],
        kept: tuple[jax.Array, jax.Array, jax.Array],
        d_states: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        return backward(*kept, d_states, directions, **options)

    states_of.defvjp(keep, pull_back)

    def recurrence(
        inputs: jax.Array, gates: jax.Array, directions: Sequence[str] = tuple(DIRECTIONS)
    ) -> jax.Array:
        with naming_the_plain_backend():
            return states_of(inputs, gates, check_recurrence(inputs, gates, directions))

    return recurrence
