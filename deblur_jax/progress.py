"""Progress bars."""

import sys

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def progress_bar(*arguments, **options) -> tqdm:
    """A ``tqdm`` bar; where nobody watches, in a log file, a line every ten seconds."""
    if not sys.stderr.isatty():
        options = {"mininterval": _SECONDS_BETWEEN_LINES, **options}
    return tqdm(*arguments, **options)
