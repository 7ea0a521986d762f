"""Progress: a bar on a terminal, a line now and then in a file or a pipe."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} passed, {remaining} left, {rate_fmt}"


def progress_bar(*arguments: Any, estimate_from: float = 0.0, **options: Any) -> tqdm:
    """A ``tqdm`` bar; where stderr is no terminal, a line every ten seconds.

    Args:
        *arguments: of ``tqdm``.
        estimate_from: the share of the total before which no time left is estimated.
        **options: of ``tqdm``.
    """
    if not sys.stderr.isatty():
        lines = {"file": _Lines(sys.stderr), "bar_format": _LINE + "{postfix}"}
        options = {"mininterval": _SECONDS_BETWEEN_LINES, **lines, **options}
    return _Bar(*arguments, estimate_from=estimate_from, **options)


def print_beside_bars(text: str) -> None:
    """Prints a line to stdout; bars on the terminal are drawn again below it."""
    tqdm.write(text)


class _Bar(tqdm):  # type: ignore[misc]
    """A bar of ``progress_bar``."""

    def __init__(self, *arguments: Any, estimate_from: float, **options: Any):
        self._estimate_from = estimate_from
        super().__init__(*arguments, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        known: dict[str, Any] = super().format_dict
        if known["total"] and known["n"] < self._estimate_from * known["total"]:
            known["rate"] = 0  # which tqdm writes as a question mark, and the time left too
        return known


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
