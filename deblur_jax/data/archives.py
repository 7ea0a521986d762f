"""Archives from the internet: downloaded, checked and unpacked with care."""

import functools
import logging
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pooch

from deblur_jax.errors import UserError
from deblur_jax.images.files import SUFFIXES
from deblur_jax.runtime.progress import progress_bar

ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lzma"),
    *(".tar.zst", ".tzst", ".7z", ".rar"),
)
"""Archives by their names; those in the last line are named, but not read."""
MACOS_FOLDER = "__MACOSX"
"""What macOS adds to archives: files that are no images, by the names of images."""
_WANTED = (*SUFFIXES, ".txt")
_CHUNK = 2**20
_SECONDS_OF_SILENCE = 60
_BLOCK = 512
"""Of a tar file, which ends with blocks of zeros."""

_STARTS = {
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"\x1f\x9d": "compress (.Z)",
    b"\x04\x22\x4d\x18": "LZ4",
}
"""What is not read, by its first bytes."""
_ZIP_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
_BY_HAND = "unpack it, with 7-Zip for example, and give --manual_dir the folder"


class _Member(NamedTuple):
    """A file in an archive: its name with "/", its size, and how to open it."""

    name: str
    size: int
    open: Callable[[], Any]


class ArchiveError(UserError, ValueError):
    """An archive that is missing, damaged or hostile; the message names it."""


class Download(NamedTuple):
    """An archive on the internet, and the MD5 sum of its content."""

    url: str
    md5: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def download(wanted: Download, folder: Path) -> Path:
    """Fetches an archive and checks its MD5 sum; a file that is there already, and whole, is kept.

    Raises:
        ArchiveError: if it can't be fetched, or has another MD5 sum; then it is deleted.
    """
    pooch.get_logger().setLevel(logging.ERROR)
    address = wanted.url
    try:
        # pooch sets the total, when it knows that.
        with progress_bar(desc=wanted.file_name, unit="B", unit_scale=True, total=1) as bar:
            file = pooch.retrieve(
                address,
                f"md5:{wanted.md5}",
                fname=wanted.file_name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=bar, timeout=_SECONDS_OF_SILENCE),
            )
    except OSError as error:  # those of requests among them
        raise ArchiveError(
            f"{address}: can't be fetched ({error}); fetch it yourself, and give --manual_dir"
        ) from None
    except ValueError:
        raise ArchiveError(
            f"{address}: its content is not what it was (MD5); fetch it yourself, and give "
            "--manual_dir"
        ) from None
    return Path(file)


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, folder: Path, *, password: str | None = None) -> None:
    """Unpacks the images and lists of an archive, zip or tar.

    Args:
        archive: the file.
        folder: to unpack into.
        password: of an encrypted zip.

    Raises:
        ArchiveError: if it is damaged, ends early, is of a kind that is not read, does not fit on
            the disk, has a name twice, or holds anything that would be written outside ``folder``
            (absolute names, "..", links): then nothing is unpacked.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                _write_all(archive, folder, _members_of_zip(archive, content, password))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as content:
                _write_all(archive, folder, _members_of_tar(archive, content))
        else:
            raise ArchiveError(_why_unknown(archive))
    except FileNotFoundError:
        raise ArchiveError(f"{archive}: no such file") from None
    except ArchiveError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArchiveError(f"{archive}: damaged ({first}); fetch it again") from None


def _why_unknown(archive: Path) -> str:
    with archive.open("rb") as file:
        start = file.read(4)
    for known, kind in _STARTS.items():
        if start.startswith(known):
            return f"{archive}: {kind} is not read here: {_BY_HAND}"
    return f"{archive}: not a zip or tar, or truncated; fetch it again"


def _members_of_zip(archive: Path, content: zipfile.ZipFile, password: str | None) -> list[_Member]:
    members = []
    for member in content.infolist():
        name = member.filename.replace("\\", "/")  # as some programs on Windows write it
        _check(archive, name, is_link=stat.S_ISLNK(member.external_attr >> 16))
        if member.is_dir() or name.endswith("/"):
            continue
        if member.compress_type in _ZIP_METHODS:
            method = _ZIP_METHODS[member.compress_type]
            raise ArchiveError(f"{archive}: {method} in a zip is not read here: {_BY_HAND}")
        if member.flag_bits & 1 and password is None:
            raise ArchiveError(f"{archive}: is encrypted: give --password")
        secret = password.encode() if password is not None and member.flag_bits & 1 else None
        opened = functools.partial(content.open, member, pwd=secret)
        members.append(_Member(name, member.file_size, opened))
    return members


def _members_of_tar(archive: Path, content: tarfile.TarFile) -> list[_Member]:
    members = []
    for member in content.getmembers():
        name = member.name.replace("\\", "/")
        _check(archive, name, is_link=not (member.isfile() or member.isdir()))
        if member.isfile():
            opened = functools.partial(content.extractfile, member)
            members.append(_Member(name, member.size, opened))
    assert content.fileobj is not None
    content.fileobj.seek(content.offset)
    if content.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise ArchiveError(f"{archive}: damaged (it ends early); fetch it again")
    while content.fileobj.read(_CHUNK):  # a compressed file has its check sum at the end
        pass
    return members


def _check(archive: Path, name: str, is_link: bool) -> None:
    path = PurePosixPath(name)
    drive = bool(path.parts) and path.parts[0].endswith(":")
    if is_link or path.is_absolute() or ".." in path.parts or drive:
        what = "a link or device" if is_link else "a name that leaves the folder"
        raise ArchiveError(f"{archive}: refused, holds {what}: {name}; nothing was unpacked")


def _is_wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = MACOS_FOLDER in parts or parts[-1].startswith("._")
    return not hidden and name.lower().endswith(_WANTED)


def _write_all(archive: Path, folder: Path, members: list[_Member]) -> None:
    wanted = {}
    for member in filter(lambda member: _is_wanted(member.name), members):
        name = str(PurePosixPath(member.name))
        if name in wanted:
            raise ArchiveError(f"{archive}: refused, holds {name} twice; nothing was unpacked")
        wanted[name] = member
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(m.size for m in wanted.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ArchiveError(
            f"{archive}: needs {needed / 1e9:,.1f} GB unpacked, {folder} has {free / 1e9:,.1f} "
            "free; nothing was unpacked"
        )
    bar = progress_bar(desc=f"unpacking {archive.name}", unit="B", unit_scale=True, total=needed)
    with bar:
        for name, member in wanted.items():
            target = folder / name
            with member.open() as source:
                written = _copy(source, target, bar.update)
            if written != member.size:
                raise ArchiveError(f"{archive}: damaged ({name} ends early); fetch it again")


def _copy(source: Any, target: Path, progress: Callable[[int], Any]) -> int:
    """Writes a file; returns how many bytes it has."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("wb")
    except OSError as error:
        raise ArchiveError(f"{target}: can't be written: {error.strerror}") from None
    with file:
        while chunk := source.read(_CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise ArchiveError(f"{target}: can't be written: {error.strerror}") from None
            progress(len(chunk))
            written += len(chunk)
    return written
