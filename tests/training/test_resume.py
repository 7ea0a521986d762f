"""A run that goes on with another configuration, or with other data."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deblur_jax.config import settings
from deblur_jax.data.layouts import PairError
from deblur_jax.data.sources import fingerprint
from deblur_jax.errors import ConfigError
from deblur_jax.models import initialize
from deblur_jax.training.config import Config
from deblur_jax.training.loop import train
from deblur_jax.training.optimizer import OptimizerConfig, make_optimizer
from deblur_jax.training.resume import (
    NOTED,
    SILENT,
    Started,
    carried_over,
    check_accepted,
    check_resumable,
)
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import find_weights, read_config
from tests.configs import changed


def compare(config, stored, accept=(), step=2):
    return check_resumable(config, None, Started(stored, None, step), accept=accept, workdir="run")


OTHER = {
    "seed": 1,
    "num_steps": 9,
    "batch_size": 4,
    "accumulation_steps": 2,
    "per_device_batch": 1,
    "about": "text",
    "init_from": "nowhere",
    "ema_decay": 0.9,
    "model__base_channels": 4,
    "compute__dtype": "bfloat16",
    "compute__precision": "high",
    "compute__remat": "blocks",
    "data__train": "synthetic:dynamic",
    "data__length": 5,
    "data__num_workers": 3,
    "data__validation_limit": 1,
    "loss__name": "squared_error",
    "optimizer__learning_rate": 1e-2,
    "optimizer__clip_norm": 1.0,
    "optimizer__schedule": "cosine",
}


@pytest.mark.parametrize("name", OTHER)
def test_a_field_passes_with_or_without_a_line_or_is_refused(name, tiny_config):
    config, field = changed(tiny_config, **{name: OTHER[name]}), name.replace("__", ".")
    if field in SILENT or field == "num_steps":
        assert compare(config, tiny_config) == []
    elif field in NOTED:
        (line,) = compare(config, tiny_config)
        assert line.startswith(f"config.{field} is {OTHER[name]} now, not ")
    else:
        with pytest.raises(CheckpointError) as error:
            compare(config, tiny_config)
        assert f"run: was started with config.{field} " in str(error.value)
        assert f"not {OTHER[name]}" in str(error.value)
        assert f"--accept {field}" in str(error.value)
        if field == "model.base_channels":
            with pytest.raises(CheckpointError, match="the parameters have other shapes"):
                compare(config, tiny_config, accept=[field])
        else:
            (line,) = compare(config, tiny_config, accept=[field])
            assert field in line


def test_the_fields_that_pass_exist():
    assert {name for name, *_ in settings(Config())} >= SILENT | NOTED


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_more_steps_are_refused_where_they_change_the_learning_rate(schedule, tiny_config):
    stored = changed(tiny_config, optimizer__schedule=schedule)
    with pytest.raises(CheckpointError, match=r"started with config\.num_steps 6, not 9"):
        compare(changed(stored, num_steps=9), stored)


def test_fewer_steps_than_were_done_are_refused(tiny_config):
    with pytest.raises(CheckpointError, match=r"has done 2 steps, more than config\.num_steps 1"):
        compare(changed(tiny_config, num_steps=1), tiny_config)


def test_an_accepted_field_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"--accept optimizer\.clip: .*optimizer\.clip_norm"):
        check_accepted(["optimizer.clip"], Config())


def test_of_another_optimiser_the_state_that_fits_is_kept(tiny_config):
    _, params = initialize(tiny_config.model, seed=0)

    def state(step, **fields):
        made = make_optimizer(OptimizerConfig(**fields), 10).init(params)
        return jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), made)

    plain, fresh = state(3), state(0, clip_norm=1.0, weight_decay=0.1, bias_rate=2.0)
    carried, anew = carried_over(plain, fresh)
    assert anew == []
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    for kept, before in zip(jax.tree.leaves(carried), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(kept, before)
    (adam, rate) = (p for p in carried_over((), plain)[0] if jax.tree.leaves(p))
    _, anew = carried_over((), plain)
    assert anew == [type(adam).__name__, type(rate).__name__]


@pytest.mark.slow
def test_clipping_is_refused_then_accepted_and_nothing_is_called_damaged(tiny_config, tmp_path):
    tiny_config = changed(tiny_config, num_steps=2, data__validation_fraction=0)
    train(tiny_config, tmp_path)
    longer = changed(tiny_config, num_steps=4)
    for name, value in (("clip_norm", 1.0), ("weight_decay", 1e-4)):
        other = changed(longer, **{f"optimizer__{name}": value})
        with pytest.raises(CheckpointError, match=f"started with config.optimizer.{name}") as error:
            train(other, tmp_path)
        assert "damaged" not in str(error.value)
    other = changed(longer, optimizer__clip_norm=1.0, init_from="/not/there/any/more")
    assert train(other, tmp_path, accept=["optimizer.clip_norm"]).step == 4
    assert train(other, tmp_path).step == 4


@pytest.mark.slow
def test_the_same_images_elsewhere_pass_and_others_in_their_place_do_not(
    tiny_config, tmp_path, make_pairs
):
    sizes = {f"seq/{number}": (20, 24) for number in range(3)}
    pairs = make_pairs(sizes)
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(pairs, moved)
    make_pairs({**sizes, "seq/1": (24, 24)}, root=other, seed=1)
    assert fingerprint(str(moved)) == fingerprint(str(pairs)) != fingerprint(str(other))
    tiny_config = changed(tiny_config, num_steps=1, data__train=str(pairs))
    tiny_config = changed(tiny_config, data__validation_fraction=0, batch_size=1)
    run = tmp_path / "run"
    train(tiny_config, run)
    tiny_config = changed(tiny_config, num_steps=2)
    with pytest.raises(CheckpointError, match=r"started with config\.data\.train"):
        train(changed(tiny_config, data__train=str(other)), run)
    assert train(changed(tiny_config, data__train=str(moved)), run).step == 2
    assert read_config(find_weights(run))["data_fingerprint"] == fingerprint(str(moved))
    shutil.rmtree(moved)
    shutil.copytree(other, moved)
    again = changed(tiny_config, data__train=str(moved), num_steps=3)
    with pytest.raises(CheckpointError, match="are not those that the run was started with"):
        train(again, run)
    assert train(again, run, accept=["data.train"]).step == 3


def test_images_smaller_than_a_patch_are_all_named_before_the_first_step(
    tiny_config, tmp_path, make_pairs
):
    pairs = make_pairs({"a": (15, 40), "b": (16, 16), "c": (30, 8)})
    config = changed(tiny_config, data__train=str(pairs), data__validation_fraction=0)
    with pytest.raises(PairError, match=r"patch_size 16: a \(40x15\), c \(8x30\); leave them out"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run/log.jsonl").exists()
