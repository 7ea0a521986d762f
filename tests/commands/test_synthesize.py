import json
import shutil

import numpy as np
import pytest
from PIL import Image

from deblur_jax import open_pairs
from tests.commands import run_command
from tests.photographs import write_photograph


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "photographs"
    for number in range(4):
        write_photograph(folder / "album" / f"{number}.png", (120, 160), seed=number)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources") / "frames"
    whole = write_photograph(folder.parent / "whole.png", (80, 400))
    for sequence in ("a", "b"):
        (folder / sequence).mkdir(parents=True)
        for i in range(9):
            view = whole[:, 3 * i : 3 * i + 120]
            Image.fromarray(view).save(folder / sequence / f"{i:03d}.png")
    return folder


ARGUMENTS = ("--pairs", 6, "--size", 48, "--validation_fraction", 0.25)


def test_pairs_of_photographs_and_frames(photographs, frames, tmp_path):
    words = ("prepare", "synthesize", photographs, frames, tmp_path / "out", *ARGUMENTS)
    result = run_command(*words, "--workers", 2, "--beside", frames.parent / "nowhere")
    assert result.returncode == 1
    assert "nowhere: no such folder" in result.stderr
    assert not (tmp_path / "out").exists()

    result = run_command(*words, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert "passed over" in result.stdout
    assert "broken.jpg: not an image" in result.stdout
    assert f"{photographs}: 4 photographs, 1 files or sequences passed over" in result.stdout
    assert f"{frames}: 2 sequences, 0 files or sequences passed over" in result.stdout
    assert f"6 pairs (train), 2 pairs (validation) are in {tmp_path / 'out'}" in result.stdout
    assert "blurred against sharp, dB" in result.stdout
    assert "displacement, pixels" in result.stdout
    pairs = open_pairs(str(tmp_path / "out"), "train")
    assert (len(pairs), pairs[0]["sharp"].shape) == (6, (48, 48, 3))
    assert len(open_pairs(str(tmp_path / "out"), "validation")) == 2
    with Image.open(tmp_path / "out/examples.jpg") as sheet:
        assert sheet.size == (6 * 48, 2 * 48)
    assert json.loads((tmp_path / "out/synthesis.json").read_text())["pairs"] == 6

    again = run_command(*words, "--workers", 2)
    assert again.returncode == 1
    assert "out: exists and is not an empty folder; nothing was overwritten" in again.stderr

    alone = (*words[:4], tmp_path / "images", *ARGUMENTS, "--workers", 1, "--store", "images")
    assert run_command(*alone).returncode == 0
    images = open_pairs(str(tmp_path / "images"), "train")
    for index in range(6):
        for key in ("blurred", "sharp"):
            np.testing.assert_array_equal(images[index][key], pairs[index][key])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pairs", 0), "--pairs must be at least 1, not 0"),
        (("--frames", "8"), "--frames must be two numbers, as in 7,13, not 8"),
        (("--frames", "8,8"), "--frames must hold an odd number from 3 on"),
        (("--displacement", 90), "--displacement must be above 0, at most --max_displacement"),
        (("--still_share", 1), "--still_share must be at least 0 and below 1, not 1.0"),
    ],
)
def test_a_wrong_argument_gets_one_line(photographs, tmp_path, words, message, capsys):
    result = run_command("prepare", "synthesize", photographs, tmp_path / "out", *words)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_source_without_photographs_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "empty: has no photographs to make pairs of"),
        (f"frames:{tmp_path / 'empty'}", "empty: has no sequences to make pairs of"),
        (tmp_path / "nowhere", "nowhere: no such file or folder"),
    ):
        result = run_command("prepare", "synthesize", source, tmp_path / "out")
        assert result.returncode == 1
        assert message in result.stderr
        assert not (tmp_path / "out").exists()


def test_an_error_leaves_nothing(frames, tmp_path):
    sequence = tmp_path / "frames/a"
    shutil.copytree(frames / "a", sequence)
    words = ("prepare", "synthesize", f"frames:{tmp_path / 'frames'}", tmp_path / "out")
    result = run_command(*words, "--pairs", 3, "--size", 100, "--validation_fraction", 0)
    assert result.returncode == 1
    assert "frames of 120x80 are smaller than --size 100" in result.stderr
    assert not (tmp_path / "out").exists()
