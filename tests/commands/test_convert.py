from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from deblur_jax import Restorer, load_weights
from deblur_jax.models import SVRNNConfig, initialize
from deblur_jax.weights.folder import save_weights
from deblur_jax.weights.torch_file import read_torch_file
from tests.commands import error_of, run_command

FIXTURES = Path(__file__).parent.parent / "fixtures"


SIZES = ("--base_channels", 2, "--num_res_blocks", 1)


def convert(file, out):
    return run_command("convert", file, out, "--model", "mimo_unet", *SIZES)


def test_a_converted_folder_restores_as_pytorch_does(tmp_path):
    result = convert(FIXTURES / "tiny_legacy.pkl", tmp_path / "weights")
    assert result.returncode == 0, result.stderr
    with np.load(FIXTURES / "tiny.npz") as expected:
        restored = Restorer.load(tmp_path / "weights")(expected["blurred"][0])
        np.testing.assert_allclose(restored, np.clip(expected["full"][0], 0, 1), atol=1e-5)


def test_errors_are_one_line_and_leave_nothing(tmp_path):
    (tmp_path / "other.pkl").write_bytes(b"hello")
    for file, options, message in (
        (tmp_path / "other.pkl", (), "other.pkl: not a readable PyTorch weight file"),
        (tmp_path / "missing.pkl", (), "missing.pkl: no such file"),
        (FIXTURES / "tiny_zip.pkl", ("--base_channels", 2), "not the weights of mimo_unet"),
    ):
        options = options or SIZES
        words = ("convert", file, tmp_path / "weights", "--model", "mimo_unet", *options)
        assert message in error_of(*words)
        assert not (tmp_path / "weights").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["official.pkl", "official.safetensors"])
def test_weights_go_to_the_official_form_and_back(tmp_path, name):
    source, file = FIXTURES / "tiny_zip.pkl", tmp_path / name
    assert convert(source, tmp_path / "weights").returncode == 0
    options = ["--official"] if file.suffix == ".safetensors" else []
    result = run_command("convert", tmp_path / "weights", file, *options)
    assert result.returncode == 0, result.stderr
    arrays = safetensors.numpy.load_file(file) if options else read_torch_file(file)["model"]
    expected = read_torch_file(source)["model"]
    assert set(arrays) == set(expected)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, expected[key])
    assert load_weights(file).digest == load_weights(tmp_path / "weights").digest
    again = run_command("convert", tmp_path / "weights", file, *options)
    assert again.returncode == 1
    assert "exists; nothing was overwritten" in again.stderr


@pytest.mark.slow
def test_weights_are_averaged(tiny_weights, tiny_config, tmp_path):
    _, other = initialize(tiny_config.model, seed=1)
    save_weights(tmp_path / "other", other, tiny_config.model)
    words = ("convert", tiny_weights, tmp_path / "mean", "--average_with")
    assert run_command(*words, f"{tmp_path / 'other'}=0.25").returncode == 0
    params = load_weights(tiny_weights).params
    leaves = [jax.tree.leaves(p) for p in (params, other, load_weights(tmp_path / "mean").params)]
    for first, second, mean in zip(*leaves, strict=True):
        np.testing.assert_allclose(mean, 0.75 * first + 0.25 * second, rtol=1e-6, atol=1e-7)
    refused = run_command(*words, f"{tmp_path / 'other'}=2")
    assert refused.returncode == 1
    assert "expected WEIGHTS=SHARE, a share between 0 and 1" in refused.stderr
    refused = run_command(*words, "mimo_unet_photographs=0.5")
    assert refused.returncode == 1
    assert "mimo_unet_photographs: of another network than" in refused.stderr


def test_only_mimo_unet_has_an_official_form_here(tmp_path):
    config = SVRNNConfig(rnn_channels=4, guidance_channels=4)
    save_weights(tmp_path / "svrnn", initialize(config, seed=0)[1], config)
    message = error_of("convert", tmp_path / "svrnn", tmp_path / "a.pkl")
    assert "the weights are svrnn's" in message


def test_a_run_becomes_one_file_in_half_precision(tiny_weights, tmp_path):
    file = tmp_path / "tiny.safetensors"
    result = run_command("convert", tiny_weights, file, "--half", "--about", "tiny")
    assert result.returncode == 0, result.stderr
    weights = load_weights(file)
    assert weights.config["about"] == "tiny"
    assert weights.model == load_weights(tiny_weights).model
    folder = tmp_path / "folder"
    assert run_command("convert", file, folder).returncode == 0
    assert load_weights(folder).digest == weights.digest
    assert load_weights(folder).config["about"] == "tiny"


def test_flags_that_do_not_go_together_are_refused(tiny_weights, tmp_path):
    for options, message in (
        (("--half",), "--half: a folder keeps float32"),
        (("--base_channels", 2), "--base_channels: say which network it is with --model"),
        (("--official",), "--official is for files *.safetensors"),
        (("--ema", "--model", "mimo_unet"), "--ema: an official file keeps no moving average"),
    ):
        assert error_of("convert", tiny_weights, tmp_path / "out", *options).startswith(message)
        assert not (tmp_path / "out").exists()
