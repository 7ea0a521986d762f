import dataclasses
import importlib.util
from pathlib import Path

import pytest

from deblur_jax.config import Config, ConfigError, from_dict, to_dict, unknown_field_message

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_the_configs_of_the_papers_are_there():
    names = {path.stem for path in CONFIGS}
    assert {"quickstart", "mimo_unet_gopro", "mimo_unet_plus_gopro", "svrnn_gopro"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_survives_json(path):
    config = load(path).validate()
    assert from_dict(to_dict(config)) == config


def test_read_only_once_frozen():
    config = Config().freeze()
    with pytest.raises(dataclasses.FrozenInstanceError, match="seed"):
        config.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="name"):
        config.model.name = "x"


def test_an_unknown_field_names_the_nearest():
    assert unknown_field_message("optimizer.learning_rat") == (
        "config.optimizer.learning_rat does not exist; did you mean optimizer.learning_rate?"
    )
    assert "optimizer.learning_rate" in unknown_field_message("learning_rate")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, "config.sede does not exist; did you mean seed"),
        ({"model": {"nam": "x"}}, "config.model.nam does not exist; did you mean model.name"),
        ({"seed": "one"}, "config.seed can't be 'one'"),
        ({"seed": True}, "config.seed can't be True"),
        ({"profile": 1}, "config.profile can't be 1"),
        ({"batch_size": 0}, "config.batch_size must be at least 1"),
        ({"data": {"patch_size": 30}}, "config.data.patch_size must be a multiple of 4"),
        ({"loss": {"content_norm": "l3"}}, "config.loss.content_norm"),
        ({"optimizer": {"schedule": "linear"}}, "config.optimizer.schedule is one of"),
        ({"model": {"dtype": "float16"}}, "config.model.dtype"),
        ({"optimizer": {"name": "sgd"}}, "config.optimizer.name is unknown"),
        ({"model": {"name": "svrnn"}}, 'config.loss.name is "squared_error" for svrnn'),
        ({"optimizer": {"warmup_steps": 1000}}, "config.optimizer.warmup_steps must be below"),
    ],
)
def test_a_wrong_value_names_its_field(values, message):
    with pytest.raises(ConfigError) as error:
        from_dict(values).validate()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
