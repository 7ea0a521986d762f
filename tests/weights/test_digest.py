import json
import random
import shutil

import jax
import numpy as np
import pytest

from deblur_jax import Restorer
from deblur_jax.models import initialize, model_config
from deblur_jax.runtime.devices import data_mesh, replicated
from deblur_jax.weights.digest import digest_of, digest_of_config
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import read_weights, save_weights
from deblur_jax.weights.official import params_from_state_dict, state_dict_from_params
from tests.commands import run_command


@pytest.fixture(scope="module")
def network():
    config = model_config("mimo_unet", base_channels=2, num_res_blocks=1)
    return config, initialize(config, seed=0)[1]


def test_a_digest_depends_on_names_shapes_and_values_alone(network):
    config, params = network
    digest = digest_of(params)
    assert "encoder_full.blocks.conv_in.kernel" in digest.arrays
    there_and_back = params_from_state_dict(state_dict_from_params(params), config)
    on_devices = jax.device_put(params, replicated(data_mesh(8)))
    for other in (there_and_back, on_devices, jax.tree.map(np.asarray, params)):
        assert digest_of(other) == digest
    changed = jax.tree.map(lambda x: x, params)
    changed["conv_full"]["bias"] = params["conv_full"]["bias"] + 1e-7
    other = digest_of(changed)
    assert other.all != digest.all
    assert [n for n in digest.arrays if other.arrays[n] != digest.arrays[n]] == ["conv_full.bias"]


def test_the_digest_of_half_precision_is_that_of_the_values_that_load():
    values = {"a": np.linspace(0, 1, 7).astype(np.float16)}
    assert digest_of(values) == digest_of({"a": values["a"].astype(np.float32)})


def test_the_digest_of_a_configuration_has_no_order():
    assert digest_of_config({"a": 1, "b": {"c": 2}}) == digest_of_config({"b": {"c": 2}, "a": 1})
    assert digest_of_config({"a": 1}) != digest_of_config({"a": 2})


def test_what_is_loaded_has_the_digest_of_what_was_saved(network, tmp_path):
    config, params = network
    save_weights(tmp_path / "weights", params, config)
    assert read_weights(tmp_path / "weights").digest == digest_of(params)
    assert Restorer.load(tmp_path / "weights").digest == digest_of(params).all


def flipped(file, generator):
    content = bytearray(file.read_bytes())
    position = generator.randrange(8 * len(content))
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was written without digests")
def test_of_single_flipped_bits_each_is_found_or_harmless(network, tmp_path):
    config, params = network
    save_weights(tmp_path / "weights", params, config)
    expected, generator = digest_of(params), random.Random(0)
    files = sorted(f for f in (tmp_path / "weights").rglob("*") if f.is_file())
    sizes = [file.stat().st_size for file in files]
    found = 0
    for number in range(24):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "weights", copy)
        file = generator.choices(files, sizes)[0]
        flipped(copy / file.relative_to(tmp_path / "weights"), generator)
        weights, message = read_or_message(copy)
        if weights is None:
            assert str(copy) in message
            assert "\n" not in message
            found += 1
        else:
            assert weights.digest == expected
            assert weights.model == config
    assert found > 5


def read_or_message(folder):
    try:
        return read_weights(folder), ""
    except CheckpointError as error:
        return None, str(error)


def test_a_changed_array_is_named(network, tmp_path):
    config, params = network
    save_weights(tmp_path / "weights", params, config)
    file = tmp_path / "weights/digest/metadata"
    stored = json.loads(file.read_text())
    stored["params"]["arrays"]["conv_full.bias"] = "0" * 64
    file.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=r"the array conv_full\.bias of params is damaged"):
        read_weights(tmp_path / "weights")


def test_a_changed_configuration_is_named(network, tmp_path):
    config, params = network
    save_weights(tmp_path / "weights", params, config, about="as it was")
    file = tmp_path / "weights/config/metadata"
    file.write_text(file.read_text().replace("as it was", "as it is"))
    with pytest.raises(CheckpointError, match="its configuration is damaged"):
        read_weights(tmp_path / "weights")


@pytest.mark.parametrize(
    ("item", "message"),
    [("params", "its parameters are missing"), ("config", "its configuration is missing")],
)
def test_a_missing_item_is_named(network, tmp_path, item, message):
    config, params = network
    save_weights(tmp_path / "weights", params, config)
    shutil.rmtree(tmp_path / "weights" / item)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "weights")


def test_weights_without_digests_are_read_with_a_warning(network, tmp_path):
    config, params = network
    save_weights(tmp_path / "weights", params, config)
    shutil.rmtree(tmp_path / "weights/digest")
    with pytest.warns(UserWarning, match="weights: was written without digests"):
        assert read_weights(tmp_path / "weights").digest == digest_of(params)
    result = run_command("restore", "x.png", "--weights", tmp_path / "weights", "--out", tmp_path)
    assert "warning: " in result.stderr
    assert "was written without digests" in result.stderr


def test_numbers_that_are_not_finite_are_refused(network, tmp_path):
    config, params = network
    broken = jax.tree.map(lambda x: x, params)
    broken["conv_full"]["bias"][...] = np.full(2, np.nan, np.float32)
    save_weights(tmp_path / "weights", broken, config)
    with pytest.raises(CheckpointError, match=r"conv_full\.bias holds numbers that are not finite"):
        read_weights(tmp_path / "weights")
