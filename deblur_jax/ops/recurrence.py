"""The linear recurrence that scans a feature map in one direction, gated at every pixel.

``h[t] = g[t] (h[t-1] - x[t]) + x[t]`` with ``h[-1] = 0``: an IIR filter of the first order whose
coefficient g changes from pixel to pixel (Zhang et al., CVPR 2018, section 3).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["auto", "scan", "associative"]
IMPLEMENTATIONS = ("auto", "scan", "associative")


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
        implementation: "scan" is ``jax.lax.scan``, the reference; "associative" is
            ``jax.lax.associative_scan``, of logarithmic depth and more memory; "auto" is "scan",
            which was faster on the CPU (the choice is not measured on other backends).

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
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"unknown implementation {implementation!r}: choose from {known}")
    return _gated_recurrence(inputs, gates, axis, reverse, implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _gated_recurrence(inputs, gates, axis, reverse, implementation):
    weighted = (1.0 - gates.astype(jnp.float32)) * inputs.astype(jnp.float32)
    states = _linear_recurrence(gates, weighted, axis, reverse, implementation)
    return states.astype(inputs.dtype)


def _forward(inputs, gates, axis, reverse, implementation):
    states = _gated_recurrence(inputs, gates, axis, reverse, implementation)
    return states, (inputs, gates, states)


def _backward(axis, reverse, implementation, saved, d_states):
    """With a[t] = dL/dh[t] in all: a[t] = g[t+1] a[t+1] + dy[t], the recurrence backwards."""
    inputs, gates, states = saved
    next_gates = _shifted(gates, axis, -1 if not reverse else 1)
    d_total = _linear_recurrence(
        next_gates, d_states.astype(jnp.float32), axis, not reverse, implementation
    )
    previous = _shifted(states, axis, 1 if not reverse else -1).astype(jnp.float32)
    d_inputs = d_total * (1.0 - gates.astype(jnp.float32))
    d_gates = d_total * (previous - inputs.astype(jnp.float32))
    return d_inputs.astype(inputs.dtype), d_gates.astype(gates.dtype)


_gated_recurrence.defvjp(_forward, _backward)


def _linear_recurrence(gates, terms, axis, reverse, implementation):
    """``h[t] = g[t] h[t-1] + u[t]``, float32, u being ``terms``."""
    if implementation == "associative":
        elements = (gates.astype(jnp.float32), terms)
        return jax.lax.associative_scan(_compose, elements, reverse=reverse, axis=axis)[1]

    def step(carry, gate_and_term):
        gate, term = gate_and_term
        carry = gate.astype(jnp.float32) * carry + term
        return carry, carry

    lines = (jnp.moveaxis(gates, axis, 0), jnp.moveaxis(terms, axis, 0))
    _, states = jax.lax.scan(step, jnp.zeros_like(lines[1][0]), lines, reverse=reverse)
    return jnp.moveaxis(states, 0, axis)


def _compose(first, second):
    """Two steps of the recurrence as one: h -> g2 (g1 h + u1) + u2."""
    (gate_1, term_1), (gate_2, term_2) = first, second
    return gate_1 * gate_2, gate_2 * term_1 + term_2


def _shifted(values, axis, by):
    """``values`` moved by one along an axis, 0 moving in."""
    before_and_after = (1, 0) if by > 0 else (0, 1)
    padding = [(0, 0)] * values.ndim
    padding[axis] = before_and_after
    window = slice(0, -1) if by > 0 else slice(1, None)
    index = [slice(None)] * values.ndim
    index[axis] = window
    return jnp.pad(values, padding)[tuple(index)]
