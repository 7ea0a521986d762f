import io
import sys

import numpy as np
import pytest
from PIL import Image

from deblur_jax.data.folder import FolderPairs, find_pairs
from deblur_jax.data.layouts import PairError
from deblur_jax.data.patches import encoded_patches
from deblur_jax.data.sources import open_pairs
from tests.commands import run_command


def prepare(folder, out, *options):
    return run_command("prepare", folder, out, *options)


def test_prepared_pairs_are_the_pairs_of_the_folder(make_pairs, tmp_path):
    root = make_pairs({f"s_{i}": (8 + i, 9) for i in range(5)})
    Image.new("L", (9, 8), 7).save(root / "blur/s_0.png")
    result = prepare(root, tmp_path / "out")
    assert "5 pairs (undivided)" in result.stdout
    from_folder, prepared = FolderPairs(root), open_pairs(str(tmp_path / "out"), "train")
    assert prepared.names == from_folder.names
    for i in range(5):
        for key in ("blurred", "sharp"):
            np.testing.assert_array_equal(prepared[i][key], from_folder[i][key])
    assert "tensorflow" not in sys.modules


def test_splits_stay_apart(make_pairs, tmp_path):
    make_pairs({"a": (8, 8)}, root=tmp_path / "in/train")
    make_pairs({"b": (8, 8), "c": (8, 8)}, root=tmp_path / "in/test")
    prepare(tmp_path / "in", tmp_path / "out")
    assert open_pairs(str(tmp_path / "out"), "train").names == ["a"]
    assert open_pairs(str(tmp_path / "out"), "test").names == ["b", "c"]
    with pytest.raises(PairError, match="has no split 'validation', only"):
        open_pairs(str(tmp_path / "out"), "validation")


def test_a_broken_image_is_named_and_nothing_is_left(make_pairs, tmp_path):
    root = make_pairs({"a": (64, 64), "b": (64, 64)})
    file = root / "sharp/b.png"
    file.write_bytes(file.read_bytes()[:6000])
    result = prepare(root, tmp_path / "out")
    assert result.returncode == 1
    assert f"error: {file}: can't be read" in result.stderr
    assert not list((tmp_path / "out").rglob("*.array_record*"))
    assert not list((tmp_path / "out").rglob("*incomplete*"))


def test_a_prepared_set_is_not_overwritten(make_pairs, tmp_path):
    root = make_pairs({"a": (8, 8)})
    assert prepare(root, tmp_path / "out").returncode == 0
    again = prepare(root, tmp_path / "out")
    assert again.returncode == 1
    assert "holds a prepared data set; nothing was overwritten" in again.stderr


def test_training_pairs_may_be_cut_into_patches_beforehand(make_pairs, tmp_path):
    make_pairs({"s/1": (20, 24), "s/2": (20, 24)}, root=tmp_path / "in/train")
    make_pairs({"t/1": (20, 24)}, root=tmp_path / "in/test")
    options = ("--patch_size", 16, "--patches_per_image", 3, "--augment")
    result = prepare(tmp_path / "in", tmp_path / "out", *options)
    assert "6 patches of 2 pairs (train), 1 pairs (test)" in result.stdout
    patches = open_pairs(str(tmp_path / "out"), "train")
    assert patches.names == [f"s/{image}-{patch}" for image in (1, 2) for patch in range(3)]
    assert {patches[i]["sharp"].shape for i in range(6)} == {(16, 16, 3)}
    assert len({patches[i]["sharp"].tobytes() for i in range(6)}) == 6
    assert open_pairs(str(tmp_path / "out"), "test")[0]["sharp"].shape == (20, 24, 3)


def test_patches_are_parts_of_the_images(make_pairs, tmp_path):
    root = make_pairs({"a": (16, 16)})
    pair = FolderPairs(root)[0]
    ((name, *images),) = encoded_patches(find_pairs(root), size=16, per_image=1, augment=False)
    assert name == "a-0"
    for key, image in zip(("blurred", "sharp"), images, strict=True):
        patch = np.asarray(Image.open(io.BytesIO(image)))
        assert any(np.array_equal(patch, pair[key][:, ::step]) for step in (1, -1))


def test_gopros_other_blur_is_a_choice(make_pairs, tmp_path):
    root = make_pairs({"a": (8, 8)})
    (root / "blur").rename(root / "blur_gamma")
    assert "1 pairs" in prepare(root, tmp_path / "out", "--blurred", "blur_gamma").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--augment",), "give --patch_size too"),
        (("--patch_size", 0), "--patch_size must be at least 1, not 0"),
        (("--patch_size", 9), "sharp/a.png: a training image is 8x8, smaller than 9 pixels"),
    ],
)
def test_patches_that_cannot_be_are_refused(make_pairs, tmp_path, options, message):
    result = prepare(make_pairs({"a": (8, 8)}), tmp_path / "out", *options)
    assert result.returncode == 1
    assert message in result.stderr
