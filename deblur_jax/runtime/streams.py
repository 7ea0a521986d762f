"""The standard output and error of the program: closed, full, or of any encoding."""

import io
import os
import sys
from typing import Any, TextIO

from deblur_jax.errors import UserError, end_process
from deblur_jax.runtime.names import ESCAPED

_STATUS_OF_BROKEN_PIPE = 128 + 13
"""That of a program that SIGPIPE ends, as the shell's tools end when nobody reads them."""


class OutputError(UserError, OSError):
    """The standard output can't be written to."""


def prepare_streams() -> None:
    """Makes both streams take every name in every locale, and fail in one line if they fail.

    A stream that is closed swallows what is written to it. Where nobody reads the standard output
    any more, the program ends without a word, as `head` makes others end.
    """
    sys.stdout = _checked(sys.stdout, 1)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPED)


def flush_output() -> None:
    """Writes what was printed.

    Raises:
        OutputError: if it can't be written, as on a full disk.
    """
    sys.stdout.flush()


def _checked(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")
    try:
        is_own = stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):
        is_own = False
    if not is_own:  # a test, or a notebook, has its own
        return stream
    stream.flush()
    raw = _Output(descriptor, "w", closefd=False)
    buffered = io.BufferedWriter(raw)
    line_buffered = os.isatty(descriptor)
    return io.TextIOWrapper(buffered, stream.encoding, ESCAPED, line_buffering=line_buffered)


class _Output(io.FileIO):
    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            end_process(_STATUS_OF_BROKEN_PIPE)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"the standard output can't be written to: {reason}") from None
