import json

import numpy as np
import pytest

from deblur_jax import report
from deblur_jax.data import open_pairs
from deblur_jax.evaluation import evaluate
from deblur_jax.images import read_rgb, to_uint8
from deblur_jax.inference import Restorer
from tests.commands import run_script


def test_every_pair_is_measured_saved_and_shown(make_pairs, tiny_weights, tmp_path):
    root = make_pairs({"seq/a": (17, 22), "b": (16, 16)})
    restorer, pairs = Restorer.load(tiny_weights), open_pairs(str(root), "test")
    summary = evaluate(restorer, pairs, tmp_path / "out", data="pairs")

    assert summary == json.loads((tmp_path / "out/results.json").read_text())
    assert {k: summary[k] for k in ("mode", "count", "data")} == {
        "mode": "float",
        "count": 2,
        "data": "pairs",
    }
    assert [row["name"] for row in summary["per_image"]] == ["b", "seq/a"]
    for index, row in enumerate(summary["per_image"]):
        blurred, sharp = (pairs[index][key] / np.float32(255) for key in ("blurred", "sharp"))
        restored = restorer(blurred)
        for value, picture in ((row["psnr"], restored), (row["psnr_blurred"], blurred)):
            expected = -10 * np.log10(np.mean((picture - sharp) ** 2))
            assert value == pytest.approx(expected, abs=1e-3)
        saved = read_rgb(tmp_path / f"out/restored/{row['name']}.png")
        np.testing.assert_array_equal(saved, np.round(restored * 255))
        sheet = read_rgb(tmp_path / f"out/sheets/{row['name']}.png")
        height, width = sharp.shape[:2]
        np.testing.assert_array_equal(
            sheet[-height:], to_uint8(np.concatenate([blurred, restored, sharp], axis=1))
        )
        assert sheet.shape[1] == 3 * width
    mean = np.mean([row["psnr"] for row in summary["per_image"]])
    assert summary["psnr"] == pytest.approx(mean)
    assert summary["gain"] == pytest.approx(summary["psnr"] - summary["psnr_blurred"])


def test_the_table_lists_every_picture_and_the_mean():
    rows = [report.Row("a", 20.0, 25.0), report.Row("long/name", 30.0, 29.0)]
    lines = report.table(report.summarize(rows)).splitlines()
    assert lines[1].split() == ["a", "20.00", "25.00", "+5.00"]
    assert lines[2].split() == ["long/name", "30.00", "29.00", "-1.00"]
    assert lines[-1].split() == ["mean", "of", "2", "25.00", "27.00", "+2.00"]


def test_the_command(make_pairs, tiny_weights):
    root = make_pairs({"a": (16, 16)})
    result = run_script("evaluate.py", "--data", root, "--weights", tiny_weights)
    assert result.returncode == 0, result.stderr
    assert "mean of 1" in result.stdout
    out = tiny_weights / "evaluation"
    assert read_rgb(out / "restored/a.png").shape == (16, 16, 3)
    assert json.loads((out / "results.json").read_text())["precision"] == "highest"


@pytest.mark.parametrize(
    ("weights", "data", "message"),
    [
        ("nowhere", "synthetic:pan", "nowhere: no weights here"),
        (None, "nowhere", "nowhere: no such folder"),
        (None, "synthetic:fast", "unknown family 'fast'"),
    ],
)
def test_a_wrong_argument_gets_one_line(tiny_weights, tmp_path, weights, data, message):
    arguments = ("--weights", weights or tiny_weights, "--data", data, "--out", tmp_path / "out")
    result = run_script("evaluate.py", *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()
