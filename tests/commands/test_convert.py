from pathlib import Path

import numpy as np

from deblur_jax import Restorer, load_weights
from tests.commands import run_command

FIXTURES = Path(__file__).parent.parent / "fixtures"


def convert(file, out, *options):
    options = options or ("--base_channels", 2, "--num_res_blocks", 1)
    return run_command("convert", file, out, "--model", "mimo_unet", *options)


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
        result = convert(file, tmp_path / "weights", *options)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not (tmp_path / "weights").exists()


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
        (("--ema", "--model", "mimo_unet"), "--ema: an official file keeps no moving average"),
    ):
        result = run_command("convert", tiny_weights, tmp_path / "out", *options)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {message}")
        assert not (tmp_path / "out").exists()
