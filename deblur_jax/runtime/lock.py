"""A folder that one run at a time may write to.

On a local file system the kernel holds the lock, and gives it up when the process ends, however it
ends. Where it can't (a bucket, a file system without locks) a lease stands in its place: a file
that its holder writes anew every 15 seconds. A lease that is not renewed for 45 seconds is that of
a killed run, and is taken over. No clocks are compared, since those of two hosts differ.
"""

import contextlib
import dataclasses
import datetime
import errno
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO

import jax
from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import FolderError, PathLike, make_folder, whole_file
from deblur_jax.runtime.processes import broadcast_text, wait_for_all
from deblur_jax.runtime.signals import removed_if_stopped

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

_LOCK, _LEASE = ".lock", ".lease"
RENEWAL_SECONDS = 15.0
_STALE_SECONDS = 45.0
_SETTLE_SECONDS = 3.0
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class LockedError(UserError, RuntimeError):
    """Another run writes to the folder; the message says which."""


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Who holds a lock."""

    host: str
    process: int
    since: str
    identity: str

    def __str__(self) -> str:
        return f"host {self.host}, process {self.process}, since {self.since}"


class Lock:
    """A lock that is held."""

    def __init__(self, folder: epath.Path, lost_to: Callable[[], _Holder | None]) -> None:
        self._folder = folder
        self._lost_to = lost_to

    def check(self) -> None:
        """Returns at once, if it is still held.

        Raises:
            LockedError: if another run took it over, because this one was stopped for so long that
                it did not renew its lease.
        """
        holder = self._lost_to()
        if holder is not None:
            raise _refusal(self._folder, holder)


@contextlib.contextmanager
def only_run_in(folder: PathLike, say: Callable[[str], None] = print) -> Iterator[Lock]:
    """Holds the lock of a folder, for all processes of a run together.

    Args:
        folder: local or remote; made if it is missing.
        say: gets a line if a lease has to be waited for.

    Raises:
        LockedError: if another run holds it.
        FolderError: if the folder can't be made or written to.
    """
    path = epath.Path(folder)
    with contextlib.ExitStack() as stack:
        lock, error = Lock(path, lambda: None), None
        if jax.process_index() == 0:
            try:
                lock = stack.enter_context(_held(path, say))
            except UserError as refused:
                error = refused
        wait_for_all(f"lock of {path}")
        if jax.process_count() > 1:
            said = broadcast_text(str(error or ""))
            error = error or (LockedError(said) if said else None)
        if error is not None:
            raise error
        yield lock


@contextlib.contextmanager
def _held(folder: epath.Path, say: Callable[[str], None]) -> Iterator[Lock]:
    make_folder(folder)
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    ours = _Holder(socket.gethostname(), os.getpid(), now, uuid.uuid4().hex)
    file = _kernel_lock(folder, ours)
    if file is None:
        with _lease(folder, ours, say) as lock:
            yield lock
        return
    try:
        yield Lock(folder, lambda: None)
    finally:
        file.truncate(0)
        file.close()


def _kernel_lock(folder: epath.Path, ours: _Holder) -> IO[str] | None:
    """The open file that holds the lock; None where the file system has no locks."""
    if fcntl is None or "://" in os.fspath(folder):
        return None
    try:
        file = open(folder / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        reason = error.strerror or error
        raise FolderError(f"{folder}: can't be written to: {reason}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = _read(file.read())
        file.close()
        raise _refusal(folder, holder) from None
    except OSError as error:
        file.close()
        if error.errno in _WITHOUT_LOCKS:
            return None
        raise
    file.seek(0)
    file.truncate(0)
    file.write(json.dumps(dataclasses.asdict(ours)))
    file.flush()
    return file


@contextlib.contextmanager
def _lease(folder: epath.Path, ours: _Holder, say: Callable[[str], None]) -> Iterator[Lock]:
    file = folder / _LEASE
    _wait_for(file, folder, say)
    try:
        _write(file, ours, 0)
    except OSError as error:
        reason = error.strerror or error
        raise FolderError(f"{folder}: can't be written to: {reason}") from None
    time.sleep(_SETTLE_SECONDS)
    holder = _read(_text(file))
    if holder is None or holder.identity != ours.identity:  # two began at the same moment
        raise _refusal(folder, holder)
    ended, lost_to = threading.Event(), list[_Holder]()
    thread = threading.Thread(target=_renew, args=(file, ours, ended, lost_to), daemon=True)
    thread.start()
    try:
        with removed_if_stopped(file):
            yield Lock(folder, lambda: lost_to[0] if lost_to else None)
    finally:
        ended.set()
        thread.join()
        if not lost_to:
            with contextlib.suppress(Exception):
                file.unlink(missing_ok=True)


def _renew(file: epath.Path, ours: _Holder, ended: threading.Event, lost_to: list[_Holder]) -> None:
    for renewals in itertools.count(1):
        if ended.wait(RENEWAL_SECONDS):
            return
        # A failure of the network is no reason to stop: the next renewal may succeed.
        with contextlib.suppress(Exception):
            holder = _read(_text(file))
            if holder is not None and holder.identity != ours.identity:
                lost_to.append(holder)
                return
            _write(file, ours, renewals)


def _wait_for(file: epath.Path, folder: epath.Path, say: Callable[[str], None]) -> None:
    """Returns when there is no lease, or the one there is was not renewed for long enough.

    Raises:
        LockedError: as soon as it is renewed.
    """
    first = _text(file)
    holder = _read(first)
    if holder is None:
        return
    say(
        f"{folder}: a run may be at work here ({holder}); waiting for {_STALE_SECONDS:.0f} seconds "
        "to see whether it is"
    )
    end = time.monotonic() + _STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, _STALE_SECONDS / 10))
        content = _text(file)
        if not content:
            return
        if content != first:
            raise _refusal(folder, _read(content))


def _refusal(folder: epath.Path, holder: _Holder | None) -> LockedError:
    who = "" if holder is None else f" ({holder})"
    return LockedError(
        f"{folder}: another run is at work here{who}: wait for its end, or choose another folder"
    )


def _write(file: epath.Path, holder: _Holder, renewals: int) -> None:
    # Whole, since another run that reads half a lease would take the folder over.
    with whole_file(file) as stream:
        stream.write(json.dumps({**dataclasses.asdict(holder), "renewals": renewals}).encode())


def _text(file: epath.Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _read(text: str) -> _Holder | None:
    try:
        stored = json.loads(text)
        return _Holder(
            str(stored["host"]),
            int(stored["process"]),
            str(stored["since"]),
            str(stored["identity"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
