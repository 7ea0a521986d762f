import json

import jax
import numpy as np
import pytest

from deblur_jax.data.layouts import PairError
from deblur_jax.errors import ConfigError
from deblur_jax.models import initialize, model_config
from deblur_jax.training.config import Config
from deblur_jax.training.log import LOG_FILE
from deblur_jax.training.loop import train
from deblur_jax.training.monitor import NonFiniteError
from deblur_jax.training.optimizer import OptimizerConfig
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import find_weights, read_config, save_weights
from deblur_jax.weights.load import load_weights
from tests.configs import changed


def log_rows(workdir):
    return [json.loads(line) for line in (workdir / LOG_FILE).read_text().splitlines()]


def flat(params):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)])


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


def test_a_run_trains_logs_and_saves(tiny_config, workdir):
    outcome = train(tiny_config, workdir)
    assert outcome.finished
    assert outcome.step == 6
    rows = log_rows(workdir)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [2, 4, 6]
    terms = {"loss", "content_loss", "frequency_loss", "gradient_norm", "learning_rate", "skipped"}
    speed = {"step_seconds", "images_per_second", "images_per_second_per_device", "input_wait"}
    for row in steps:
        assert terms | speed | {"busy_seconds", "host_memory_gib"} <= set(row)
        assert 0 <= row["input_wait"] <= 1
        assert row["images_per_second"] == pytest.approx(2 / row["step_seconds"])
        assert row["busy_seconds"] <= row["step_seconds"]
    assert steps[0]["loss"] == pytest.approx(
        steps[0]["content_loss"] + 0.1 * steps[0]["frequency_loss"], rel=1e-5
    )
    validations = {row["step"]: row["validation_psnr"] for row in rows if "validation_psnr" in row}
    assert list(validations) == [2, 4, 6]
    assert outcome.best_step == max(validations, key=validations.get)
    assert any((workdir / "tensorboard").iterdir())
    assert Config.from_stored(read_config(find_weights(workdir))) == tiny_config


@pytest.mark.slow
def test_training_lowers_the_loss(tiny_config, workdir):
    tiny_config = changed(tiny_config, num_steps=60, log_every=20, checkpoint_every=60)
    tiny_config = changed(tiny_config, optimizer__learning_rate=3e-3)
    train(tiny_config, workdir)
    losses = [row["loss"] for row in log_rows(workdir) if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_svrnn_trains_with_its_own_recipe(tiny_config, workdir):
    model = model_config("svrnn", rnn_channels=4, guidance_channels=4)
    optimizer = OptimizerConfig(
        name="caffe_adam", schedule="polynomial", clip_norm=5000.0, bias_rate=2.0, first_iteration=1
    )
    tiny_config = changed(tiny_config, model=model, loss__name="squared_error", optimizer=optimizer)
    train(tiny_config, workdir)
    rows = [row for row in log_rows(workdir) if "loss" in row]
    assert rows[-1]["learning_rate"] == 0
    assert np.isfinite(flat(load_weights(workdir).params)).all()


@pytest.mark.slow
def test_going_on_with_a_finished_run_changes_nothing(tiny_config, workdir):
    first = train(tiny_config, workdir)
    before = (workdir / LOG_FILE).read_text()
    assert train(tiny_config, workdir) == first
    assert (workdir / LOG_FILE).read_text() == before


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one(tiny_config, workdir, tmp_path):
    train(tiny_config, workdir)
    tiny_config = changed(tiny_config, num_steps=8)
    train(tiny_config, workdir)
    train(tiny_config, tmp_path / "at once")
    newest = [load_weights(d / "checkpoints/8").params for d in (workdir, tmp_path / "at once")]
    np.testing.assert_array_equal(*map(flat, newest))
    assert [r["step"] for r in log_rows(workdir) if "loss" in r] == [2, 4, 6, 8]


def test_init_from_starts_from_other_weights(tiny_config, workdir, tiny_weights):
    tiny_config = changed(tiny_config, seed=7, optimizer__learning_rate=1e-30)
    tiny_config = changed(tiny_config, init_from=str(tiny_weights))
    train(tiny_config, workdir)
    np.testing.assert_array_equal(
        flat(load_weights(workdir).params), flat(load_weights(tiny_weights).params)
    )


@pytest.mark.slow
def test_init_from_vgg16_fills_the_encoder_alone(tiny_config, workdir, tmp_path):
    model = model_config("svrnn", rnn_channels=4, guidance_channels=2)
    tiny_config = changed(tiny_config, model=model, loss__name="squared_error")
    tiny_config = changed(tiny_config, optimizer__learning_rate=1e-30, num_steps=1)
    _, expected = initialize(tiny_config.model, seed=tiny_config.seed)
    vgg_model = model_config("vgg16", guidance_channels=2)
    _, vgg = initialize(vgg_model, seed=7)
    save_weights(tmp_path / "vgg", vgg, vgg_model)
    tiny_config = changed(tiny_config, init_from=str(tmp_path / "vgg"))
    train(tiny_config, workdir)
    started = load_weights(workdir).params
    # A step at the smallest of rates moves zeros by that rate, and nothing else.
    np.testing.assert_allclose(flat(started["weights"]["encoder"]), flat(vgg), atol=2e-30)
    del started["weights"]["encoder"]
    del expected["weights"]["encoder"]
    np.testing.assert_allclose(flat(started), flat(expected), atol=2e-30)


@pytest.mark.slow
def test_init_from_another_network_is_refused(tiny_config, workdir, tiny_weights):
    tiny_config = changed(tiny_config, init_from=str(tiny_weights))
    tiny_config = changed(tiny_config, model__base_channels=4)
    with pytest.raises(ConfigError, match=r"has model\.base_channels 2, not 4"):
        train(tiny_config, workdir)


def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint(tiny_config, workdir):
    tiny_config = changed(tiny_config, optimizer__learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"step 1: .*1 steps skipped, .*lower optimizer"):
        train(tiny_config, workdir)
    assert list((workdir / "checkpoints").iterdir()) == []


def test_steps_without_a_finite_loss_may_be_passed_over(tiny_config, workdir):
    tiny_config = changed(tiny_config, optimizer__learning_rate=1e30)
    tiny_config = changed(tiny_config, max_skipped_steps=100)
    train(tiny_config, workdir)
    assert [row["skipped"] for row in log_rows(workdir) if "loss" in row] == [1, 3, 5]
    assert np.isfinite(flat(load_weights(workdir).params)).all()


@pytest.mark.slow
def test_another_batch_size_is_refused_unless_asked_for(tiny_config, workdir):
    train(tiny_config, workdir)
    tiny_config = changed(tiny_config, batch_size=4, num_steps=8)
    with pytest.raises(CheckpointError, match=r"was started with config\.batch_size 2, not 4"):
        train(tiny_config, workdir)
    tiny_config = changed(tiny_config, accept_batch_size=True)
    assert train(tiny_config, workdir).step == 8


@pytest.mark.slow
def test_a_moving_average_is_saved_and_evaluated_apart(tiny_config, workdir):
    """Begun in the middle of a run, and gone on with."""
    tiny_config = changed(tiny_config, num_steps=2)
    train(tiny_config, workdir)
    with pytest.raises(CheckpointError, match="keeps no moving average"):
        load_weights(workdir, ema=True)
    begun_from = flat(load_weights(workdir).params)
    tiny_config = changed(tiny_config, num_steps=4, ema_decay=0.5)
    train(tiny_config, workdir)
    tiny_config = changed(tiny_config, num_steps=6)
    train(tiny_config, workdir)
    newest = workdir / "checkpoints/6"
    params, ema = (flat(load_weights(newest, ema=ema).params) for ema in (False, True))
    between = np.linalg.norm(ema - params) / np.linalg.norm(begun_from - params)
    assert 0.01 < between < 1
    rows = {r["step"]: r for r in log_rows(workdir) if "validation_psnr_ema" in r}
    assert list(rows) == [4, 6]
    assert rows[6]["validation_psnr_ema"] != rows[6]["validation_psnr"]


@pytest.mark.slow
def test_the_batch_follows_the_devices(tiny_config, workdir):
    tiny_config = changed(tiny_config, per_device_batch=1, accumulation_steps=2)
    tiny_config = changed(tiny_config, batch_size=2, num_steps=1)
    assert train(tiny_config, workdir).finished
    config = read_config(find_weights(workdir))
    assert config["batch_size"] == 2 * len(jax.devices())


@pytest.mark.slow
def test_real_pairs_and_their_held_out_sequences(tiny_config, workdir, make_pairs):
    pairs = make_pairs({f"{s}_{i}": (20, 24) for s in "ab" for i in (1, 2)})
    tiny_config = changed(tiny_config, data__train=str(pairs), data__num_workers=2)
    assert train(tiny_config, workdir).finished


def test_without_validation_the_newest_checkpoint_counts(tiny_config, workdir, make_pairs):
    tiny_config = changed(tiny_config, data__train=str(make_pairs({"a": (16, 16)})))
    tiny_config = changed(tiny_config, data__validation_fraction=0.0)
    outcome = train(tiny_config, workdir)
    assert outcome.best_step is None
    assert not any("validation_psnr" in row for row in log_rows(workdir))


def test_images_smaller_than_the_patch_are_an_error(tiny_config, workdir, make_pairs):
    pairs = make_pairs({"a_1": (8, 24), "b_1": (8, 24)})
    tiny_config = changed(tiny_config, data__train=str(pairs))
    with pytest.raises(PairError, match=r"smaller than data\.patch_size 16: a_1 \(24x8\)"):
        train(tiny_config, workdir)


def test_a_broken_image_met_in_training_is_named(tiny_config, workdir, make_pairs):
    root = make_pairs({"a_1": (64, 64), "b_1": (64, 64)})
    file = root / "sharp/a_1.png"
    file.write_bytes(file.read_bytes()[:6000])
    tiny_config = changed(tiny_config, data__train=str(root))
    with pytest.raises(Exception, match=r"sharp/a_1\.png: can't be read"):
        train(tiny_config, workdir)


@pytest.mark.slow
def test_a_profile_is_written_when_asked_for(tiny_config, workdir):
    tiny_config = changed(tiny_config, profile=True)
    tiny_config = changed(tiny_config, num_steps=17, checkpoint_every=17)
    train(tiny_config, workdir)
    assert list((workdir / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_weights_of_a_run_can_be_saved_elsewhere(tiny_config, workdir, tmp_path):
    train(tiny_config, workdir)
    weights = load_weights(workdir)
    save_weights(tmp_path / "copy", weights.params, weights.model)
    copied = load_weights(tmp_path / "copy")
    np.testing.assert_array_equal(flat(copied.params), flat(weights.params))
