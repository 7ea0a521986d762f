import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.ops.cpu.recurrence import recurrence_in_place
from deblur_jax.ops.gpu.recurrence import make_recurrence as make_gpu_recurrence
from deblur_jax.ops.recurrence import DIRECTIONS, Direction, gated_recurrence
from deblur_jax.ops.tpu.recurrence import make_recurrence as make_tpu_recurrence
from tests import svrnn_golden
from tests.accelerator import PLATFORM, SLOW_ON_CPU
from tests.golden import relative_error

# Caffe's (n, c, h, w) is (b, c, width, height) of an image: its last axis runs down the rows.
AXES = {"horizontal": 1, "vertical": 2}

FORMS = {
    "scan": gated_recurrence,
    "in place": recurrence_in_place,
    "TPU kernel": make_tpu_recurrence(interpret=PLATFORM != "tpu"),
    "GPU kernel": make_gpu_recurrence(interpret=PLATFORM != "gpu"),
}
FORMS_SLOW_ON_CPU = [*list(FORMS)[:-1], pytest.param("GPU kernel", marks=SLOW_ON_CPU)]

pytestmark = pytest.mark.accelerator


def name_of(axis, reverse):
    return next(name for name, way in DIRECTIONS.items() if way == Direction(axis, reverse))


def scan(form, inputs, gates, axis, reverse=False):
    return FORMS[form](inputs, gates, (name_of(axis, reverse),))


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("orientation", AXES)
def test_outputs_and_gradients_equal_the_official_layers(orientation, direction, form):
    recorded = svrnn_golden.recorded("gaterecurrent")
    x, g, dy = (nhwc(recorded[name]) for name in ("x", "g", "dy"))

    options = {"axis": AXES[orientation], "reverse": direction == "reverse"}
    y, pull_back = jax.vjp(lambda x, g: scan(form, x, g, **options), x, g)
    for name, actual in zip(("y", "dx", "dg"), (y, *pull_back(dy)), strict=True):
        expected = nhwc(recorded[f"{orientation}_{direction}.{name}"])
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS_SLOW_ON_CPU)
@settings(max_examples=8)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_any_shape_axis_and_direction(form, shape, axis, reverse):
    inputs, gates = random_case(shape)
    options = {"axis": axis, "reverse": reverse}
    actual = scan(form, inputs, gates, **options)
    np.testing.assert_allclose(actual, by_definition(inputs, gates, **options), atol=1e-5)


@pytest.mark.parametrize("form", FORMS_SLOW_ON_CPU)
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_is_that_of_finite_differences(form, axis, reverse):
    inputs, gates = random_case((1, 5, 6, 2))
    weights = np.random.default_rng(1).standard_normal(inputs.shape)
    step = 1e-6

    def loss(x, g):
        h = scan(form, x, g, axis, reverse)
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


@pytest.mark.parametrize("form", FORMS_SLOW_ON_CPU)
def test_long_lines_with_gates_near_one(form):
    inputs, gates = random_case((1, 2048, 1, 2))
    gates = np.sign(gates) * np.float32(0.999)
    actual = scan(form, inputs, gates, 1)
    assert relative_error(actual, by_definition(inputs, gates, 1, False)) < 1e-5


@pytest.mark.parametrize("form", FORMS_SLOW_ON_CPU)
def test_the_carry_is_float32_for_bfloat16(form):
    inputs, gates = (jnp.asarray(a, jnp.bfloat16) for a in random_case((1, 512, 1, 4), limit=0.99))
    actual = scan(form, inputs, gates, 1)
    assert actual.dtype == jnp.bfloat16
    exact = by_definition(*(np.asarray(a, np.float32) for a in (inputs, gates)), 1, False)
    rounded = np.asarray(jnp.asarray(exact, jnp.bfloat16), np.float32)
    wrong = np.mean(np.asarray(actual, np.float32) != rounded)
    assert wrong < 0.02, "only where float32 itself falls on the other side of a rounding"


def directions_one_by_one(inputs, gates):
    blocks = jnp.split(gates, len(DIRECTIONS), -1)
    states = [gated_recurrence(inputs, b, (n,)) for n, b in zip(DIRECTIONS, blocks, strict=True)]
    return jnp.concatenate(states, -1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_four_ways_are_four_directions(form, dtype):
    inputs, _ = random_case((2, 9, 7, 3))
    _, gates = random_case((2, 9, 7, 12))
    inputs, gates = jnp.asarray(inputs, dtype), jnp.asarray(gates, dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def states_and_gradients(function, inputs, gates):
        states, pull_back = jax.vjp(function, inputs, gates)
        return states, *pull_back(jnp.cos(states))

    expected = states_and_gradients(directions_one_by_one, inputs, gates)
    tolerance = 1e-5 if dtype == jnp.float32 else 5e-2
    for ours, theirs in zip(
        states_and_gradients(FORMS[form], inputs, gates), expected, strict=True
    ):
        assert ours.dtype == dtype
        ours, theirs = (np.asarray(a, np.float32) for a in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", ["in place", "TPU kernel", "GPU kernel"])
def test_the_gradient_saves_inputs_gates_and_outputs_only(form):
    inputs, gates = random_case((1, 64, 8, 4))
    _, pull_back = jax.vjp(lambda x, g: scan(form, x, g, 1), inputs, gates)
    saved = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
    assert saved <= 3 * inputs.size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("shapes", "directions", "message"),
    [
        (((1, 4, 4, 2), (1, 4, 4, 3)), ["top_to_bottom"], "expected inputs"),
        (((4, 4, 2), (4, 4, 2)), ["top_to_bottom"], "expected inputs"),
        (((1, 4, 4, 2), (1, 4, 4, 6)), list(DIRECTIONS), r"gates \(b, h, w, 4c\)"),
        (((1, 4, 4, 2), (1, 4, 4, 2)), ["up"], "unknown directions"),
        (((1, 4, 4, 2), (1, 4, 4, 2)), [], "unknown directions"),
    ],
)
def test_what_is_not_a_recurrence_is_refused(form, shapes, directions, message):
    with pytest.raises(ValueError, match=message):
        FORMS[form](*(np.zeros(shape, np.float32) for shape in shapes), directions)
