"""Names of restored, blurred and sharp images that belong together but differ a little."""

import itertools
import re
from collections.abc import Sequence

from deblur_jax.data.layouts import PairError


def match_loosely(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Pairs names up that differ in zero padding, or in a beginning or ending that all share.

    So ``img_0007_restored`` belongs to ``7`` if all of ours begin with ``img_`` and end with
    ``_restored``. Beginnings and endings are left out on either side, both or neither, whichever
    gives every name a partner.

    Args:
        ours: names without suffixes.
        theirs: others, as many.

    Returns:
        Theirs by ours.

    Raises:
        PairError: if a name has no partner, naming it.
    """
    for shortened in itertools.product((False, True), repeat=4):
        ours_by_key = _by_key(ours, *shortened[:2])
        theirs_by_key = _by_key(theirs, *shortened[2:])
        if ours_by_key is None or theirs_by_key is None:
            continue
        if set(ours_by_key) == set(theirs_by_key):
            return {name: theirs_by_key[key] for key, name in ours_by_key.items()}
    raise PairError(_without_partner(ours, theirs))


def _by_key(names: Sequence[str], beginning: bool, ending: bool) -> dict[str, str] | None:
    """Names by what is left of them; None if two are the same then."""
    first, last = 0, 0
    if beginning:
        first = len(_shared_beginning(names).rstrip("0123456789"))
    if ending:
        last = len(_shared_beginning([name[::-1] for name in names]).rstrip("0123456789"))
    keys = {}
    for name in names:
        left = name[first : max(first, len(name) - last)]
        key = re.sub(r"\d+", lambda number: str(int(number[0])), left)
        if key in keys:
            return None
        keys[key] = name
    return keys


def _shared_beginning(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(character for character, _ in same)


def _without_partner(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Says which name has no partner, of those whose numbers and letters all differ."""
    for names, others in ((ours, theirs), (theirs, ours)):
        plain = {re.sub(r"\d+", lambda number: str(int(number[0])), other) for other in others}
        for name in names:
            key = re.sub(r"\d+", lambda number: str(int(number[0])), name)
            if not any(key in other or other in key for other in plain):
                return f"{name}: has no partner among {len(others)} names"
    return f"{len(ours)} and {len(theirs)} names can't be paired up: {min(ours)}, {min(theirs)}"
