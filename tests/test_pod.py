import json

import jax
import numpy as np
import pytest

from deblur_jax import pod
from deblur_jax.config import Config, ConfigError, ModelConfig
from tests.commands import ROOT, run_command
from tests.tpu import topology_mesh

TINY = ROOT / "tests/fixtures/tiny_run.py"


@pytest.mark.slow
def test_the_train_step_of_a_config_is_planned():
    topology_mesh("v5e:2x2")
    words = ("pod", "--config", TINY, "--topology", "v5e:2x2", "--per_device_batch", 2)
    result = run_command(*words, "--json")
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


@pytest.mark.slow
def test_inference_is_planned_for_a_picture_a_chip():
    topology_mesh("v5e:2x2")
    config = Config(model=ModelConfig(name="svrnn", rnn_channels=8, guidance_channels=4))
    plan = pod.plan_inference(config, "v5e:2x2", (50, 70))
    assert plan.fits
    assert (plan.used_devices, plan.batch_size) == (1, 1)
    assert plan.days_bound is None
    assert plan.collectives == {}


def test_a_program_that_does_not_fit_says_what_it_needs():
    def too_large():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. "
            "Exceeded hbm capacity by 4.75G."
        )

    class Program:
        def lower(self, *arguments):
            too_large()

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    plan = pod._plan("v5e:2x2", Program(), (), mesh, 4, Config(), 10**12, 4, 86_400)
    assert not plan.fits
    assert plan.needed_bytes == int(20.5 * 2**30)
    assert plan.days_bound == pytest.approx(2e12 / 197e12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "nowhere.py", "--topology", "v5e:2x2"), "--config nowhere.py: no such file"),
        (("--config", TINY, "--topology", "v9:2x2"), "--topology v9:2x2: known are v4, v5e"),
        (
            ("--config", TINY, "--topology", "v5e:2x2", "--what", "inference", "--size", "big"),
            "--size big: expected width x height",
        ),
    ],
)
def test_a_wrong_plan_gets_one_line(arguments, message):
    result = run_command("pod", *arguments)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_an_unknown_topology_is_an_error():
    topology_mesh("v5e:2x2")
    with pytest.raises(ConfigError, match="--topology v5e:3x5: "):
        pod.plan_training(Config(), "v5e:3x5")
