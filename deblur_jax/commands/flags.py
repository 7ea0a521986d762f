"""What a command line says before it is parsed."""

import itertools
from collections.abc import Sequence


def flag_values(words: Sequence[str], flag: str) -> list[str]:
    """The values that a command line gives to a flag.

    Args:
        words: the command line.
        flag: as "--config".
    """
    values = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return values + [value for word, value in itertools.pairwise(words) if word == flag]
