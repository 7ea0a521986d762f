"""Progress: a bar on a terminal, a line now and then in a file or a pipe."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} passed, {remaining} left, {rate_fmt}"


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A ``tqdm`` bar; where stderr is no terminal, a line every ten seconds."""
    if not sys.stderr.isatty():
        lines = {"file": _Lines(sys.stderr), "bar_format": _LINE + "{postfix}"}
        options = {"mininterval": _SECONDS_BETWEEN_LINES, **lines, **options}
    return tqdm(*arguments, **options)


def print_beside_bars(text: str) -> None:
    """Prints a line to stdout; bars on the terminal are drawn again below it."""
    tqdm.write(text)


class _Lines:
    """A stream for ``tqdm``: each state of a bar becomes a line, without control characters."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""
        self.encoding = stream.encoding

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._last = line
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
