"""Archives from the internet: downloaded, checked and unpacked with care."""

import functools
import hashlib
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from deblur_jax.errors import UserError
from deblur_jax.images.files import SUFFIXES
from deblur_jax.runtime.progress import progress_bar

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_WANTED = (*SUFFIXES, ".txt")
_CHUNK = 2**20


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
    file = folder / wanted.file_name
    if file.exists() and _md5(file) == wanted.md5:
        return file
    partial = file.with_name(f".{file.name}.part")
    try:
        with urllib.request.urlopen(wanted.url) as source, partial.open("wb") as target:
            length = source.headers.get("Content-Length")
            bar = progress_bar(
                desc=wanted.file_name, unit="B", unit_scale=True, total=int(length or 0) or None
            )
            with bar:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    bar.update(len(chunk))
        if _md5(partial) != wanted.md5:
            raise ArchiveError(
                f"{wanted.url}: its content is not what it was (MD5); fetch it yourself, and give "
                "--manual_dir"
            )
        partial.rename(file)
    except (OSError, urllib.error.URLError) as error:
        raise ArchiveError(
            f"{wanted.url}: can't be fetched ({error}); fetch it yourself, and give --manual_dir"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return file


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the images and lists of an archive, zip or tar.

    Raises:
        ArchiveError: if it is damaged, or holds anything that would be written outside ``folder``
            (absolute names, "..", links): then nothing is unpacked.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder)
        else:
            raise ArchiveError(f"{archive}: not a zip or tar, or truncated; fetch it again")
    except FileNotFoundError:
        raise ArchiveError(f"{archive}: no such file") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ArchiveError(f"{archive}: damaged ({error}); fetch it again") from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:
            mode = member.external_attr >> 16
            _check(archive, member.filename, is_link=stat.S_ISLNK(mode))
        files = [member for member in members if not member.is_dir()]
        _write_all(
            archive, folder, [(m.filename, functools.partial(content.open, m)) for m in files]
        )


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as content:
        members = content.getmembers()
        for member in members:
            special = not (member.isfile() or member.isdir())
            _check(archive, member.name, is_link=special)
        files = [member for member in members if member.isfile()]
        _write_all(
            archive, folder, [(m.name, functools.partial(content.extractfile, m)) for m in files]
        )


def _check(archive: Path, name: str, is_link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = bool(path.parts) and path.parts[0].endswith(":")
    if is_link or path.is_absolute() or ".." in path.parts or drive:
        what = "a link or device" if is_link else "a name that leaves the folder"
        raise ArchiveError(f"{archive}: refused, holds {what}: {name}; nothing was unpacked")


def _write_all(archive: Path, folder: Path, members: list[tuple[str, Callable[[], Any]]]) -> None:
    wanted = [(name, opened) for name, opened in members if name.lower().endswith(_WANTED)]
    for name, opened in progress_bar(wanted, desc=f"unpacking {archive.name}", unit="file"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
