"""How many operations a function takes, counted from its jaxpr.

A compiler's own count has the body of a loop only once.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def multiply_accumulates(function: Callable, *arguments: Any) -> int:
    """Counts the multiplications of the convolutions and matrix products of a function.

    One multiplication and its addition count as one. Loops count as often as they run (``while``
    loops, whose count is not known beforehand, once); of a conditional the costliest branch counts.

    Args:
        function: of JAX.
        *arguments: arrays, or shapes of them.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = _shape(equation.invars[0])
        return math.prod(_shape(equation.outvars[0])) * math.prod(
            shape[axis] for axis in contracted
        )
    if name in ("onednn_convolution", "onednn_convolution_relu"):
        return math.prod(_shape(equation.outvars[0])) * math.prod(_shape(equation.invars[1])[:-1])
    if name == "onednn_product":
        return math.prod(_shape(equation.outvars[0])) * _shape(equation.invars[0])[0]
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(equation)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _of_convolution(equation: core.JaxprEqn) -> int:
    """Every output takes one multiplication for each tap of the kernel and input channel."""
    kernel = _shape(equation.invars[1])
    _, input_channels, *spatial = equation.params["dimension_numbers"].rhs_spec
    taps = kernel[input_channels] * math.prod(kernel[axis] for axis in spatial)
    return math.prod(_shape(equation.outvars[0])) * taps


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner_jaxprs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    found = []
    for value in equation.params.values():
        for candidate in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(candidate, core.ClosedJaxpr):
                found.append(candidate.jaxpr)
            elif isinstance(candidate, core.Jaxpr):
                found.append(candidate)
    return found
