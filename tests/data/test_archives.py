"""Archives as they are found: the right files, or one line."""

import io
import os
import struct
import tarfile
import zipfile

import pytest

from deblur_jax.data.archives import ArchiveError, unpack

FILES = {"A/blur/1.png": b"one" * 3000, "A/blur/2.png": b"two" * 3000, "A/list.txt": b"1\n2\n"}


def make_zip(file, files, method=zipfile.ZIP_DEFLATED, separator="/"):
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo()
            member.filename = name.replace("/", separator)
            archive.writestr(member, content, method)
    return file


def make_tar(file, files, compression=""):
    with tarfile.open(file, f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def unpacked(archive, folder, **options):
    unpack(archive, folder, **options)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def change_headers(file, *, method=None, flag=0):
    content = bytearray(file.read_bytes())
    for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        index = -1
        while (index := content.find(sign, index + 1)) >= 0:
            content[index + at] |= flag
            if method is not None:
                content[index + at + 2 : index + at + 4] = struct.pack("<H", method)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_tars(compression, tmp_path):
    archive = make_tar(tmp_path / "a.tar", FILES, compression)
    assert unpacked(archive, tmp_path / "out") == FILES


@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_zips(method, separator, tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES, getattr(zipfile, f"ZIP_{method}"), separator)
    assert unpacked(archive, tmp_path / "out") == FILES


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("first", [True, False])
def test_what_macos_adds_is_left_out(make, first, tmp_path):
    added = {"__MACOSX/A/blur/._1.png": b"x", "A/blur/._2.png": b"x"}
    files = {**added, **FILES} if first else {**FILES, **added}
    assert unpacked(make(tmp_path / "a", files), tmp_path / "out") == FILES


@pytest.mark.parametrize(
    ("method", "name"),
    [(9, "Deflate64"), (93, "Zstandard"), (98, "PPMd"), (99, "AES encryption")],
)
def test_what_is_not_read_in_a_zip_is_named(method, name, tmp_path):
    archive = change_headers(make_zip(tmp_path / "a.zip", FILES), method=method)
    with pytest.raises(ArchiveError, match=rf"a\.zip: {name} in a zip is not read.*unpack it"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_password_is_asked_for(tmp_path):
    archive = change_headers(make_zip(tmp_path / "a.zip", FILES), flag=1)
    with pytest.raises(ArchiveError, match=r"a\.zip: is encrypted: give --password"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(ArchiveError, match="Bad password"):
        unpack(archive, tmp_path / "out", password="wrong")


@pytest.mark.parametrize(
    ("start", "kind"), [(b"\x28\xb5\x2f\xfd", "Zstandard"), (b"7z\xbc\xaf", "7z"), (b"Rar!", "RAR")]
)
def test_other_archives_are_named(start, kind, tmp_path):
    (tmp_path / "a.zip").write_bytes(start + bytes(600))
    with pytest.raises(ArchiveError, match=f"{kind} is not read here: unpack it"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_tar_that_ends_early_is_refused_wherever_it_was_cut(compression, tmp_path):
    files = {**FILES, "A/3.png": os.urandom(700)}
    content = make_tar(tmp_path / "whole", files, compression).read_bytes()
    step = max(1, len(content) // 60)
    end = len(content) if compression else content.rstrip(b"\0").__len__()
    for cut in range(1, end, step):
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        with pytest.raises(ArchiveError):
            unpack(tmp_path / "cut.tar", tmp_path / "out")
        assert not list((tmp_path / "out").rglob("*.png")) or compression


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_twice_is_refused(make, tmp_path):
    archive = make(tmp_path / "a", {"A/1.png": b"one", "A//1.png": b"two"})
    with pytest.raises(ArchiveError, match=r"holds A/1\.png twice; nothing was unpacked"):
        unpack(archive, tmp_path / "out")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    index = content.find(b"PK\1\2")
    content[index + 24 : index + 28] = struct.pack("<I", 0xFFFFFFF0)
    archive.write_bytes(content)
    # Where 4 GB are free, the lie is found when the file is read.
    with pytest.raises(ArchiveError, match=r"free; nothing was unpacked|a\.zip: damaged"):
        unpack(archive, tmp_path / "out")


def test_a_full_disk_is_called_that(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ArchiveError, match=r"needs 0\.0 GB unpacked, .* has 0\.0 free"):
        unpack(archive, tmp_path / "out")
