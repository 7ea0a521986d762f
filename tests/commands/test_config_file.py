import pytest

from deblur_jax import cli
from deblur_jax.commands.config_file import config_from, load_config
from deblur_jax.errors import ConfigError
from tests.commands import ROOT

TINY_RUN = ROOT / "tests/fixtures/tiny_run.py"


def configuration(*words):
    return config_from(cli.make_parser(["train", *words]).parse_args(["train", *words]))


def test_an_argument_behind_the_file_goes_to_get_config(tmp_path):
    file = tmp_path / "experiment.py"
    file.write_text(
        "import deblur_jax\n\n\n"
        "def get_config(name='mimo_unet'):\n"
        "    return deblur_jax.Config(model=deblur_jax.model_config(name))\n"
    )
    assert load_config(str(file)).model.name == "mimo_unet"
    assert load_config(f"{file}:svrnn").model.name == "svrnn"
    words = (f"--config={file}:svrnn", "--workdir=run", "--config.model.rnn_channels=8")
    assert configuration(*words).model.rnn_channels == 8
    with pytest.raises(ConfigError, match=r"get_config\(\) takes 0 positional arguments"):
        load_config(f"{TINY_RUN}:argument")


def test_a_file_with_a_colon_in_its_name_is_found(tmp_path):
    file = tmp_path / "run:2.py"
    file.write_text(TINY_RUN.read_text())
    assert load_config(str(file)) == load_config(str(TINY_RUN))


def test_a_config_of_the_package_is_found_by_its_name():
    assert load_config("svrnn_gopro") == load_config(str(ROOT / "configs/svrnn_gopro.py"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.dtype", "compute.dtype"),
        ("model.precision", "compute.precision"),
        ("model.remat", "compute.remat"),
        ("model.unroll", "compute.unroll"),
        ("data.picture_size", "data.image_size"),
    ],
)
def test_a_field_of_version_1_is_answered_with_its_new_name(old, new):
    for flag in ((f"--config.{old}=1",), (f"--config.{old}", "1")):
        with pytest.raises(ConfigError) as error:
            configuration("--config", "mimo_unet_gopro", "--workdir", "run", *flag)
        assert str(error.value) == f"--config.{old} is called --config.{new} now"


def test_a_network_has_no_fields_of_another():
    with pytest.raises(
        ConfigError, match=r"model\.rnn_channels does not exist for mimo_unet, .*svrnn has it"
    ) as error:
        configuration("--config", "mimo_unet_gopro", "--config.model.rnn_channels=3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def f(:", "can't be run: SyntaxError"),
        ("x = 1", "has no function get_config"),
        ("def get_config():\n    return {}", "returns no deblur_jax.Config"),
        ("import nothing_of_that_name", "can't be run: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, message):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_config(str(file))
    assert str(file) in str(error.value)
    assert message in str(error.value)
