import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from deblur_jax import Restorer, load_weights, model_config
from deblur_jax.models import initialize
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import config_of
from deblur_jax.weights.safetensors_file import read_safetensors, save_safetensors
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS, shipped_weights

MODEL = model_config("mimo_unet", base_channels=2, num_res_blocks=1)


@pytest.fixture
def params():
    return initialize(MODEL, seed=0)[1]


@pytest.fixture
def file(params, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_safetensors(path, params, config_of(MODEL, about="tiny", trained_on="synthetic:pan"))
    return path


def test_there_and_back_with_the_same_digest_as_a_folder(file, tiny_weights, params):
    weights, of_folder = load_weights(file), load_weights(tiny_weights)
    assert weights.model == MODEL
    assert weights.digest == of_folder.digest
    assert weights.trained_on == "synthetic:pan"
    for ours, theirs in zip(*map(jax.tree.leaves, (weights.params, params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_half_precision_is_half_the_size_and_rounded_once(file, params, tmp_path):
    half = tmp_path / "half.safetensors"
    save_safetensors(half, params, config_of(MODEL), dtype="float16")
    assert half.stat().st_size < 0.7 * file.stat().st_size
    for ours, theirs in zip(
        *map(jax.tree.leaves, (load_weights(half).params, params)), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(np.float16))


def test_a_value_that_does_not_fit_is_refused(params, tmp_path):
    big = jax.tree.map(lambda leaf: leaf + 1e6, params)
    with pytest.raises(CheckpointError, match="too large for float16"):
        save_safetensors(tmp_path / "x.safetensors", big, config_of(MODEL), dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(file, params):
    with pytest.raises(CheckpointError, match="exists"):
        save_safetensors(file, params, config_of(MODEL))


@pytest.mark.parametrize("part", ["header", "arrays", "end"])
def test_every_kind_of_damage_is_named(part, file):
    data = bytearray(file.read_bytes())
    header = int.from_bytes(data[:8], "little")
    if part == "end":
        del data[-5:]
    else:
        data[8 + header // 2 if part == "header" else -7] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tiny.safetensors: .*(damaged|not|is )"):
        load_weights(file)


def test_every_bit_of_the_arrays_counts(file):
    data = bytearray(file.read_bytes())
    for place in np.random.default_rng(0).integers(1, 2000, 8):
        changed = data.copy()
        changed[-place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged|not finite"):
            load_weights(file)


def test_files_of_other_programs_and_networks_are_refused(file, params, tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, other)
    with pytest.raises(CheckpointError, match="without a network of this package"):
        load_weights(other)
    other.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_weights(other)
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="keeps no moving average"):
        load_weights(file, ema=True)
    arrays = safetensors.numpy.load_file(file)
    first = sorted(arrays)[0]
    arrays[first] = arrays[first][..., :1]
    header = file.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    safetensors.numpy.save_file(arrays, other, metadata)
    with pytest.raises(CheckpointError, match=f"{first} is "):
        read_safetensors(other)


def test_shipped_weights_load_by_name_and_are_the_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert DEFAULT_WEIGHTS in shipped_weights()
    for name in shipped_weights():
        restorer = Restorer.load(name)
        assert restorer.compute.dtype == "float32"
        assert restorer.digest
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    restored = Restorer.load()(image)
    assert restored.shape == image.shape
    assert not np.array_equal(restored, image)


def test_what_lies_at_a_path_comes_before_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_WEIGHTS).mkdir()
    with pytest.raises(CheckpointError, match="no weights here"):
        load_weights(DEFAULT_WEIGHTS)
