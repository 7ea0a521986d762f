"""What several commands share: flags, and how notes are said."""

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def flag_values(words: Sequence[str], flag: str) -> list[str]:
    """The values that a command line gives to a flag.

    Args:
        words: the command line.
        flag: as "--config".
    """
    values = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return values + [value for word, value in itertools.pairwise(words) if word == flag]


def add_loose_names(parser: argparse.ArgumentParser) -> None:
    """Adds ``--loose_names``."""
    parser.add_argument(
        "--loose_names",
        action="store_true",
        help="match names that differ in zero padding, or in a beginning or ending that all share, "
        "as img_0007_restored and 7",
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Adds ``--tile`` and ``--overlap``."""
    parser.add_argument(
        "--tile",
        type=int,
        help="restore in windows no larger than this (SVRNN: strips of this height), 0 for "
        "never (default: 1024, SVRNN by memory, where an image has more than two million pixels)",
    )
    parser.add_argument(
        "--overlap",
        type=_overlap,
        help='of windows, in pixels, or "exact" for the result of the whole image, which '
        "SVRNN's strips always give (default: 64)",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Adds ``--dtype``."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of feature maps: bfloat16 is less exact, and may take half of the time (default: as "
        "in training)",
    )


def restoring_options(args: argparse.Namespace) -> dict[str, Any]:
    """What ``Restorer.load`` takes of the flags that say how to restore, by name."""
    names = ("ema", "dtype", "ensemble", "tile", "overlap")
    return {name: getattr(args, name) for name in names}


EXACT = sys.maxsize
"""Of ``--overlap``: more than any network sees, and lowered to what it sees."""


def _overlap(text: str) -> int:
    if text == "exact":
        return EXACT
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f'expected pixels or "exact", not {text!r}')
    return int(text)


def say(notes: Iterable[str]) -> None:
    """Prints what a user should know, a line for each, to stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
