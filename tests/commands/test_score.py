import json

import numpy as np
import pytest
from PIL import Image

from deblur_jax.data.folder import FolderPairs
from deblur_jax.evaluation.metrics import score
from tests.commands import run_command


def test_any_methods_images_are_measured(make_pairs, tmp_path):
    root = make_pairs({"a": (17, 22), "deep/b": (16, 16)})
    Image.open(root / "blur/a.png").save(root / "blur/a.bmp")
    (root / "blur/a.png").unlink()
    words = ("score", root / "blur", root / "sharp", "--mode", "matlab")
    printed = json.loads(run_command(*words, "--json").stdout)
    assert (printed["mode"], printed["count"]) == ("matlab", 2)
    assert [row["name"] for row in printed["per_image"]] == ["a", "deep/b"]
    for row, pair in zip(printed["per_image"], FolderPairs(root), strict=True):
        expected = score(*(pair[key] / np.float32(255) for key in ("blurred", "sharp")), "matlab")
        assert (row["psnr"], row["ssim"]) == pytest.approx(expected[:2], rel=1e-6)
    for key in ("psnr", "ssim"):
        assert printed[key] == pytest.approx(np.mean([row[key] for row in printed["per_image"]]))
    assert f"mean of 2, mode matlab: {printed['psnr']:.2f} dB" in run_command(*words).stdout


def test_names_that_differ_match_when_a_flag_says_so(make_pairs):
    root = make_pairs({"1": (16, 16), "12": (16, 16)})
    for name in ("1", "12"):
        (root / f"blur/{name}.png").rename(root / f"blur/img_{int(name):04}_restored.png")
    words = ("score", root / "blur", root / "sharp", "--mode", "float", "--json")
    refused = run_command(*words)
    assert refused.returncode == 1
    assert "img_0001_restored.png: has no partner" in refused.stderr
    printed = json.loads(run_command(*words, "--loose_names").stdout)
    assert [row["name"] for row in printed["per_image"]] == [
        "img_0001_restored",
        "img_0012_restored",
    ]
    assert FolderPairs(root, loose_names=True).names == ["img_0001_restored", "img_0012_restored"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "blur/a.png").unlink(), "sharp/a.png: has no partner in"),
        (lambda root: Image.new("RGB", (9, 9)).save(root / "blur/a.png"), "blur/a.png: expected"),
        (lambda root: (root / "blur/a.png").write_bytes(b"no"), "blur/a.png: not an image"),
    ],
)
def test_what_cannot_be_scored_gets_one_line(make_pairs, change, message):
    root = make_pairs({"a": (16, 16), "b": (16, 16)})
    change(root)
    result = run_command("score", root / "blur", root / "sharp", "--mode", "skimage")
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
