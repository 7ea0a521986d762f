"""Ctrl-C and SIGTERM in the commands: one line, and an exit status that says which it was.

Python runs its handlers in the main thread between two instructions, which may be minutes later
while XLA compiles. So a thread of its own reads the numbers of the signals, from a socket that the
interpreter writes to at once.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from deblur_jax.errors import end_process

_unfinished: set[Any] = set()
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_SECONDS_TO_FLUSH = 1.0
_BYTES_OF_SIGACTION = 256
"""More than any system's struct has; the handler comes first."""
_SECONDS_OF_ONE_REQUEST = 1.0
"""``timeout`` and some schedulers send a signal to the process and again to its group."""


class _State:
    """Of this process: signals are the process's own."""

    deferred = False
    received: int | None = None
    tells_library = False
    library: Callable[[int], None] | None = None
    last_words: tuple[str, ...] = ()


@contextlib.contextmanager
def stop_at_signals() -> Iterator[None]:
    """Within the context, Ctrl-C and SIGTERM end the process with one line.

    The exit status is 130 after Ctrl-C and 143 after SIGTERM. Within ``deferred`` the first signal
    is only noted, for ``received``, and one that comes a second later or more ends the process.
    Outside of the main thread the context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    previous_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _leave_to_thread) for number in _NAMES}
    threading.Thread(target=_act, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(previous_descriptor)
        writing.close()
        _State.deferred, _State.received, _State.tells_library = False, None, False


def take_signals_back() -> None:
    """Handles SIGTERM here again, after a library has put its own handler in place."""
    if signal.getsignal(signal.SIGINT) is _leave_to_thread:
        _State.library = _handler_in_c(signal.SIGTERM)
        signal.signal(signal.SIGTERM, _leave_to_thread)


def _handler_in_c(number: int) -> Callable[[int], None] | None:
    """The handler that a library has installed in C, which Python can't give back."""
    action = ctypes.create_string_buffer(_BYTES_OF_SIGACTION)
    try:
        ctypes.CDLL(None).sigaction(number, None, action)
    except (OSError, AttributeError):  # no such function here
        return None
    address = int.from_bytes(action.raw[: ctypes.sizeof(ctypes.c_void_p)], sys.byteorder)
    if address in (signal.SIG_DFL, signal.SIG_IGN):
        return None
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


@contextlib.contextmanager
def deferred(*, tell_library: bool = False) -> Iterator[None]:
    """Within the context, there is something to save: the first signal is only noted.

    Args:
        tell_library: call, at the first signal, the handler that ``take_signals_back`` replaced;
            without one a signal ends the process as outside of the context.
    """
    _State.deferred = not tell_library or _State.library is not None
    _State.tells_library = tell_library
    try:
        yield
    finally:
        _State.deferred = False


@contextlib.contextmanager
def removed_if_stopped(path: Any) -> Iterator[None]:
    """Within the context, a signal that ends the process deletes a file.

    Args:
        path: with a method ``unlink``; it need not exist.
    """
    _unfinished.add(path)
    try:
        yield
    finally:
        _unfinished.discard(path)


@contextlib.contextmanager
def last_words(text: str) -> Iterator[None]:
    """Within the context, the line of a process that a signal ends says this too."""
    before = _State.last_words
    _State.last_words = (*before, text)
    try:
        yield
    finally:
        _State.last_words = before


def received() -> int | None:
    """The number of the signal that asked this process to stop, if one did."""
    return _State.received


def exit_status(number: int) -> int:
    """That of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def signal_name(number: int) -> str:
    """How messages call a signal."""
    return _NAMES[signal.Signals(number)]


def _leave_to_thread(number: int, frame: Any) -> None:
    """Stands in the place of Python's own handler, which would raise ``KeyboardInterrupt``."""


def _act(reading: socket.socket) -> None:
    noted = 0.0
    while data := reading.recv(1):
        number = data[0]
        if number not in _NAMES:
            continue
        if _State.received is not None and time.monotonic() - noted < _SECONDS_OF_ONE_REQUEST:
            continue
        if _State.received is not None or not _State.deferred:
            _end(number)
        _State.received, noted = number, time.monotonic()
        write_line(f"{signal_name(number)}: saving a checkpoint; once more to stop without it")
        if _State.tells_library and _State.library is not None:
            _State.library(signal.SIGTERM)


def _end(number: int) -> None:
    """Ends the process, which may be within a call of a library that takes minutes."""
    for child in multiprocessing.active_children():
        child.terminate()
    for path in _unfinished.copy():
        with contextlib.suppress(OSError):
            path.unlink()
    # What was printed is kept; the main thread may hold the stream, so this waits no longer.
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
    flushing.start()
    flushing.join(_SECONDS_TO_FLUSH)
    write_line("; ".join([f"stopped by {signal_name(number)}", *_State.last_words]))
    end_process(exit_status(number))


def write_line(line: str) -> None:
    """Writes to stderr past its lock; a progress bar's line on a terminal is ended first."""
    tqdm = sys.modules.get("tqdm")
    bars = getattr(tqdm.tqdm, "_instances", None) if tqdm else None
    start = "\n" if bars and os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{line}\n".encode())
