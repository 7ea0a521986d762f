"""RealBlur from its archive to its score, on pairs whose misalignment is known."""

import io
import zipfile

import cv2
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from skimage import data

from deblur_jax.data import open_pairs
from deblur_jax.evaluation.evaluate import evaluate
from deblur_jax.evaluation.metrics import score
from deblur_jax.inference.restorer import Restorer
from tests.commands import run_command

HOMOGRAPHIES = {
    "scene1": np.array([[1.003, 0.002, 1.7], [-0.002, 0.998, -1.2], [4e-6, -3e-6, 1]]),
    "scene2": np.array([[0.998, -0.003, -2.1], [0.003, 1.001, 0.8], [0, 5e-6, 1]]),
}


def png(image):
    stream = io.BytesIO()
    Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(stream, "png")
    return stream.getvalue()


def scene(homography):
    """The truth of one camera; what another saw, moved; and the same where it should be."""
    photo = data.chelsea()[:299, 30:451].astype(np.float32) / 255
    sharp = scipy.ndimage.gaussian_filter(photo, (1.2, 1.2, 0))
    blurred = scipy.ndimage.uniform_filter1d(sharp, 11, axis=1)
    size = (photo.shape[1], photo.shape[0])
    moved = cv2.warpPerspective(
        blurred, homography, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    inside = (slice(12, -12), slice(12, -12))
    return sharp[inside], moved[inside], blurred[inside]


@pytest.mark.slow
def test_known_misalignment_is_undone(tiny_weights, tmp_path):
    scenes = {name: scene(homography) for name, homography in HOMOGRAPHIES.items()}
    with zipfile.ZipFile(tmp_path / "RealBlur.zip", "w") as archive:
        lines = [f"J/{name}/gt/gt_1.png J/{name}/blur/blur_1.png" for name in scenes]
        archive.writestr("RealBlur_J_test_list.txt", "\n".join(lines))
        for name, (sharp, moved, _) in scenes.items():
            archive.writestr(f"J/{name}/gt/gt_1.png", png(sharp))
            archive.writestr(f"J/{name}/blur/blur_1.png", png(moved))
    prepared = tmp_path / "prepared"
    result = run_command("prepare", "realblur_j", prepared, "--manual_dir", archive.filename)
    assert "2 pairs (test)" in result.stdout, result.stderr

    pairs = open_pairs(str(prepared), "test")
    summary = evaluate(Restorer.load(tiny_weights), pairs, tmp_path / "out", mode="realblur")
    assert summary["not_aligned"] == 0
    for row, (name, (sharp, moved, aligned)) in zip(
        summary["per_image"], scenes.items(), strict=True
    ):
        assert row["name"] == f"{name}/blur_1"
        expected = score(aligned, sharp, "realblur").psnr
        assert row["psnr_blurred"] == pytest.approx(expected, abs=0.05)
        assert score(moved, sharp, "skimage").psnr < expected - 1
