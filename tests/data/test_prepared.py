import sys

import numpy as np
import pytest
from PIL import Image

from deblur_jax.data.folder import FolderPairs, PairError
from deblur_jax.data.sources import open_pairs
from tests.commands import run_command


def prepare(folder, out):
    return run_command("prepare", folder, out)


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


def test_a_broken_picture_is_named_and_nothing_is_left(make_pairs, tmp_path):
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
