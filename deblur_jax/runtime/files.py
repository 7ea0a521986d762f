"""Paths, folders, and files that are there whole or not at all."""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.runtime import signals
from deblur_jax.runtime.names import ESCAPED, shown

PathLike = str | os.PathLike

_HIDDEN = ".{}-{}-{}.partial"
"""The name of a file that is being written: host, process, and a number of its own."""
_LEFTOVER = re.compile(r"\.(?P<host>[\w.]+)-(?P<process>\d+)-[0-9a-f]{32}\.partial")
_tidied: set[str] = set()


class FolderError(UserError, OSError):
    """A folder that can't be made or written to."""


class FileError(UserError, OSError):
    """A file that can't be written."""


def absolute(path: PathLike) -> epath.Path:
    """A path from the root of the file system; that of a bucket as it is."""
    place = epath.Path(path)
    return place if is_remote(place) else place.absolute()


def real_place(path: PathLike) -> str:
    """The same for all names of one file or folder, whatever links lead to it."""
    name = os.fspath(path)
    return name if is_remote(name) else os.path.realpath(name)


def is_remote(path: PathLike) -> bool:
    """Whether a path is of a bucket, as gs://bucket/name."""
    return "://" in os.fspath(path)


def make_folder(path: PathLike) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        FolderError: if it can't be made.
    """
    if not str(path):
        raise FolderError("the name of the output folder is empty: name a folder")
    try:
        epath.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{path}: can't be made a folder: {error.strerror or error}") from None


def file_size(path: PathLike) -> int:
    """The size of a file in bytes, local or remote.

    Raises:
        OSError: if it is missing.
    """
    # ``epath`` looks up the name of the owner too, and fails for a user that has none.
    return epath.Path(path).stat().length if is_remote(path) else os.stat(path).st_size


def check_utf_8(path: PathLike) -> None:
    """Checks that a path can be handed to libraries that take UTF-8 only, such as TensorStore.

    Raises:
        FolderError: if it can't.
    """
    name = os.fspath(path)
    if shown(name) != name:
        raise FolderError(
            f"{path}: its name is not UTF-8, which checkpoints and prepared data sets need: "
            "rename it, or name a link to it"
        )


def check_output_folder(path: PathLike) -> None:
    """Makes a folder and writes to it, so that what can't be kept is not computed.

    Raises:
        FolderError: if it can't be made or written to.
    """
    make_folder(path)
    try:
        probe = epath.Path(path) / f".{uuid.uuid4().hex}"
        with whole_file(probe) as file:
            file.write(b"\0")
        probe.unlink()
    except OSError as error:
        raise FolderError(f"{path}: can't be written to: {error.strerror or error}") from None


@contextlib.contextmanager
def whole_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Opens a file under a hidden name, and gives it its own when the context ends.

    Where the context ends with an error, or the process by Ctrl-C or SIGTERM, nothing is left.

    Args:
        path: the name it shall have; a file of that name is replaced.

    Yields:
        The file, open for writing and reading.
    """
    target = epath.Path(path)
    if is_remote(path):  # an object of a bucket is there when it is closed, or not at all
        with tempfile.TemporaryFile() as local:
            yield local
            local.seek(0)
            with target.open("wb") as file:
                shutil.copyfileobj(local, file)
        return
    _remove_leftovers(os.path.realpath(target.parent))
    hidden = Path(target.parent) / _HIDDEN.format(_host(), os.getpid(), uuid.uuid4().hex)
    with signals.removed_if_stopped(hidden):
        try:
            with hidden.open("w+b") as file:
                yield file
            hidden.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _remove_leftovers(folder: str) -> None:
    """Removes the hidden files of processes of this host that were killed; once per folder."""
    if folder in _tidied:
        return
    _tidied.add(folder)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            found = _LEFTOVER.fullmatch(name)
            if found and found["host"] == _host() and not _is_running(int(found["process"])):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, name))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True


def write_whole(path: PathLike, content: str | bytes) -> None:
    """Writes a file, whole or not at all; text as UTF-8, see ``names.ESCAPED``.

    Raises:
        FileError: if it can't be written, as on a full disk.
    """
    try:
        with whole_file(path) as file:
            file.write(content.encode("utf-8", ESCAPED) if isinstance(content, str) else content)
    except OSError as error:
        raise FileError(f"{path}: can't be written: {error.strerror or error}") from None
