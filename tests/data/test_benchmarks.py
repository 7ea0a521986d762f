import argparse
import dataclasses
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from deblur_jax.commands import prepare as command
from deblur_jax.data.archives import ArchiveError, Download
from deblur_jax.data.benchmarks import BENCHMARKS
from deblur_jax.data.layouts import PairError
from deblur_jax.data.sources import open_pairs
from deblur_jax.evaluation.metrics import best_score
from deblur_jax.images.files import ImageError


def prepare(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser, words)
    command.run(parser.parse_args([str(word) for word in words]))


def image(seed, size=(12, 16)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


GOPRO = {
    f"GOPRO_Large/{split}/{sequence}/{kind}/{number:06}.png": image(10 * number + len(kind))
    for split, sequence in (("train", "GOPR1"), ("train", "GOPR2"), ("test", "GOPR9"))
    for kind in ("blur", "blur_gamma", "sharp")
    for number in (1, 2)
}
GT = ("lq", "gt")
GOPRO_FLAT = {
    f"{split}/{kind}/GOPR{i}_000001.png": image(i)
    for i, split in enumerate(("train", "test"))
    for kind in ("blur", "sharp")
}
HIDE = {
    **{f"HIDE_dataset/GT/{name}.png": image(1) for name in ("1fromG", "2fromG", "3fromG")},
    "HIDE_dataset/train/3fromG.png": image(2),
    "HIDE_dataset/test/test-close-ups/1fromG.png": image(3),
    "HIDE_dataset/test/test-long-shot/2fromG.png": image(4),
}
REALBLUR = {
    "RealBlur_J_test_list.txt": b"J/scene2/gt/gt_1.png J/scene2/blur/blur_1.png\n\n",
    "RealBlur_J_train_list.txt": b"J/scene1/gt/gt_1.png J/scene1/blur/blur_1.png \n",
    "RealBlur_R_test_list.txt": b"R/scene2/gt/gt_1.png R/scene2/blur/blur_1.png\n",
    **{
        f"{kind}/scene{i}/{role}/{role}_1.png": image(i + len(role), (13, 18))
        for kind in "JR"
        for i in (1, 2)
        for role in ("gt", "blur")
    },
}
KOHLER = {
    **{f"BlurryImages/Blurry{i}_{k}.png": image(i) for i in (1, 2) for k in (1, 12)},
    **{
        f"Image{i}/Kernel{k}/GroundTruth{i}_{k}_{n}.png": image(i + 100 * n)
        for i in (1, 2)
        for k in (1, 12)
        for n in (1, 2, 10)
    },
}


def write_folder(folder, files):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def write_zip(file, files):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def write_tar(file, files):
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("name", "files", "names"),
    [
        (
            "gopro",
            GOPRO,
            {
                "train": [f"GOPR{s}/00000{n}" for s in (1, 2) for n in (1, 2)],
                "test": ["GOPR9/000001", "GOPR9/000002"],
            },
        ),
        ("gopro", GOPRO_FLAT, {"train": ["GOPR0_000001"], "test": ["GOPR1_000001"]}),
        (
            "gopro",
            {
                f"GoPro/{split}/{kind}/GOPR{i}-000001.png": image(i)
                for i, split in enumerate(("train", "test"))
                for kind in ("input", "target")
            },
            {"train": ["GOPR0-000001"], "test": ["GOPR1-000001"]},
        ),
        ("gopro", {f"GOPRO/{kind}/1.png": image(1) for kind in ("Blur", "Sharp")}, {"test": ["1"]}),
        ("hide", HIDE, {"train": ["3fromG"], "test": ["1fromG", "2fromG"]}),
        (
            "hide",
            {f"test/{kind}/1.png": image(1) for kind in ("input", "target")},
            {"test": ["1"]},
        ),
        ("realblur_j", REALBLUR, {"train": ["scene1/blur_1"], "test": ["scene2/blur_1"]}),
        ("realblur_r", REALBLUR, {"test": ["scene2/blur_1"]}),
        ("kohler", KOHLER, {"test": ["1_01", "1_12", "2_01", "2_12"]}),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip", "tar", "folder of archives"])
def test_every_layout_as_folder_and_as_archive(name, files, names, form, tmp_path):
    if form == "folder":
        source = write_folder(tmp_path / "in", files)
    elif form == "zip":
        source = write_zip(tmp_path / "in.zip", files)
    elif form == "tar":
        source = write_tar(tmp_path / "in.tar.gz", files)
    else:
        source = tmp_path / "in"
        source.mkdir()
        half = len(files) // 2
        write_zip(source / "a.zip", dict(list(files.items())[:half]))
        write_tar(source / "b.tgz", dict(list(files.items())[half:]))
    out = tmp_path / "out"
    prepare(name, out, "--manual_dir", source)
    for split in ("train", "test"):
        if split in names:
            assert open_pairs(str(out), split).names == names[split]
        else:
            with pytest.raises(PairError, match="has no split"):
                open_pairs(str(out), split)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_the_layout_and_what_is_missing_are_said(tmp_path, capsys):
    files = {f"{split}/{kind}/1.png": image(1) for split in ("train", "test") for kind in GT}
    prepare("gopro", tmp_path / "out", "--manual_dir", write_folder(tmp_path / "in", files))
    said = capsys.readouterr().err
    assert "GoPro (Nah et al., CVPR 2017): lq/gt layout, 1 (train) + 1 (test) pairs" in said
    assert "incomplete: 1 of the 2,103 pairs of GoPro" in said
    assert "incomplete: 1 of the 1,111 pairs of GoPro" in said


def test_pairs_of_a_list_that_are_missing_are_named(tmp_path, capsys):
    files = dict(REALBLUR)
    files["RealBlur_J_test_list.txt"] += b"J/scene7/gt/gt_1.png J/scene7/blur/blur_1.png"
    prepare("realblur_j", tmp_path / "out", "--manual_dir", write_folder(tmp_path / "in", files))
    assert "test: missing scene7/blur_1; `evaluate" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("name", ["gopro", "hide", "realblur_j"])
def test_half_a_pair_is_refused(name, side, tmp_path):
    files = {f"test/{kind}/{n}.png": image(1) for kind in ("input", "target") for n in (1, 2)}
    del files[f"test/{side}/2.png"]
    source = write_folder(tmp_path / "in", files)
    with pytest.raises(PairError, match=r"2\.png: has no partner in"):
        prepare(name, tmp_path / "out", "--manual_dir", source)


def test_gopros_blur_is_the_default_and_blur_gamma_a_choice(tmp_path):
    source = write_folder(tmp_path / "in", GOPRO)
    for blurred, options in (("blur", ()), ("blur_gamma", ("--blurred", "blur_gamma"))):
        out = tmp_path / blurred
        prepare("gopro", out, "--manual_dir", source, *options)
        expected = GOPRO[f"GOPRO_Large/test/GOPR9/{blurred}/000002.png"]
        expected = np.asarray(Image.open(io.BytesIO(expected)))
        np.testing.assert_array_equal(open_pairs(str(out), "test")[1]["blurred"], expected)


def test_of_kohlers_frames_the_best_counts(tmp_path):
    prepare("kohler", tmp_path / "out", "--manual_dir", write_folder(tmp_path / "in", KOHLER))
    pair = open_pairs(str(tmp_path / "out"), "test")[3]
    assert len(pair["sharp"]) == 3
    last = np.asarray(Image.open(io.BytesIO(KOHLER["Image2/Kernel12/GroundTruth2_12_10.png"])))
    np.testing.assert_array_equal(pair["sharp"][2], last)
    scored, nearest = best_score(last.astype(np.float32) / 255 * 0.99, pair["sharp"], "matlab")
    np.testing.assert_array_equal(np.round(nearest * 255), last)
    assert scored.psnr > 35


def nothing_is_left(out):
    return not out.exists() and not out.with_name(f"{out.name}.partial").exists()


def symlink_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")


def symlink_tar(file):
    with tarfile.open(file, "w") as archive:
        link = tarfile.TarInfo("train/blur")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(link)


@pytest.mark.parametrize(
    "make",
    [
        lambda file: write_zip(file, {**GOPRO_FLAT, "../evil.png": image(0)}),
        lambda file: write_zip(file, {**GOPRO_FLAT, "/evil.png": image(0)}),
        lambda file: write_zip(file, {**GOPRO_FLAT, "a\\..\\..\\evil.png": image(0)}),
        lambda file: write_zip(file, {**GOPRO_FLAT, "C:/evil.png": image(0)}),
        lambda file: write_tar(file, {**GOPRO_FLAT, "a/../../evil.png": image(0)}),
        symlink_zip,
        symlink_tar,
    ],
)
def test_a_hostile_archive_is_refused(make, tmp_path):
    make(tmp_path / "hostile.zip")
    with pytest.raises(ArchiveError, match=r"hostile\.zip: refused, holds .*nothing was unpacked"):
        prepare("gopro", tmp_path / "out", "--manual_dir", tmp_path / "hostile.zip")
    assert nothing_is_left(tmp_path / "out")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_archive_is_named(write, share, tmp_path):
    file = write(tmp_path / "short.zip", GOPRO)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArchiveError, match=r"short\.zip: (damaged|not a zip)"):
        prepare("gopro", tmp_path / "out", "--manual_dir", file)
    assert nothing_is_left(tmp_path / "out")


def test_a_corrupt_archive_is_named(tmp_path):
    file = write_zip(tmp_path / "corrupt.zip", GOPRO_FLAT)
    content = bytearray(file.read_bytes())
    content[200:210] = bytes(10)
    file.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"corrupt\.zip: damaged"):
        prepare("gopro", tmp_path / "out", "--manual_dir", file)


def test_a_corrupt_image_is_named_and_the_next_try_starts_cleanly(tmp_path):
    broken = {**GOPRO_FLAT, "test/sharp/GOPR1_000001.png": image(1)[:200]}
    write_folder(tmp_path / "in", broken)
    with pytest.raises(ImageError, match=r"sharp/GOPR1_000001\.png: can't be read"):
        prepare("gopro", tmp_path / "out", "--manual_dir", tmp_path / "in")
    assert nothing_is_left(tmp_path / "out")
    # As after a kill -9, which cleans nothing.
    for leftover in ("unpacked/train", "pairs/1.0.0/.shard-abc"):
        write_folder(tmp_path / "out.partial" / leftover, {"file": b"half"})
    write_folder(tmp_path / "in", GOPRO_FLAT)
    prepare("gopro", tmp_path / "out", "--manual_dir", tmp_path / "in")
    assert not list((tmp_path / "out").rglob(".*"))
    assert not (tmp_path / "out.partial").exists()
    assert len(open_pairs(str(tmp_path / "out"), "test")) == 1


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("gopro", {"a.png": image(0)}, "holds no pairs of gopro in a layout that is known"),
        ("hide", {"GT/a.png": image(0), "test/b.png": image(0)}, "has no partner in"),
        (
            "realblur_j",
            {"RealBlur_J_test_list.txt": b"a.png b.png\n", "b.png": image(0)},
            r"line 1: .*a\.png is missing",
        ),
        ("realblur_j", {"RealBlur_J_test_list.txt": b"a\n"}, r'line 1: expected "sharp blurred"'),
        ("kohler", {"Blurry1_1.png": image(0)}, r"has no GroundTruth1_1_\*"),
        (
            "gopro",
            {"test/blur/a.png": image(0), "test/sharp/b.png": image(0)},
            "has no partner in sharp/",
        ),
    ],
)
def test_pairs_that_do_not_pair_up_are_named(name, files, message, tmp_path):
    write_folder(tmp_path / "in", files)
    with pytest.raises(PairError, match=message):
        prepare(name, tmp_path / "out", "--manual_dir", tmp_path / "in")
    assert nothing_is_left(tmp_path / "out")


def test_a_benchmark_without_an_address_says_where_to_get_it(tmp_path):
    with pytest.raises(ArchiveError, match=r"get it from https://seungjunnah.*--manual_dir"):
        prepare("gopro", tmp_path / "out")
    with pytest.raises(PairError, match="--manual_dir is for a benchmark: gopro, hide"):
        prepare(write_folder(tmp_path / "in", GOPRO), tmp_path / "out", "--manual_dir", "x")
    with pytest.raises(ArchiveError, match="nowhere: no such file or folder"):
        prepare("gopro", tmp_path / "out", "--manual_dir", "nowhere")


@pytest.fixture
def address(tmp_path):
    """A web server with Kohler's archive."""
    (tmp_path / "web").mkdir()
    write_zip(tmp_path / "web/Kohler.zip", KOHLER)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/Kohler.zip"
        server.shutdown()


def with_download(monkeypatch, *downloads):
    changed = dataclasses.replace(BENCHMARKS["kohler"], downloads=downloads)
    monkeypatch.setitem(BENCHMARKS, "kohler", changed)


def test_a_stable_address_is_fetched_and_checked(address, tmp_path, monkeypatch):
    md5 = hashlib.md5((tmp_path / "web/Kohler.zip").read_bytes()).hexdigest()
    with_download(monkeypatch, Download(address, md5))
    prepare("kohler", tmp_path / "out")
    assert len(open_pairs(str(tmp_path / "out"), "test")) == 4
    assert not (tmp_path / "out/downloads").exists()


def test_another_content_is_not_kept(address, tmp_path, monkeypatch):
    with_download(monkeypatch, Download(address, "0" * 32))
    with pytest.raises(ArchiveError, match=r"Kohler\.zip: its content is not what it was"):
        prepare("kohler", tmp_path / "out")
    with_download(monkeypatch, Download(address + "x", "0" * 32))
    with pytest.raises(ArchiveError, match=r"can't be fetched .*404.*--manual_dir"):
        prepare("kohler", tmp_path / "out")
    assert nothing_is_left(tmp_path / "out")
