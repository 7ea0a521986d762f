"""Weights and checkpoints that version 1 wrote, and the images that it restored."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from deblur_jax import Restorer
from deblur_jax.models import ComputeConfig, MIMOUNetConfig, SVRNNConfig
from deblur_jax.training.config import Config
from deblur_jax.training.loop import train
from deblur_jax.weights.folder import find_weights, read_config
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.versions import SCHEMA_VERSION, migrated
from tests.configs import changed

pytestmark = pytest.mark.filterwarnings("ignore:.*was written without digests")
STORED = Path(__file__).parents[1] / "fixtures/version_1"


@pytest.fixture
def recorded():
    with np.load(STORED / "restored.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("name", "folder", "ema"),
    [("svrnn", "svrnn", False), ("run", "run", False), ("run_ema", "run", True)],
)
def test_stored_weights_restore_what_version_1_restored(recorded, name, folder, ema):
    restorer = Restorer.load(STORED / folder, ema=ema)
    restored = restorer.restore_fn(restorer.params, recorded["blurred"])
    np.testing.assert_allclose(restored, recorded[name], atol=1e-6)


def test_the_sizes_and_the_computation_are_two_sections_now():
    svrnn = load_weights(STORED / "svrnn")
    assert svrnn.model == SVRNNConfig(
        rnn_channels=2, guidance_channels=2, resize="half_pixel", gate_limit=0.5
    )
    assert svrnn.compute == ComputeConfig(precision="high")
    config = Config.from_stored(read_config(find_weights(STORED / "run")))
    assert config.model == MIMOUNetConfig.plus(base_channels=2, num_res_blocks=1)
    assert config.data.image_size == 32
    assert config.optimizer.weight_decay == 1e-4
    assert config.about == "a run of version 1"


@pytest.mark.slow
def test_a_run_of_version_1_goes_on(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(STORED / "run", workdir)
    config = Config.from_stored(read_config(find_weights(workdir)))
    outcome = train(changed(config, num_steps=4), workdir)
    assert outcome.step == 4
    assert read_config(workdir / "checkpoints/4")["num_steps"] == 4
    before, after = (load_weights(workdir / f"checkpoints/{step}") for step in (2, 4))
    assert before.model == after.model
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 0.1


def test_a_description_of_the_present_version_is_left_as_it_is():
    described = {"schema_version": SCHEMA_VERSION, "config": {"model": {"name": "x", "dtype": 1}}}
    assert migrated(described) == described
