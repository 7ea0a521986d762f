import io
import sys

import numpy as np
import pytest
from PIL import Image

from deblur_jax.cli import make_parser
from deblur_jax.data.folder import FolderPairs, find_pairs
from deblur_jax.data.layouts import PairError
from deblur_jax.data.patches import Patches, WholePairs
from deblur_jax.data.prepared import PreparedPairs
from deblur_jax.data.sources import open_pairs
from deblur_jax.images.files import ImageError
from tests.commands import error_of, run_command, run_script


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
    patches = Patches(find_pairs(root), size=16, per_image=1, augment=False)
    (((name, *images),),) = patches.make(0, 1)
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


def stopped_prepare(root, out, after):
    """Runs the command until so many shards are there, then sends SIGTERM."""
    code = f"""
import os, signal, sys
from deblur_jax.data import patches, preparing
patches.WholePairs.items_per_shard = 1
write, done = preparing._write_shard, []
def counted(*arguments):
    if len(done) == {after}:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    done.append(None)
    return write(*arguments)
preparing._write_shard = counted
from deblur_jax.cli import main
main()
"""
    return run_script("-c", code, "prepare", root, out)


def test_a_stopped_command_goes_on_and_another_one_does_not(make_pairs, tmp_path, monkeypatch):
    root, out = make_pairs(dict.fromkeys("abcd", (16, 16))), tmp_path / "out"
    result = stopped_prepare(root, out, after=2)
    assert result.returncode == 143
    assert result.stderr.splitlines()[-1] == (
        f"stopped by SIGTERM; {out}.partial keeps what is done: the same command goes on from there"
    )
    assert not out.exists()
    other = prepare(root, out, "--patch_size", 8)
    assert other.returncode == 1
    assert "holds what another command began (patch_size None, not 8)" in other.stderr
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "out.partial").rglob("*.array_record*")}
    assert len(kept) == 2

    monkeypatch.setattr(WholePairs, "items_per_shard", 1)
    words = ["prepare", str(root), str(out)]
    args = make_parser(words).parse_args(words)
    args.run(args)
    assert not (tmp_path / "out.partial").exists()
    for file, time in kept.items():
        assert (out / file.relative_to(tmp_path / "out.partial")).stat().st_mtime_ns == time
    whole, prepared = FolderPairs(root), open_pairs(str(out), "train")
    assert prepared.names == whole.names
    for index in range(4):
        np.testing.assert_array_equal(prepared[index]["sharp"], whole[index]["sharp"])


def test_after_an_error_not_even_a_folder_stays(make_pairs, tmp_path):
    root = make_pairs({"a": (64, 64), "b": (64, 64)})
    (root / "sharp/b.png").write_bytes((root / "sharp/b.png").read_bytes()[:6000])
    assert prepare(root, tmp_path / "new/out").returncode == 1
    assert not (tmp_path / "new").exists()


def test_a_source_that_changed_after_the_stop_is_prepared_anew(make_pairs, tmp_path):
    root, out = make_pairs(dict.fromkeys("abc", (16, 16))), tmp_path / "out"
    assert stopped_prepare(root, out, after=2).returncode == 143
    make_pairs({"aa": (16, 16), "d": (16, 16)}, root=root)
    assert prepare(root, out).returncode == 0
    whole, prepared = FolderPairs(root), open_pairs(str(out), "train")
    assert prepared.names == whole.names == ["a", "aa", "b", "c", "d"]
    for index in range(5):
        np.testing.assert_array_equal(prepared[index]["sharp"], whole[index]["sharp"])
    assert len(list(out.rglob("*.array_record*"))) == 1


def test_opening_reads_the_index_and_no_images(make_pairs, tmp_path, monkeypatch):
    root, out = make_pairs({"a": (8, 12), "b": (16, 10)}), tmp_path / "out"
    assert prepare(root, out).returncode == 0
    monkeypatch.setattr(PreparedPairs, "_record", None)
    pairs = PreparedPairs(out, "undivided")
    assert (pairs.names, pairs.sizes) == (["a", "b"], [(8, 12), (16, 10)])
    monkeypatch.undo()
    next(out.rglob("index-*.json")).unlink()  # as older versions wrote it
    again = PreparedPairs(out, "undivided")
    assert (again.names, again.sizes) == (pairs.names, pairs.sizes)


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "middle", "index"])
def test_damaged_files_are_named(damage, make_pairs, tiny_weights, tmp_path):
    root, out = make_pairs({"a": (64, 64), "b": (64, 64)}), tmp_path / "out"
    assert prepare(root, out).returncode == 0
    file = next(out.rglob("*.array_record*"))
    content = bytearray(file.read_bytes())
    if damage == "index":
        file = next(out.rglob("index-*.json"))
        file.write_text(file.read_text().replace('["a", "b"]', '["a"]'))
    elif damage == "missing":
        file.unlink()
    elif damage == "middle":
        content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 4)
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 3 if damage == "cut" else 0])
    with pytest.raises((PairError, ImageError)) as error:
        [pairs[i] for pairs in [PreparedPairs(out, "undivided")] for i in range(len(pairs))]
    assert str(out) in str(error.value)
    words = ("--weights", tiny_weights, "--data", out, "--out", tmp_path / "scores")
    assert str(out) in error_of("evaluate", *words)
