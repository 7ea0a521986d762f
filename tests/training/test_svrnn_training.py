import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deblur_jax.runtime.devices import data_mesh
from deblur_jax.training.losses import squared_error
from deblur_jax.training.optimizer import (
    OptimizerConfig,
    make_optimizer,
    make_schedule,
    scale_biases,
    scale_by_caffe_adam,
)
from deblur_jax.training.step import init_state, make_train_step
from tests import svrnn_golden
from tests.golden import relative_error

OFFICIAL = {
    "name": "caffe_adam",
    "schedule": "polynomial",
    "clip_norm": 5000.0,
    "weight_decay": 1e-6,
    "bias_rate": 2.0,
}
NUM_STEPS = 200_000


def adam_state(opt_state):
    (state,) = (part for part in opt_state if hasattr(part, "mu"))
    return state


@pytest.mark.parametrize(
    ("run", "first_iteration", "backend", "update_tolerance"),
    [
        pytest.param("16x24_iter1", 1, "auto", 5e-5, marks=pytest.mark.slow),
        pytest.param("16x24_iter0", 0, "auto", 5e-5, marks=pytest.mark.slow),
        # Rounding errors of this run grow about tenfold at a step: parameters changed by 1e-7
        # change its fourth loss by 2e-4. So the default backend starts from the plain one's states.
        pytest.param("64x96_clipped_iter1", 1, "plain", 1e-2, marks=pytest.mark.slow),
    ],
)
def test_three_steps_equal_the_official_solver(run, first_iteration, backend, update_tolerance):
    recorded = svrnn_golden.recorded(f"adam_{run}")
    height, width = (int(n) for n in run.split("_")[0].split("x"))
    shape = (2, height, width, 3)
    batch = {"blurred": svrnn_golden.blurred(shape), "sharp": svrnn_golden.sharp(shape)}
    graphdef, params = svrnn_golden.network(backend)
    optimizer = make_optimizer(
        OptimizerConfig(**OFFICIAL, first_iteration=first_iteration), NUM_STEPS
    )
    step = make_train_step(graphdef, squared_error, optimizer, seed=0, mesh=data_mesh(1))
    state = init_state(jax.tree.map(jnp.array, params), optimizer)
    start = svrnn_golden.by_official_name(params)
    history, after = [], {}
    for number in (1, 2, 3, 4):
        after[number] = None
        if number <= 3:
            after[number - 1] = jax.device_get(state.params)
        if number == 4:
            after[3], moments = jax.device_get((state.params, adam_state(state.opt_state)))
        state, metrics = step(state, batch)
        history.append(jax.device_get(metrics))

    losses = [float(metrics["loss"]) for metrics in history]
    np.testing.assert_allclose(
        losses, recorded["losses"], rtol=1e-5 if "clipped" not in run else 1e-4
    )
    norms = [float(metrics["gradient_norm"]) for metrics in history[:3]]
    np.testing.assert_allclose(norms, recorded["gradnorms"], rtol=1e-4)
    assert ("clipped" in run) == (norms[0] > OFFICIAL["clip_norm"])
    for number in (1, 3):
        named = svrnn_golden.by_official_name(after[number])
        for key in (key for key in recorded if key.startswith(f"step{number}.")):
            name = key.partition(".")[2]
            error = relative_error(named[name] - start[name], recorded[key] - start[name])
            assert error < update_tolerance, key
    for key, moment, tolerance in (("adam_m", moments.mu, 5e-5), ("adam_v", moments.nu, 5e-5)):
        named = svrnn_golden.by_official_name(moment)
        for name in (k.partition(".")[2] for k in recorded if k.startswith(f"{key}.")):
            error = relative_error(named[name], recorded[f"{key}.{name}"])
            assert error < (tolerance if "clipped" not in run else 1e-2), (key, name)


@pytest.mark.slow
def test_each_clipped_step_of_the_default_backend_is_the_official_one():
    recorded = svrnn_golden.recorded("adam_64x96_clipped_iter1")
    shape = (2, 64, 96, 3)
    batch = {"blurred": svrnn_golden.blurred(shape), "sharp": svrnn_golden.sharp(shape)}
    optimizer = make_optimizer(OptimizerConfig(**OFFICIAL, first_iteration=1), NUM_STEPS)
    plain, default = (
        make_train_step(graphdef, squared_error, optimizer, seed=0, mesh=data_mesh(1))
        for graphdef, _ in (svrnn_golden.network("plain"), svrnn_golden.network())
    )
    _, params = svrnn_golden.network()
    state = init_state(jax.tree.map(jnp.array, params), optimizer)
    losses, norms, updated = [], [], []
    for _ in recorded["losses"]:
        after, metrics = default(jax.tree.map(jnp.copy, state), batch)
        losses.append(metrics["loss"])
        norms.append(metrics["gradient_norm"])
        updated.append(svrnn_golden.by_official_name(jax.device_get(after.params)))
        state, _ = plain(state, batch)
    np.testing.assert_allclose(losses, recorded["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms[:3], recorded["gradnorms"], rtol=1e-4)
    start = svrnn_golden.by_official_name(params)
    for key in (key for key in recorded if key.startswith("step1.")):
        name = key.partition(".")[2]
        error = relative_error(updated[0][name] - start[name], recorded[key] - start[name])
        assert error < 1e-3, key


def test_caffes_adam_is_adam_with_another_eps():
    """In optax's terms eps at step t is ``eps / sqrt(1 - b2^t)``."""
    params = {"w": jnp.zeros(50)}
    ours, state = scale_by_caffe_adam(), None
    state = ours.init(params)
    for t in range(1, 4):
        gradient = {"w": jnp.asarray(np.random.default_rng(t).standard_normal(50) * 1e-7)}
        scaled, state = ours.update(gradient, state)
        theirs = optax.scale_by_adam(eps=1e-8 / np.sqrt(1 - 0.999**t))
        their_state = theirs.init(params)
        for earlier in range(1, t + 1):
            past = {"w": jnp.asarray(np.random.default_rng(earlier).standard_normal(50) * 1e-7)}
            expected, their_state = theirs.update(past, their_state)
        np.testing.assert_allclose(scaled["w"], expected["w"], rtol=1e-4)


def test_biases_alone_are_scaled():
    updates = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(3)}}
    scaled, _ = scale_biases(2.0).update(updates, optax.EmptyState())
    assert scaled["conv"]["kernel"].tolist() == [1, 1]
    assert scaled["conv"]["bias"].tolist() == [2, 2, 2]


def test_the_polynomial_schedule_ends_at_zero():
    config = OptimizerConfig(learning_rate=1e-4, schedule="polynomial", first_iteration=1)
    schedule = make_schedule(config, NUM_STEPS)
    for step in (0, 1000, 100_000, NUM_STEPS - 1):
        expected = 1e-4 * (1 - (step + 1) / NUM_STEPS) ** 2
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-3, abs=1e-15)
    assert float(schedule(NUM_STEPS - 1)) == 0


def test_clipping_scales_the_whole_gradient():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, clip_norm=5.0), 10)
    gradient = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(adam_state(state).mu["a"], 0.1 * 3.0, rtol=1e-5)
    np.testing.assert_allclose(adam_state(state).mu["b"], 0.1 * 4.0, rtol=1e-5)


def test_squared_error_is_summed_over_pixels_and_averaged_over_images():
    restored, sharp = np.random.default_rng(0).random((2, 3, 4, 5, 3), np.float32)
    loss, terms = squared_error((restored,), sharp)
    assert float(loss) == pytest.approx(np.sum((restored - sharp) ** 2) / 6, rel=1e-5)
    assert terms == {}
