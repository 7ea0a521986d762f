import numpy as np
import pytest
from PIL import Image

from deblur_jax.data import open_pairs
from deblur_jax.data.folder import FolderPairs
from deblur_jax.data.layouts import SIDE_NAMES, PairError
from deblur_jax.data.sources import available_splits, what_is_passed_over
from deblur_jax.images.files import ImageError
from tests.cloud import empty_bucket


def test_pairs_match_by_name_in_the_order_of_names(make_pairs):
    root = make_pairs({"b_01": (8, 9), "a_02": (10, 8), "sub/c": (8, 8)})
    pairs = FolderPairs(root)
    assert pairs.names == ["a_02", "b_01", "sub/c"]
    assert pairs[0]["blurred"].shape == pairs[0]["sharp"].shape == (10, 8, 3)
    assert not np.array_equal(pairs[0]["blurred"], pairs[0]["sharp"])


def test_the_layout_of_gopro(make_pairs, tmp_path):
    for sequence in ("GOPR0001", "GOPR0002"):
        make_pairs({"000001": (8, 8), "000002": (8, 8)}, root=tmp_path / "train" / sequence)
        gamma = tmp_path / "train" / sequence / "blur_gamma"
        gamma.mkdir()
        for name in ("000001", "000002"):
            Image.new("RGB", (8, 8), "red").save(gamma / f"{name}.png")
    pairs = FolderPairs(tmp_path / "train")
    assert pairs.names == [f"GOPR000{i}/00000{j}" for i in (1, 2) for j in (1, 2)]
    with_gamma = FolderPairs(tmp_path / "train", blurred="blur_gamma")
    assert with_gamma[0]["blurred"][0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("kind", "partner"), [("blur", "sharp"), ("sharp", "blur")])
def test_a_image_without_partner_is_named(make_pairs, kind, partner):
    root = make_pairs({"a": (8, 8), "b": (8, 8)})
    (root / partner / "b.png").unlink()
    with pytest.raises(PairError, match=rf"{kind}/b\.png: has no partner in {partner}/"):
        FolderPairs(root)


def test_different_sizes_are_named(make_pairs):
    root = make_pairs({"a": (8, 8), "b": (8, 8)})
    Image.new("RGB", (9, 8)).save(root / "blur/b.png")
    with pytest.raises(PairError, match=r"blur/b\.png: is 9x8, but .*sharp/b\.png is 8x8"):
        FolderPairs(root)


def test_one_name_twice_is_an_error(make_pairs):
    root = make_pairs({"a": (8, 8)})
    Image.new("RGB", (8, 8)).save(root / "blur/a.jpg")
    with pytest.raises(PairError, match="has the same name as"):
        FolderPairs(root)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(PairError, match="nowhere: no such folder"):
        FolderPairs(tmp_path / "nowhere")
    with pytest.raises(
        PairError, match="holds no pairs: looked for blur/ and sharp/, input/ and target/"
    ):
        FolderPairs(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "dev", "Validation"])
def test_splits_by_the_names_they_have(name, make_pairs, tmp_path):
    make_pairs({"a": (8, 8)}, root=tmp_path / name)
    make_pairs({"b": (8, 8)}, root=tmp_path / "Train")
    assert available_splits(str(tmp_path)) == ["train", "validation"]
    assert open_pairs(str(tmp_path), "validation").names == ["a"]
    make_pairs({"c": (8, 8)}, root=tmp_path / "valid" if name != "valid" else tmp_path / "val")
    with pytest.raises(PairError, match=r"is the split validation, as .* is: rename one"):
        open_pairs(str(tmp_path), "validation")


@pytest.mark.parametrize(("blurred", "sharp"), SIDE_NAMES)
def test_sides_by_the_names_they_have(blurred, sharp, make_pairs):
    root = make_pairs({"a/1": (8, 8)})
    (root / "blur").rename(root / "other")
    (root / "sharp").rename(root / sharp.upper())
    (root / "other").rename(root / blurred)
    assert FolderPairs(root).names == ["a/1"]


def test_hidden_and_other_files_are_left_out(make_pairs):
    root = make_pairs({"a": (8, 8)})
    (root / "blur/.DS_Store.png").write_bytes(b"")
    (root / "blur/notes.txt").write_text("hello")
    assert len(FolderPairs(root)) == 1
    line = f"passed over: {root}/blur/notes.txt (no image)"
    assert what_is_passed_over(str(root), "test") == [line]


def test_a_truncated_image_is_named_when_it_is_read(make_pairs):
    root = make_pairs({"a": (64, 64)})
    file = root / "sharp/a.png"
    file.write_bytes(file.read_bytes()[:6000])
    pairs = FolderPairs(root)
    with pytest.raises(ImageError, match=r"sharp/a\.png: can't be read"):
        pairs[0]


def test_pairs_in_a_bucket(make_pairs):
    local, bucket = make_pairs({"a/1": (8, 9), "a/2": (8, 9)}), empty_bucket()
    for file in local.rglob("*.png"):
        (bucket / "pairs" / file.relative_to(local)).write_bytes(file.read_bytes())
    expected, pairs = (open_pairs(str(root), "train") for root in (local, bucket / "pairs"))
    assert pairs.names == expected.names
    for index in range(2):
        for key in ("blurred", "sharp"):
            np.testing.assert_array_equal(pairs[index][key], expected[index][key])
