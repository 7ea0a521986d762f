import json
import os

import pytest

from deblur_jax import open_pairs
from tests.commands import run_command

LATIN, LONG = os.fsdecode(b"caf\xe9"), "x" * 251


@pytest.fixture
def pairs(make_pairs):
    try:
        return make_pairs({LATIN: (16, 16), LONG: (16, 20), "plain": (16, 16)})
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


@pytest.mark.slow
def test_names_that_are_not_utf_8_or_very_long_lose_nothing(pairs, tiny_weights, tmp_path):
    out = tmp_path / os.fsdecode(b"\xe9")
    words = ("evaluate", "--weights", tiny_weights, "--mode", "float", "--out", out)
    for _ in range(2):  # the second time it finds its own results
        result = run_command(*words, "--data", pairs)
        assert result.returncode == 0, result.stderr
    names = {row["name"] for row in json.loads((out / "results.json").read_text())["per_image"]}
    assert names == {r"caf\xe9", LONG, "plain"}
    assert {file.name for file in (out / "restored").iterdir()} == {
        f"{name}.png" for name in (LATIN, LONG, "plain")
    }
    for report in ("results.md", "per_image.csv", "report.html"):
        assert r"caf\xe9" in (out / report).read_text() or report != "per_image.csv"

    result = run_command("score", out / "restored", pairs / "sharp", "--mode", "float", "--json")
    assert result.returncode == 0, result.stderr
    assert r"caf\xe9" in {row["name"] for row in json.loads(result.stdout)["per_image"]}

    result = run_command("prepare", pairs, tmp_path / "prepared")
    assert result.returncode == 0, result.stderr
    assert set(open_pairs(str(tmp_path / "prepared"), "train").names) == {LATIN, LONG, "plain"}

    result = run_command("prepare", pairs, tmp_path / LATIN)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.endswith("rename it, or name a link to it")
    assert not (tmp_path / LATIN).exists()
