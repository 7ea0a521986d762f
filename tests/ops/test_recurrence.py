import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.ops.recurrence import (
    DIRECTIONS,
    IMPLEMENTATIONS,
    four_way_recurrence,
    gated_recurrence,
)
from tests import svrnn_golden
from tests.golden import relative_error

# Caffe's (n, c, h, w) is (b, c, width, height) of a picture: its last axis runs down the rows.
AXES = {"horizontal": 1, "vertical": 2}


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 3, 2, 1))


def by_definition(inputs, gates, axis, reverse):
    x, g = (np.moveaxis(a.astype(np.float64), axis, 0) for a in (inputs, gates))
    h, previous = np.zeros_like(x), np.zeros_like(x[0])
    for t in range(len(x))[:: -1 if reverse else 1]:
        previous = h[t] = g[t] * (previous - x[t]) + x[t]
    return np.moveaxis(h, 0, axis)


def random_case(shape, seed=0, limit=1.0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal(shape, np.float32)
    return inputs, rng.uniform(-limit, limit, shape).astype(np.float32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("orientation", AXES)
def test_outputs_and_gradients_equal_the_official_layers(orientation, direction, implementation):
    recorded = svrnn_golden.recorded("gaterecurrent")
    x, g, dy = (nhwc(recorded[name]) for name in ("x", "g", "dy"))

    def scan(x, g):
        options = {"axis": AXES[orientation], "reverse": direction == "reverse"}
        return gated_recurrence(x, g, implementation=implementation, **options)

    y, pull_back = jax.vjp(scan, x, g)
    for name, actual in zip(("y", "dx", "dg"), (y, *pull_back(dy)), strict=True):
        expected = nhwc(recorded[f"{orientation}_{direction}.{name}"])
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=8)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_any_shape_axis_and_direction(implementation, shape, axis, reverse):
    inputs, gates = random_case(shape)
    options = {"axis": axis, "reverse": reverse}
    actual = gated_recurrence(inputs, gates, implementation=implementation, **options)
    np.testing.assert_allclose(actual, by_definition(inputs, gates, **options), atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_is_that_of_finite_differences(implementation, axis, reverse):
    inputs, gates = random_case((1, 5, 6, 2))
    weights = np.random.default_rng(1).standard_normal(inputs.shape)
    step = 1e-6

    def loss(x, g):
        h = gated_recurrence(x, g, axis=axis, reverse=reverse, implementation=implementation)
        return jnp.sum(h * weights)

    def exact_loss(x, g):
        return np.sum(by_definition(x, g, axis, reverse) * weights)

    grads = jax.grad(loss, argnums=(0, 1))(inputs, gates)
    arguments = [inputs.astype(np.float64), gates.astype(np.float64)]
    for which, grad in enumerate(grads):
        for index in np.ndindex(inputs.shape):
            moved = [a.copy() for a in arguments]
            moved[which][index] += step
            difference = (exact_loss(*moved) - exact_loss(*arguments)) / step
            assert float(grad[index]) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_long_lines_with_gates_near_one(implementation):
    inputs, gates = random_case((1, 2048, 1, 2))
    gates = np.sign(gates) * np.float32(0.999)
    actual = gated_recurrence(inputs, gates, axis=1, implementation=implementation)
    assert relative_error(actual, by_definition(inputs, gates, 1, False)) < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_carry_is_float32_for_bfloat16(implementation):
    inputs, gates = (jnp.asarray(a, jnp.bfloat16) for a in random_case((1, 512, 1, 4), limit=0.99))
    actual = gated_recurrence(inputs, gates, axis=1, implementation=implementation)
    assert actual.dtype == jnp.bfloat16
    exact = by_definition(*(np.asarray(a, np.float32) for a in (inputs, gates)), 1, False)
    rounded = np.asarray(jnp.asarray(exact, jnp.bfloat16), np.float32)
    wrong = np.mean(np.asarray(actual, np.float32) != rounded)
    assert wrong < 0.02, "only where float32 itself falls on the other side of a rounding"


def directions_one_by_one(inputs, gates):
    states = [
        gated_recurrence(inputs, block, axis=axis, reverse=reverse, implementation="scan")
        for block, (axis, reverse) in zip(jnp.split(gates, 4, -1), DIRECTIONS.values(), strict=True)
    ]
    return jnp.concatenate(states, -1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_four_ways_are_four_directions(implementation, dtype):
    inputs, _ = random_case((2, 9, 7, 3))
    _, gates = random_case((2, 9, 7, 12))
    inputs, gates = jnp.asarray(inputs, dtype), jnp.asarray(gates, dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def states_and_gradients(function, inputs, gates):
        states, pull_back = jax.vjp(function, inputs, gates)
        return states, *pull_back(jnp.cos(states))

    at_once = functools.partial(four_way_recurrence, implementation=implementation)
    expected = states_and_gradients(directions_one_by_one, inputs, gates)
    tolerance = 1e-5 if dtype == jnp.float32 else 5e-2
    for ours, theirs in zip(states_and_gradients(at_once, inputs, gates), expected, strict=True):
        assert ours.dtype == dtype
        ours, theirs = (np.asarray(a, np.float32) for a in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def test_the_gradient_saves_inputs_gates_and_outputs_only():
    inputs, gates = random_case((1, 64, 8, 4))
    _, pull_back = jax.vjp(lambda x, g: gated_recurrence(x, g, axis=1), inputs, gates)
    saved = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert saved <= 3 * inputs.size


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 4, 4, 2), (1, 4, 4, 3)), {"axis": 1}, "one shape"),
        (((4, 4, 2), (4, 4, 2)), {"axis": 1}, "one shape"),
        (((1, 4, 4, 2), (1, 4, 4, 2)), {"axis": 3}, "axis is 1"),
        (((1, 4, 4, 2),) * 2, {"axis": 1, "implementation": "fast"}, "unknown implementation"),
    ],
)
def test_what_is_not_a_recurrence_is_refused(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        gated_recurrence(*(np.zeros(shape, np.float32) for shape in shapes), **options)


def test_four_ways_need_four_gates():
    arrays = np.zeros((1, 4, 4, 2), np.float32), np.zeros((1, 4, 4, 6), np.float32)
    with pytest.raises(ValueError, match="gates"):
        four_way_recurrence(*arrays)
    with pytest.raises(ValueError, match="unknown implementation"):
        four_way_recurrence(arrays[0], np.zeros((1, 4, 4, 8), np.float32), implementation="fast")
