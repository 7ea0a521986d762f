import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from deblur_jax.models import initialize
from deblur_jax.training.checkpoint import Checkpoints
from deblur_jax.training.config import Config
from deblur_jax.training.step import init_state
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import find_weights, network_of, read_config, save_weights
from deblur_jax.weights.load import load_weights
from tests.configs import changed


@pytest.fixture
def state(tiny_config):
    _, params = initialize(tiny_config.model, seed=0)
    return init_state(params, optax.adam(1e-3))


@pytest.fixture
def checkpoints(tmp_path, tiny_config):
    made = Checkpoints(tmp_path / "run", tiny_config)
    yield made
    made.close()


def load_config(folder):
    return Config.from_stored(read_config(folder))


def scaled(state, factor):
    return state._replace(params=jax.tree.map(lambda x: x * factor, state.params))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_weights_there_and_back(tmp_path, tiny_config, state):
    save_weights(tmp_path / "weights", state.params, tiny_config.model)
    weights = load_weights(tmp_path / "weights")
    assert weights.model == tiny_config.model
    assert weights.compute == tiny_config.compute
    assert_equal(weights.params, state.params)


ORDERS = {
    "by name": sorted,
    "by name, reversed": lambda names: sorted(names, reverse=True),
    "by length": lambda names: sorted(names, key=lambda name: (len(name), name)),
    "by length, reversed": lambda names: sorted(names, key=lambda name: (-len(name), name)),
}


@pytest.fixture(params=ORDERS)
def listing_order(request, monkeypatch):
    """Every listing of a folder comes in one order, whatever the file system says."""
    listdir, scandir = os.listdir, os.scandir

    class Listing:
        def __init__(self, path):
            with scandir(path) as entries:
                by_name = {entry.name: entry for entry in entries}
            self.entries = iter([by_name[name] for name in ORDERS[request.param](by_name)])

        def __iter__(self):
            return self.entries

        def __next__(self):
            return next(self.entries)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def close(self):
            pass

    monkeypatch.setattr(os, "listdir", lambda path=".": ORDERS[request.param](listdir(path)))
    monkeypatch.setattr(os, "scandir", lambda path=".": Listing(path))


@pytest.mark.usefixtures("listing_order")
def test_the_order_of_a_listing_does_not_matter(checkpoints, state, tmp_path, tiny_config):
    for step, psnr in ((9, 20.0), (10, 30.0), (100, 25.0)):
        checkpoints.save(step, scaled(state, step), psnr)
    checkpoints.wait()
    folder = tmp_path / "run/checkpoints/10"
    (folder / "config/commit_success.txt").write_text("written by Orbax on some file systems")
    (folder / "config/.nfs0001").write_text("left by a file system")
    assert load_config(folder) == tiny_config
    assert_equal(load_weights(tmp_path / "run").params, scaled(state, 10).params)
    with_others = Checkpoints(tmp_path / "run", changed(tiny_config, num_steps=100))
    assert with_others.restore(state).step == 100
    with_others.close()


def test_every_order_of_the_files_of_a_configuration(tiny_weights, tiny_config, monkeypatch):
    (tiny_weights / "config/commit_success.txt").write_text("written by Orbax")
    names = os.listdir(tiny_weights / "config")
    assert len(names) == 2
    listdir = os.listdir
    for order in itertools.permutations(names):
        monkeypatch.setattr(
            os,
            "listdir",
            lambda path=".", order=order: (
                list(order) if str(path).endswith("/config") else listdir(path)
            ),
        )
        assert network_of(tiny_weights, read_config(tiny_weights)) == (
            tiny_config.model,
            tiny_config.compute,
        )


SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="there is no tmpfs")
def test_a_run_in_shared_memory(tiny_config, state):
    """A tmpfs lists the newest file first, so Orbax's own mark comes before the configuration."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        made = Checkpoints(folder, tiny_config)
        made.save(3, scaled(state, 3), 20.0)
        made.wait()
        made.close()
        again = Checkpoints(folder, tiny_config)
        assert_equal(again.restore(state).params, scaled(state, 3).params)
        again.close()
        assert load_config(f"{folder}/checkpoints/3") == tiny_config
        assert_equal(load_weights(folder).params, scaled(state, 3).params)


def test_weights_never_overwrite(tmp_path, tiny_config, state):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "precious.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="weights: exists; nothing was overwritten"):
        save_weights(folder, state.params, tiny_config.model)
    assert [file.name for file in folder.iterdir()] == ["precious.txt"]


def test_a_run_goes_on_from_its_newest_checkpoint(checkpoints, state):
    assert checkpoints.restore(state) is None
    for step in (1, 2):
        checkpoints.save(step, scaled(state, step), None)
    checkpoints.wait()
    restored = checkpoints.restore(state)
    assert restored.step == 2
    assert_equal(restored.params, scaled(state, 2).params)
    assert_equal(restored.opt_state, state.opt_state)


def test_keeps_the_newest_and_the_best(checkpoints, state, tmp_path):
    for step, psnr in enumerate([20.0, 30.0, 25.0, 26.0, None], start=1):
        checkpoints.save(step, state, psnr)
    checkpoints.wait()
    assert checkpoints.best()[0] == 2
    assert checkpoints.latest_step() == 5
    kept = {int(folder.name) for folder in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {2, 4, 5}


def test_a_workdir_stands_for_its_best_checkpoint(checkpoints, state, tmp_path):
    for step, psnr in ((1, 20.0), (2, 30.0), (3, None)):
        checkpoints.save(step, scaled(state, step), psnr)
    checkpoints.wait()
    for path in (tmp_path / "run", tmp_path / "run/checkpoints"):
        assert find_weights(path).name == "2"
    params = load_weights(tmp_path / "run").params
    assert_equal(params, scaled(state, 2).params)
    params = load_weights(tmp_path / "run/checkpoints/3").params
    assert_equal(params, scaled(state, 3).params)


def test_without_validation_the_newest_counts(checkpoints, state, tmp_path):
    for step in (1, 2):
        checkpoints.save(step, state, None)
    checkpoints.wait()
    assert find_weights(tmp_path / "run").name == "2"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("seed", {"seed": 5}),
        ("batch_size", {"batch_size": 3}),
        ("model", {"model__base_channels": 4}),
    ],
)
def test_another_experiment_is_refused(checkpoints, state, tmp_path, tiny_config, field, values):
    checkpoints.save(1, state, None)
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=f"was started with config.{field}"):
        Checkpoints(tmp_path / "run", changed(tiny_config, **values))


def damage(folder):
    for file in sorted(folder.rglob("d/*")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_newest_checkpoint_names_the_one_to_go_on_from(checkpoints, state, tmp_path):
    for step in (1, 2):
        checkpoints.save(step, state, None)
    checkpoints.wait()
    damage(tmp_path / "run/checkpoints/2/params")
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(state)
    message = str(error.value)
    assert "checkpoints/2: its parameters are damaged (" in message
    assert message.endswith("; delete this folder to go on from step 1")


@pytest.mark.parametrize(
    ("item", "called"),
    [
        ("params", "its parameters are"),
        ("optimizer", "the state of its optimiser is"),
        ("config", "its configuration is"),
    ],
)
@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_each_item_says_what_it_is(checkpoints, state, tmp_path, tiny_config, item, called, harm):
    for step in (1, 2):
        checkpoints.save(step, state, None)
    checkpoints.wait()
    folder = tmp_path / "run/checkpoints/2" / item
    if harm == "missing":
        shutil.rmtree(folder)
    elif item == "config":
        (folder / "metadata").write_text("{")
    else:
        damage(folder)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path / "run", tiny_config).restore(state)
    assert f"checkpoints/2: {called} {harm}" in str(error.value)
    assert "delete this folder to go on from step 1" in str(error.value)


@pytest.mark.parametrize("content", [b"\x00{", b"[]", b"{}", b'{"validation_psnr": "high"}'])
def test_a_damaged_validation_costs_no_more_than_the_best_checkpoint(
    checkpoints, state, tmp_path, tiny_config, content
):
    for step, psnr in ((1, 30.0), (2, 20.0)):
        checkpoints.save(step, scaled(state, step), psnr)
    checkpoints.wait()
    folder = tmp_path / "run"
    (folder / "checkpoints/1/validation/metadata").write_bytes(content)
    with pytest.warns(UserWarning, match="1: its validation PSNR is damaged"):
        assert find_weights(folder).name == "2"
    again = Checkpoints(folder, tiny_config)
    assert again.restore(state).step == 2
    with pytest.warns(UserWarning, match="1: its validation PSNR is damaged"):
        again.save(3, state, 5.0)
    again.wait()
    assert again.best()[0] == 2
    again.close()


def test_an_empty_folder_is_no_checkpoint(checkpoints, state, tmp_path, tiny_config):
    checkpoints.save(1, state, None)
    checkpoints.wait()
    (tmp_path / "run/checkpoints/8").mkdir()
    assert find_weights(tmp_path / "run").name == "1"
    again = Checkpoints(tmp_path / "run", tiny_config)
    assert again.restore(state).step == 1
    again.save(8, state, None)
    assert again.latest_step() == 8  # also while it is being written
    again.wait()
    assert again.latest_step() == 8
    again.close()


def test_damaged_weights_are_named(tiny_weights):
    damage(tiny_weights / "params")
    with pytest.raises(CheckpointError, match="weights: its parameters are damaged"):
        load_weights(tiny_weights)


def test_a_later_schema_is_named(tiny_weights):
    file = tiny_weights / "config/metadata"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "schema_version": 99}))
    with pytest.raises(CheckpointError, match="made by a later version"):
        load_config(tiny_weights)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="its configuration is damaged"):
        load_config(tiny_weights)


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no weights here; expected the --workdir"):
        find_weights(tmp_path)


def test_a_workdir_that_can_not_be_made_is_named(tmp_path, tiny_config):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file: can't be a workdir: "):
        Checkpoints(tmp_path / "file", tiny_config)
