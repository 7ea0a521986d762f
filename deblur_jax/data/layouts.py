"""How folders of pairs are called: splits, and the two sides of a pair, as data sets circulate."""

from typing import NamedTuple

from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import PathLike

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Our names of splits, and the names of their folders."""

SIDE_NAMES = (
    ("blur", "sharp"),
    ("input", "target"),
    ("blurred", "sharp"),
    ("blurry", "sharp"),
    ("lq", "gt"),
    ("blur", "gt"),
)
"""The names of folders with blurred and with sharp images; capitals do not matter."""


class PairError(UserError, ValueError):
    """Images that do not pair up; the message names the file."""


class Sides(NamedTuple):
    """The names of the folders with blurred and with sharp images, as they are on disk."""

    blurred: str
    sharp: str


def find_sides(
    root: PathLike, blurred: str | None = None, *, by_sequence: bool = True
) -> Sides | None:
    """Recognises the two sides in ``root/``, or in ``root/SEQUENCE/`` for each sequence.

    Args:
        root: a folder.
        blurred: the name of the folders with blurred images, where there are several or it is
            none of ``SIDE_NAMES``.
        by_sequence: look into the folders of sequences too.

    Returns:
        The names; None if there is no such folder.
    """
    top = epath.Path(root)
    for folder in [top, *(_folders_in(top) if by_sequence else [])]:
        if (sides := _sides_in(folder, blurred)) is not None:
            return sides
    return None


def _sides_in(folder: epath.Path, blurred: str | None) -> Sides | None:
    names = {entry.name.lower(): entry.name for entry in _folders_in(folder)}
    for ours, theirs in _wanted(blurred):
        if ours.lower() in names and theirs in names:
            return Sides(names[ours.lower()], names[theirs])
    return None


def describe_sides(blurred: str | None = None) -> str:
    """The names that are looked for, for a message."""
    return ", ".join(f"{ours}/ and {theirs}/" for ours, theirs in _wanted(blurred))


def split_folders(root: PathLike) -> dict[str, epath.Path]:
    """The folders of splits in a folder, by our names; empty if it has none, or pairs of its own.

    Raises:
        PairError: if two folders are the same split.
    """
    found: dict[str, epath.Path] = {}
    if _sides_in(epath.Path(root), None) is not None:
        return found
    ours = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    for folder in _folders_in(epath.Path(root)):
        split = ours.get(folder.name.lower())
        if split is None:
            continue
        if split in found:
            raise PairError(f"{folder}: is the split {split}, as {found[split]} is: rename one")
        found[split] = folder
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _wanted(blurred: str | None) -> list[tuple[str, str]]:
    if blurred is None:
        return list(SIDE_NAMES)
    known = [names for names in SIDE_NAMES if names[0] == blurred.lower()]
    return known or [(blurred, "sharp"), (blurred, "target"), (blurred, "gt")]


def _folders_in(folder: epath.Path) -> list[epath.Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
