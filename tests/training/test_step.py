import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from deblur_jax.models import ComputeConfig, build_model, model_config
from deblur_jax.planning.program_text import parse_program
from deblur_jax.planning.traffic import collectives_in
from deblur_jax.runtime.devices import batch_sharding, data_mesh, replicated
from deblur_jax.training.losses import mimo_unet_loss, squared_error
from deblur_jax.training.step import init_state, make_local_step, make_train_step
from deblur_jax.weights.official import state_dict_from_params
from tests import golden

GRADIENT_NORM_TOLERANCE = {"mimo_unet": 1e-4, "mimo_unet_plus": 5e-4}
UPDATE_TOLERANCE = {"mimo_unet": 1e-4, "mimo_unet_plus": 1e-2}
# Half a unit in the last place of the start is enough to turn a ReLU over in the second step: then
# the first convolution's update moves by 9e-4, and by 1e-4 where none is turned.
FIRST_UPDATE_TOLERANCE = {"mimo_unet": 2e-3, "mimo_unet_plus": 1e-2}
SLOW_PLUS = ["mimo_unet", pytest.param("mimo_unet_plus", marks=pytest.mark.slow)]


@functools.cache
def three_steps(name):
    """The losses, Adam's first moment after the first step, and the last parameters."""
    graphdef, params = golden.network(name)
    mesh = data_mesh(1)
    optimizer = optax.adam(1e-4)
    step = make_train_step(graphdef, mimo_unet_loss, optimizer, seed=0, mesh=mesh)
    state = init_state(jax.tree.map(jnp.array, params), optimizer)
    state = jax.device_put(state, replicated(mesh))
    batch = {"blurred": jnp.asarray(golden.blurred()), "sharp": jnp.asarray(golden.sharp())}
    losses, moments = [], []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        moments.append(jax.device_get(state.opt_state[0].mu))
    return losses, moments[0], jax.device_get(state.params)


@pytest.mark.accelerator
@pytest.mark.parametrize("name", SLOW_PLUS)
def test_gradients_equal_the_official_codes(name):
    recorded = golden.recorded(name)
    _, first_moment, _ = three_steps(name)
    # After one step the moment is (1 - 0.9) times the gradient.
    grads = state_dict_from_params(jax.tree.map(lambda moment: moment / 0.1, first_moment))
    assert set(recorded["param_names"]) == set(grads)
    for parameter, norm in zip(recorded["param_names"], recorded["grad_norms"], strict=True):
        actual = np.linalg.norm(grads[str(parameter)].astype(np.float64))
        assert actual == pytest.approx(norm, rel=GRADIENT_NORM_TOLERANCE[name]), parameter
    for key in (key for key in recorded if key.startswith("grad/")):
        error = golden.relative_error(grads[key.removeprefix("grad/")], recorded[key])
        assert error < 2 * GRADIENT_NORM_TOLERANCE[name], key


@pytest.mark.accelerator
@pytest.mark.parametrize("name", SLOW_PLUS)
def test_three_steps_of_adam_equal_the_official_codes(name):
    _, params = golden.network(name)
    recorded = golden.recorded(name)
    losses, _, last = three_steps(name)
    np.testing.assert_allclose(losses, recorded["adam_losses"], rtol=1e-5)
    before, after = state_dict_from_params(params), state_dict_from_params(last)
    for key in (key for key in recorded if key.startswith("adam3/")):
        parameter = key.removeprefix("adam3/")
        update = after[parameter] - before[parameter]
        expected = recorded[key] - before[parameter]
        is_first = parameter.startswith("feat_extract.0.")
        tolerance = (FIRST_UPDATE_TOLERANCE if is_first else UPDATE_TOLERANCE)[name]
        assert golden.relative_error(update, expected) < tolerance, key


OPTIMIZER = optax.adam(1e-3)


# MIMO-UNet+ has dropout, which makes the test of devices stricter.
TINY = {
    "mimo_unet_plus": {"base_channels": 4, "num_res_blocks": 1},
    "svrnn": {"rnn_channels": 4, "guidance_channels": 2},
}


@functools.cache
def tiny_network(name="mimo_unet_plus", dtype="float32"):
    return nnx.split(
        build_model(
            model_config(name, **TINY[name]),
            rngs=nnx.Rngs(0),
            compute=ComputeConfig(dtype=dtype),
        )
    )


@functools.cache
def tiny_step(num_devices, seed, *network):
    mesh = data_mesh(8, jax.devices()[:num_devices])
    graphdef, _ = tiny_network(*network)
    loss = squared_error if "svrnn" in network else mimo_unet_loss
    return make_train_step(graphdef, loss, OPTIMIZER, seed=seed, mesh=mesh), mesh


def tiny_run(num_devices, batches, seed=0, network=()):
    """The final state and the metrics of each step."""
    step, mesh = tiny_step(num_devices, seed, *network)
    params = jax.tree.map(jnp.copy, tiny_network(*network)[1])  # the step donates them
    state = jax.device_put(init_state(params, OPTIMIZER), replicated(mesh))
    history = []
    for batch in batches:
        state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def random_batch(seed, dtype=np.float32):
    images = np.random.default_rng(seed).integers(0, 256, (2, 8, 16, 16, 3), np.uint8)
    if dtype == np.float32:
        images = images.astype(np.float32) / 255
    return {"blurred": images[0], "sharp": images[1]}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "mimo_unet" else [pytest.mark.slow]) for name in TINY],
)
def test_eight_devices_train_as_one_does(name):
    """Dropout is on: the masks too must not depend on the devices."""
    batches = [random_batch(i) for i in range(5)]
    (one, history_one), (eight, history_eight) = (
        tiny_run(devices, batches, network=(name,)) for devices in (1, 8)
    )
    for a, b in zip(history_one, history_eight, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_the_seed_decides_the_dropout_masks():
    batches = [random_batch(0)]
    (_, first), (_, again), (_, other) = (tiny_run(1, batches, seed) for seed in (0, 0, 1))
    assert first[0]["loss"] == again[0]["loss"]
    assert first[0]["loss"] != other[0]["loss"]


@pytest.mark.slow
def test_uint8_batches_are_the_same_images():
    _, floats = tiny_run(1, [random_batch(0)])
    _, integers = tiny_run(1, [random_batch(0, np.uint8)])
    assert floats[0]["loss"] == pytest.approx(integers[0]["loss"], rel=1e-6)


@pytest.mark.accelerator
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted(dtype):
    network = ("mimo_unet_plus", dtype)
    good, bad = random_batch(0), random_batch(1)
    bad["blurred"] = bad["blurred"].copy()
    bad["blurred"][3, 5, 5, 0] = np.nan
    with_bad, history = tiny_run(8, [good, bad], network=network)
    without, _ = tiny_run(8, [good], network=network)
    assert with_bad.step == 2
    assert with_bad.skipped == 1
    assert not np.isfinite(history[1]["loss"])
    for a, b in zip(
        jax.tree.leaves((with_bad.params, with_bad.opt_state)),
        jax.tree.leaves((without.params, without.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["mimo_unet_plus", pytest.param("svrnn", marks=pytest.mark.slow)])
def test_the_only_collective_is_one_all_reduce_outside_of_loops(name):
    step, mesh = tiny_step(8, 0, name)
    batch = jax.device_put(random_batch(0), batch_sharding(mesh))
    program = step.lower(init_state(tiny_network(name)[1], OPTIMIZER), batch).compile().as_text()
    assert mesh.size == 8
    found = collectives_in(parse_program(program))
    assert set(found) == {"all-reduce"}
    assert found["all-reduce"]["count"] == 1
    assert collectives_in(parse_program(program[program.index("\nENTRY ") :])) == found


def run_with(**options):
    """A few steps on two devices: the states after each, and their metrics."""
    mesh = data_mesh(2, jax.devices()[:2])
    graphdef, params = tiny_network()
    optimizer = optax.sgd(0.1)
    step = make_train_step(graphdef, mimo_unet_loss, optimizer, seed=0, mesh=mesh, **options)
    with_ema = "ema_decay" in options
    state = init_state(jax.tree.map(jnp.copy, params), optimizer, with_ema=with_ema)
    state, states = jax.device_put(state, replicated(mesh)), []
    for seed in range(2):
        batch = jax.device_put(random_batch(seed), batch_sharding(mesh))
        state, metrics = step(state, batch)
        states.append(jax.device_get((state, metrics)))
    return states


@pytest.mark.slow
def test_a_batch_in_parts_is_the_same_step_and_averages_follow():
    """Dropout is on: a row has its mask whatever part it is in."""
    whole, parts = run_with(), run_with(accumulation_steps=4, ema_decay=0.75)
    for (state, metrics), (state_in_parts, metrics_in_parts) in zip(whole, parts, strict=True):
        for name, value in metrics.items():
            assert float(metrics_in_parts[name]) == pytest.approx(float(value), rel=1e-5), name
        leaves = (jax.tree.leaves(s.params) for s in (state_in_parts, state))
        for ours, theirs in zip(*leaves, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)

    (first, _), (second, _) = parts
    trees = (tiny_network()[1], first.params, second.params, second.ema)
    for start, one, two, average in zip(*map(jax.tree.leaves, trees), strict=True):
        after_one = 0.75 * np.asarray(start) + 0.25 * one
        np.testing.assert_allclose(average, 0.75 * after_one + 0.25 * two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_step_works_inside_every_transformation():
    """The sharded step itself, on two devices; gradients through it are those of the loss."""
    step, mesh = tiny_step(2, 0, "svrnn")
    assert mesh.size == 2
    graphdef, params = tiny_network("svrnn")
    state = init_state(params, OPTIMIZER)
    batches = [random_batch(seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches)

    def loss_of(params, batch):
        return step(state._replace(params=params), batch)[1]["loss"]

    def losses(function):
        return np.array([float(function(params, batch)) for batch in batches])

    expected = losses(
        lambda p, b: squared_error(nnx.merge(graphdef, p)(b["blurred"]), b["sharp"])[0]
    )
    np.testing.assert_allclose(losses(jax.jit(loss_of)), expected, rtol=1e-5)
    np.testing.assert_allclose(losses(jax.checkpoint(loss_of)), expected, rtol=1e-5)
    over = functools.partial(loss_of, params)
    np.testing.assert_allclose(jax.vmap(over)(stacked), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.lax.map(over, stacked), expected, rtol=1e-5)

    def plain(params):
        return squared_error(
            nnx.merge(graphdef, params)(batches[0]["blurred"]), batches[0]["sharp"]
        )[0]

    through = jax.grad(loss_of)(params, batches[0])
    for a, b in zip(
        jax.tree.leaves(through), jax.tree.leaves(jax.grad(plain)(params)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "around", ["nothing", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pmap", "shard_map"))]
)
def test_the_step_before_sharding_may_be_nested(around):
    """It is the sharded one's step: alone with all rows, or with an axis of the user's own."""
    sharded, mesh = tiny_step(2, 0, "svrnn")
    graphdef, params = tiny_network("svrnn")
    batch = random_batch(0)
    state = init_state(params, OPTIMIZER)
    expected, _ = jax.device_get(sharded(jax.tree.map(jnp.copy, state), batch))

    axis = None if around == "nothing" else "mine"
    step = make_local_step(graphdef, squared_error, OPTIMIZER, seed=0, axis_name=axis)
    if around == "pmap":
        devices = mesh.devices.flat
        mapped = jax.pmap(step, "mine", in_axes=(None, 0), out_axes=None, devices=list(devices))
        rows = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
        found, _ = mapped(state, rows)
    elif around == "shard_map":
        own = Mesh(mesh.devices, ("mine",))
        by_rows = (P(), P("mine"))
        found, _ = jax.jit(
            jax.shard_map(step, mesh=own, in_specs=by_rows, out_specs=P(), check_vma=False)
        )(state, batch)
    else:
        found, _ = jax.jit(step)(state, batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
