"""What a user can put right: errors that the commands print as one line."""

import contextlib
import logging as standard_logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Never

from absl import logging

_SECONDS_TO_RELEASE = 5.0
_STORAGE_CLIENTS = ("gcsfs", "aiohttp", "google", "requests", "urllib3")
"""Packages that speak with a bucket; they try for about half a minute before they fail."""


class UserError(Exception):
    """Base of errors whose message names a file or a field, and says what to do."""


class UsageError(UserError, ValueError):
    """A command line that can't be understood."""


class ConfigError(UserError, ValueError):
    """A field or flag that is unknown, or a value that can't be: the message names it."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and status 1 where a ``UserError`` arrives.

    What libraries log is left out, so that the line is seen: their errors arrive as exceptions.
    """
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = _print_of_main_thread
    warnings.showwarning = _print_warning
    threading.excepthook = _print_one_line
    # Of the arrays that are saved side by side, the first that fails arrives as an exception; what
    # asyncio reports of the others, with tracebacks, says the same.
    standard_logging.getLogger("asyncio").disabled = True
    standard_logging.getLogger("gcsfs").disabled = True
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
        # Not sys.exit: the tasks that a failed save leaves behind would bury the line.
        end_process(1)
    except ImportError as error:
        if "gcsfs" not in str(error):
            raise
        print("error: paths of gs:// need gcsfs: pip install gcsfs", file=sys.stderr, flush=True)
        end_process(1)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORAGE_CLIENTS:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".splitlines())
        print(
            f"error: the remote storage does not answer as it should ({reason}): run this command "
            "again once it does",
            file=sys.stderr,
            flush=True,
        )
        end_process(1)


def end_process(status: int) -> Never:
    """Ends the process at once, whatever threads of libraries wait for.

    Child processes are ended, and their semaphores given back: the process that watches over these
    would complain of each that is left.
    """
    # The line that says why has been written; threads of libraries that lose what they wait for,
    # such as a save on a full disk, have nothing to add.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    releasing = threading.Thread(target=_release_children, daemon=True)
    releasing.start()
    releasing.join(_SECONDS_TO_RELEASE)
    os._exit(status)


def _release_children() -> None:
    at_exit = getattr(sys.modules.get("multiprocessing.util"), "_exit_function", None)
    if at_exit is not None:
        with contextlib.suppress(Exception):
            at_exit()


def _print_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """One line, without the place in the source."""
    del place, more
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _print_of_main_thread(unraisable: Any) -> None:
    """Leaves out what the native threads of a failed save print: its error arrives by itself."""
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(unraisable)


def _print_one_line(thread: Any) -> None:
    """A thread of a library that fails, such as TensorBoard's writer on a full disk, ends alone."""
    if not issubclass(thread.exc_type, SystemExit):
        kind = thread.exc_type.__name__
        sys.stderr.write(f"\nwarning: a thread ended: {kind}: {thread.exc_value}\n")
