"""Progress bars."""

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A ``tqdm`` bar; where stderr is no terminal, it is written every ten seconds only."""
    if not sys.stderr.isatty():
        options = {"mininterval": _SECONDS_BETWEEN_LINES, **options}
    return tqdm(*arguments, **options)
