import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import ROOT, run_command

OWN = ROOT / "tests/fixtures/own_network.py"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a network, a loss, an optimiser and a schedule that this package does not know."""
    workdir = tmp_path_factory.mktemp("own") / "run"
    words = ("--import", OWN, "--config", OWN, "--workdir", workdir)
    result = run_command("train", *words, "--config.data.num_workers=1")
    assert result.returncode == 0, result.stderr
    assert "trained 2 steps" in result.stdout
    assert "own_network" in result.stderr + result.stdout
    rows = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    assert rows[0]["charbonnier"] == rows[0]["loss"] > 0
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    return workdir


def test_it_restores_and_is_evaluated(workdir, tmp_path, make_pairs):
    file = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 30, 3), np.uint8)).save(file)
    out = tmp_path / "out"
    result = run_command(
        "restore", file, "--weights", workdir, "--out", out, "--import", OWN, "--tile", 16
    )
    assert result.returncode == 0, result.stderr
    with Image.open(out / "image.png") as image:
        assert image.size == (30, 21)
    pairs = make_pairs({"a": (16, 20)})
    words = ("--weights", workdir, "--data", pairs, "--out", tmp_path / "table", "--json")
    result = run_command("evaluate", *words, "--import", OWN)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["model"] == "own_network"
    assert summary["speed"]["multiply_accumulates"] == 2 * 9 * 3 * 4 * 16 * 20


def test_without_the_module_its_name_is_said(workdir, tmp_path):
    result = run_command("restore", "x.png", "--weights", workdir, "--out", tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "network 'own_network' is not registered" in line
    assert f"it was trained with --import {OWN}" in line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, "no such file"),
        ("broken.py", "import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("wrong.py", "def f(:", "SyntaxError"),
        ("no.such.module", None, "ModuleNotFoundError"),
    ],
)
def test_a_module_that_can_not_be_imported_gets_one_line(tmp_path, name, content, message):
    named = tmp_path / name if name.endswith(".py") else name
    if content is not None:
        named.write_text(content)
    result = run_command("score", "a", "b", "--mode", "float", "--import", named)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: --import {named}: ")
    assert message in line
