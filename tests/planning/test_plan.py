import json

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax.commands.config_file import load_config
from deblur_jax.data.config import DataConfig
from deblur_jax.errors import ConfigError
from deblur_jax.models import abstract_model, count_params, initialize, model_config
from deblur_jax.planning import chips
from deblur_jax.planning import plan as planning
from deblur_jax.planning.estimate import estimate_time
from deblur_jax.planning.program_text import parse_program
from deblur_jax.planning.traffic import collectives_in
from deblur_jax.runtime.devices import data_mesh
from deblur_jax.training.config import Config
from deblur_jax.training.losses import LossConfig, make_loss
from deblur_jax.training.optimizer import make_optimizer
from deblur_jax.training.step import make_train_step
from tests.commands import ROOT, error_of, run_command
from tests.configs import changed
from tests.tpu import topology_mesh

TINY = ROOT / "tests/fixtures/tiny_run.py"


@pytest.fixture
def planned_step(monkeypatch):
    """The train step that a config is planned with, and its arguments; nothing is compiled."""

    def step_of(config):
        taken = {}
        monkeypatch.setattr(
            planning,
            "_plan",
            lambda topology, step, arguments, *rest: taken.update(step=step, arguments=arguments),
        )
        planning.plan_training(config, "v5e:2x2")
        return taken["step"], taken["arguments"]

    return step_of


def choices_in(program):
    """Kernels and loops that the program is made of."""
    return {what: program.count(what) for what in ("@tpu_custom_call", "stablehlo.while")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        model_config("mimo_unet", base_channels=8, num_res_blocks=3),
        model_config("svrnn", rnn_channels=8, guidance_channels=8),
    ],
    ids=["mimo_unet", "svrnn"],
)
def test_the_planned_program_has_the_tpus_choices(planned_step, monkeypatch, model):
    """Those of the step that a process on TPUs builds, lowered for them from here."""
    topology_mesh("v5e:2x2")

    def refuse():
        raise AssertionError("the default backend is this machine's, not the one planned for")

    monkeypatch.setattr(jax, "default_backend", refuse)
    loss = LossConfig(name="squared_error" if model.name == "svrnn" else "mimo_unet")
    config = Config(model=model, loss=loss, data=DataConfig(patch_size=32))
    step, arguments = planned_step(config)
    planned = choices_in(step.lower(*arguments).as_text())

    graphdef, _ = initialize(model, seed=0, platform="tpu")
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    mesh = data_mesh(config.batch_size, jax.devices()[:4])
    loss_fn = make_loss(config.loss)
    on_tpu = make_train_step(graphdef, loss_fn, optimizer, seed=config.seed, mesh=mesh)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    program = on_tpu.trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert planned == choices_in(program)
    # Six stacks of blocks, each a loop there and one back; or the recurrence's kernels.
    if model.name == "svrnn":
        assert planned["stablehlo.while"] == 0
        assert planned["@tpu_custom_call"] > 0
    else:
        assert planned == {"@tpu_custom_call": 0, "stablehlo.while": 12}


@pytest.mark.slow
def test_mimo_unet_plus_fits_four_patches_a_chip_and_reduces_each_gradient_once():
    """At its own size: each gradient goes once through an all-reduce, and none is in a loop."""
    topology_mesh("v5e:2x2")
    config = Config(model=model_config("mimo_unet_plus"), per_device_batch=4)
    plan = planning.plan_training(config, "v5e:2x2")
    assert plan.fits
    assert plan.needed_bytes < 0.6 * plan.hbm_bytes
    assert set(plan.collectives) == {"all-reduce"}
    assert plan.collectives["all-reduce"]["count"] <= 2  # the compiler may split a large one
    gradients = 4 * count_params(nnx.state(abstract_model(config.model)))
    assert gradients <= plan.collectives["all-reduce"]["bytes"] < 1.01 * gradients
    assert " conditional(" not in plan.program, "a choice between backends was left open"
    entry = plan.program[plan.program.index("\nENTRY ") :]
    assert collectives_in(parse_program(entry)) == plan.collectives


@pytest.mark.slow
def test_the_train_step_of_a_config_is_planned(tmp_path):
    topology_mesh("v5e:2x2")
    words = ("plan", "--config", TINY, "--topology", "v5e:2x2", "--per_device_batch", 2)
    hlo = tmp_path / "new" / "step.hlo"
    result = run_command(*words, "--json", "--top", 3, "--hlo", hlo)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["fits"]
    assert (plan["devices"], plan["used_devices"], plan["batch_size"]) == (4, 4, 8)
    assert 0 < plan["temp_bytes"] < plan["needed_bytes"] < plan["hbm_bytes"]
    assert set(plan["collectives"]) == {"all-reduce"}
    # One average of 6,001 gradients and a few numbers of the loss.
    assert 4 * 6001 <= plan["collectives"]["all-reduce"]["bytes"] < 2 * 4 * 6001
    assert plan["step_seconds_bound"] > 0
    assert plan["days_bound"] == pytest.approx(plan["step_seconds_bound"] * 60 / 86_400)
    assert plan["estimated_seconds"] > plan["step_seconds_bound"]
    assert plan["estimated_days"] == pytest.approx(plan["estimated_seconds"] * 60 / 86_400)
    assert plan["estimated_images_per_second"] == pytest.approx(8 / plan["estimated_seconds"])
    assert 0 < plan["estimated_peak_share"] < 1
    assert plan["compile_seconds"] > 0
    assert plan["not_counted"]["all-reduces"] == 1
    assert len(plan["costs"]) == 3
    assert "deblur_jax/" in plan["costs"][0]["place"]
    assert "program" not in plan
    estimate = estimate_time(parse_program(hlo.read_text()), chips.CHIPS["v5e"])
    assert estimate.seconds == pytest.approx(plan["estimated_seconds"])
    config = changed(load_config(str(TINY)), batch_size=8)
    expected = planning.expected_step_seconds(config, "TPU v5 lite", 4, hlo.read_text)
    assert expected["bound"] == pytest.approx(plan["step_seconds_bound"])
    assert expected["estimate"] == pytest.approx(plan["estimated_seconds"])


def bound_of(config, count):
    """The least seconds of a step on chips of v5e, of a program that moves nothing."""
    empty = "ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n}"
    return planning.expected_step_seconds(config, "TPU v5 lite", count, lambda: empty)["bound"]


def test_no_step_is_faster_than_its_products():
    """On four chips of v5e; of six products of bfloat16 for one of float32 at highest precision."""
    config = Config(model=model_config("svrnn"), batch_size=8, loss=LossConfig("squared_error"))
    seconds = bound_of(config, 4)
    assert 1e-5 < seconds < 1e-1
    assert bound_of(config, 1) == pytest.approx(4 * seconds)
    precise = changed(config, compute__precision="highest")
    assert bound_of(precise, 4) == pytest.approx(6 * seconds)


def test_what_is_expected_of_a_step_on_devices_of_unknown_speed():
    config = Config(model=model_config("svrnn"), batch_size=8, loss=LossConfig("squared_error"))
    assert planning.expected_step_seconds(config, "cpu", 4, pytest.fail) == {}


def test_a_program_text_that_cannot_be_read_does_not_end_a_run():
    config = Config(model=model_config("svrnn"), batch_size=8, loss=LossConfig("squared_error"))
    for text in (
        None,
        "",
        "of another kind",
        "ENTRY %main (x: f32[8]) -> f32[8] {\n  %y = call(%x)\n}",
    ):
        expected = planning.expected_step_seconds(config, "TPU v5 lite", 4, lambda text=text: text)
        assert expected == {"bound": pytest.approx(bound_of(config, 4))}


@pytest.mark.slow
def test_a_network_from_outside_is_planned():
    topology_mesh("v5e:2x2")
    own = ROOT / "tests/fixtures/own_network.py"
    words = ("plan", "--import", own, "--config", own, "--topology", "v5e:2x2", "--json")
    result = run_command(*words)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["fits"]
    assert plan["collectives"]["all-reduce"]["count"] == 1


@pytest.mark.slow
def test_inference_is_planned_for_one_image_per_chip():
    topology_mesh("v5e:2x2")
    config = Config(model=model_config("svrnn", rnn_channels=8, guidance_channels=4))
    plan = planning.plan_inference(config, "v5e:2x2", (50, 70))
    assert plan.fits
    assert (plan.used_devices, plan.batch_size) == (1, 1)
    assert plan.days_bound is None
    assert plan.collectives == {}
    # The recurrence's kernels, in both directions over rows and columns.
    assert 0 < plan.estimated_kernel_seconds < plan.estimated_seconds
    assert plan.estimated_days is None


def test_products_with_the_zeros_of_packed_kernels_do_not_count():
    config = Config(model=model_config("mimo_unet", num_res_blocks=1))
    seconds, in_plain_form = (
        bound_of(changed(config, compute__backend=name), 4) for name in ("tpu", "plain")
    )
    assert seconds == in_plain_form


@pytest.mark.parametrize(("rows", "used"), [(4, 4), (20, 4), (7, 1), (16, 16), (32, 16)])
def test_a_batch_uses_a_whole_slice(rows, used):
    """20 rows would divide over 10 of 16 chips, but these are no slice."""
    topology_mesh("v5e:2x2")
    devices = chips.topology_devices("v5e:4x4")
    assert len(chips.usable_devices("v5e:4x4", devices, rows)) == used


@pytest.mark.parametrize(
    ("message", "needed_gib"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. "
            "Exceeded hbm capacity by 4.75G.",
            20.5,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (35.66G) exceeds available HBM (15.75G).",
            35.66,
        ),
    ],
)
def test_a_program_that_does_not_fit_says_what_it_needs(message, needed_gib):
    class Program:
        def lower(self, *arguments):
            raise jax.errors.JaxRuntimeError(message)

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    plan = planning._plan("v5e:2x2", Program(), (), mesh, 4, Config(), 10**12, 4, 86_400)
    assert not plan.fits
    assert plan.needed_bytes == int(needed_gib * 2**30)
    assert plan.days_bound == pytest.approx(2e12 / 197e12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", TINY, "--topology", "v9:2x2"), "--topology v9:2x2: known are v4, v5e"),
        (
            ("--config", TINY, "--topology", "v5e:2x2", "--what", "inference", "--size", "big"),
            "--size big: expected width x height",
        ),
        (
            ("--config", TINY, "--topology", "v5e:2x2", "--hlo", ROOT),
            f"--hlo {ROOT}: this is a folder; name a file",
        ),
        (
            ("--config", TINY, "--topology", "v5e:2x2", "--hlo", TINY / "a" / "step.hlo"),
            "can't be made a folder",
        ),
        (("--config", TINY, "--topology", "v5e:2x2", "--top", -1), "--top -1: expected a number"),
    ],
)
def test_a_wrong_plan_gets_one_line(arguments, message):
    assert message in error_of("plan", *arguments)


def test_a_wrong_plan_ends_with_a_status():
    result = run_command("plan", "--config", "nowhere.py", "--topology", "v5e:2x2")
    assert result.returncode == 1
    assert "--config nowhere.py: no such file" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_unknown_topology_is_an_error():
    topology_mesh("v5e:2x2")
    with pytest.raises(ConfigError, match="--topology v5e:3x5: "):
        planning.plan_training(Config(), "v5e:3x5")
