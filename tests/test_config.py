import dataclasses
import importlib.util
import typing
from pathlib import Path

import pytest

from deblur_jax import Config, DataConfig, LossConfig, OptimizerConfig, model_config
from deblur_jax.config import Section, Table, parse, rule_of, setting, settings, unknown_field
from deblur_jax.errors import ConfigError
from deblur_jax.models import ComputeConfig, MIMOUNetConfig, SVRNNConfig, VGG16Config
from tests.configs import changed

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
SECTIONS = (
    Config,
    ComputeConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    MIMOUNetConfig,
    SVRNNConfig,
    VGG16Config,
)


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
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_stored(config.stored()) == config


def test_a_configuration_is_read_only():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.learning_rate = 1.0


BAD_VALUES = {
    "about": [1, None],
    "seed": [-1, 2**32, "one", True, 1.5, None],
    "batch_size": [0, -4, 2.5, None],
    "per_device_batch": [0, "1"],
    "accumulation_steps": [0, None],
    "accept_batch_size": [1, "yes", None],
    "num_steps": [0, -1, 1.5, None],
    "init_from": [3],
    "log_every": [0, None],
    "checkpoint_every": [0, None],
    "keep_checkpoints": [0, None],
    "ema_decay": [0.0, 1.0, -0.5, float("nan"), "0.9"],
    "max_skipped_steps": [-1, None],
    "profile": [1, "true", None],
    "compute.dtype": ["float16", "foo", None],
    "compute.precision": ["foo", 1],
    "compute.remat": ["all", True],
    "compute.unroll": [0, -1, True, 1.5],
    "compute.deterministic": [1, "yes", None],
    "compute.backend": ["cuda", None],
    "data.train": [None, 3],
    "data.validation": [3],
    "data.validation_fraction": [-0.1, 1.0, float("nan"), None],
    "data.validation_limit": [0, -1, None],
    "data.length": [0, -1, None],
    "data.image_size": [0, 7, None],
    "data.patch_size": [0, -8, 2.5, None],
    "data.num_workers": [-1, None],
    "data.cache_gib": [-1.0, float("inf"), None],
    "loss.name": ["l1", None],
    "loss.content_norm": ["l3", None],
    "loss.frequency_weight": [-0.1, float("inf"), None],
    "optimizer.name": ["sgd", None],
    "optimizer.learning_rate": [0.0, -1.0, float("nan"), float("inf"), "fast", None],
    "optimizer.schedule": ["linear", None],
    "optimizer.decay_factor": [0.0, 1.5, None],
    "optimizer.decay_every": [0, 1.5, None],
    "optimizer.warmup_steps": [-1, None],
    "optimizer.clip_norm": [0.0, -1.0, float("inf")],
    "optimizer.weight_decay": [-1e-6, None],
    "optimizer.bias_rate": [-1.0, None],
    "optimizer.first_iteration": [-1, None],
    "model.base_channels": [0, 1, -2, 2.5, None],
    "model.num_res_blocks": [0, -1, None],
    "model.dropout_rate": [-0.1, 1.0, None],
    "model.rnn_channels": [0, 1, None],
    "model.guidance_channels": [0, None],
    "model.resize": ["nearest", None],
    "model.gate_limit": [-0.5, float("inf"), "x"],
}
"""For every field of every section, values that must be refused when the section is built."""


def fields_of(section):
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        if not (isinstance(hint, type) and issubclass(hint, Section)):
            yield f"{section.section}.{field.name}".lstrip("."), field


ALL_FIELDS = {(section, name): field for section in SECTIONS for name, field in fields_of(section)}


def test_every_field_has_bad_values_and_a_meaning():
    assert {name for _, name in ALL_FIELDS} == set(BAD_VALUES)
    for (_, name), field in ALL_FIELDS.items():
        rule = rule_of(field)
        assert rule is not None, name
        assert len(rule.meaning) > 10, name
        assert "\n" not in rule.meaning, name


@pytest.mark.parametrize(("section", "name"), ALL_FIELDS, ids=lambda part: str(part).split(".")[-1])
def test_every_bad_value_is_refused_in_one_line_that_names_the_field(section, name):
    field = name.rpartition(".")[2]
    for value in BAD_VALUES[name]:
        for build in (
            lambda value: section(**{field: value}),
            lambda value: dataclasses.replace(section(), **{field: value}),
        ):
            with pytest.raises(ConfigError) as error:
                build(value)
            assert f"config.{name} can't be {value!r}" in str(error.value)
            assert "\n" not in str(error.value)


def texts_of_bad_values(name, hint, rule):
    """What a user may type that can't be: for a text without choices there is nothing."""
    kinds = (*typing.get_args(hint), hint)
    if bool in kinds:
        return ["yes", "1"]
    if str in kinds:
        return ["no such choice"] if rule.options() else []
    numbers = [v for v in BAD_VALUES[name] if isinstance(v, int | float) and v is not True]
    fitting = [v for v in numbers if isinstance(v, int) or float in kinds]
    return ["abc", "", *map(str, fitting)]


@pytest.mark.parametrize(("section", "name"), ALL_FIELDS, ids=lambda part: str(part).split(".")[-1])
def test_the_command_line_refuses_them_too(section, name):
    field = name.rpartition(".")[2]
    hint = typing.get_type_hints(section)[field]
    for text in texts_of_bad_values(name, hint, rule_of(ALL_FIELDS[section, name])):
        with pytest.raises(ConfigError) as error:
            section().with_overrides({field: text})
        assert f"config.{name}" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accumulation_steps": 3}, "config.accumulation_steps must divide batch_size, 4"),
        ({"data__patch_size": 30}, "config.data.patch_size must be a multiple of 4 for mimo_unet"),
        ({"optimizer__warmup_steps": 1000}, "config.optimizer.warmup_steps must be below"),
        ({"model": VGG16Config()}, "config.model can't be vgg16, which is a part of svrnn"),
        ({"model": SVRNNConfig()}, 'config.loss.name can\'t be "mimo_unet" for svrnn'),
        (
            {"model": SVRNNConfig(), "loss__name": "squared_error", "data__patch_size": 36},
            "config.data.patch_size must be a multiple of 8 for svrnn",
        ),
    ],
)
def test_sections_that_do_not_fit_together_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        changed(Config(), **values).validate()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, "config.sede does not exist; did you mean seed"),
        ({"model": {"nam": "x"}}, "config.model.name can't be None"),
        ({"model": {"name": "mimo_unet", "gate_limit": 1.0}}, "svrnn has it"),
        ({"optimizer": {"learning_rat": 1}}, "did you mean optimizer.learning_rate"),
        ({"model": {"name": "unet"}}, "network 'unet' is not registered"),
    ],
)
def test_stored_values_that_can_not_be_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        Config.from_dict(values)
    assert message in str(error.value)


def test_an_unknown_field_names_the_nearest_of_all_that_can_be_set():
    known = [name for name, *_ in settings(Config())]
    assert unknown_field("optimizer.learning_rat", known) == (
        "config.optimizer.learning_rat does not exist; did you mean optimizer.learning_rate?"
    )
    for name in ("learning_rate", "optimizer.rate", "model.learning_rate", "optimizer.lr"):
        assert "optimizer.learning_rate" in unknown_field(name, known)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("2e-4", float, 2e-4),
        ("3", float, 3.0),
        ("None", float | None, None),
        ("none", int | None, None),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("a b", str, "a b"),
        ("none", str | None, None),
    ],
)
def test_values_on_the_command_line(text, hint, value):
    assert parse(text, hint, "field") == value
    assert type(parse(text, hint, "field")) is type(value)


def test_overrides_replace_single_fields():
    config = Config().with_overrides(
        {"seed": "7", "optimizer.learning_rate": "2e-4", "model.base_channels": "8"}
    )
    assert config == changed(
        Config(), seed=7, optimizer__learning_rate=2e-4, model__base_channels=8
    )


def test_another_network_by_name_has_its_own_sizes():
    config = Config().with_overrides({"model.name": "svrnn", "model.rnn_channels": "16"})
    assert config.model == model_config("svrnn", rnn_channels=16)
    with pytest.raises(ConfigError, match="rnn_channels does not exist for mimo_unet"):
        Config().with_overrides({"model.rnn_channels": "16"})


def test_an_entry_of_a_table_has_its_name_alone():
    table = Table("thing")
    table.add("a", entry := object())
    table.add("a", entry)
    assert table["a"] is entry
    assert "a" in table
    with pytest.raises(ConfigError, match="the thing 'a' is registered already"):
        table.add("a", object())
    with pytest.raises(ConfigError, match="thing 'b' is not registered: choose from a"):
        table["b"]


def test_a_section_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Own(Section):
        section = "own"

        size: int = setting(3, "of something", at_least=1)

    assert Own.from_dict({"size": 4}).to_dict() == {"size": 4}
    assert Own.names() == ["own.size"]
    with pytest.raises(ConfigError, match=r"config\.own\.size can't be 0: it must be at least 1"):
        Own(0)
