"""The images in a folder, and what else lies there."""

from collections.abc import Collection
from typing import NamedTuple

from etils import epath

from deblur_jax.images.files import SUFFIXES
from deblur_jax.runtime.files import PathLike, real_place

_NAMED = 5


class Found(NamedTuple):
    """What a folder and its sub-folders hold.

    Attributes:
        images: sorted by their paths.
        passed_over: why, by path, of all else but hidden files.
    """

    images: list[epath.Path]
    passed_over: dict[str, str]

    def line(self) -> str | None:
        """One line on what was passed over, or None."""
        if not self.passed_over:
            return None
        named = [f"{path} ({why})" for path, why in list(self.passed_over.items())[:_NAMED]]
        more = len(self.passed_over) - len(named)
        return f"passed over: {', '.join(named)}" + (f" and {more} more" if more else "")


def look_below(
    folder: PathLike, *, recursive: bool = True, leave_out: Collection[str] = ()
) -> Found:
    """Looks for images by their suffixes. Each folder is read once, by whatever link.

    Args:
        folder: local or remote.
        recursive: look into sub-folders too; what is hidden is always left out.
        leave_out: sub-folders, as of ``os.path.realpath``.
    """
    found = Found([], {})
    _look(epath.Path(folder), found, {real_place(folder)}, recursive, leave_out)
    return found


def images_below(folder: PathLike) -> list[epath.Path]:
    """All images in a folder and its sub-folders, sorted; hidden ones are left out."""
    return look_below(folder).images


def _look(
    folder: epath.Path, found: Found, seen: set[str], recursive: bool, leave_out: Collection[str]
) -> None:
    entries = sorted(folder.iterdir())
    pages = {entry.stem for entry in entries if entry.suffix == ".html"}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if entry.suffix.lower() in SUFFIXES:
                found.images.append(entry)
            else:
                found.passed_over[str(entry)] = "no image"
            continue
        identity = real_place(entry)
        if identity in leave_out:
            continue
        if identity in seen:
            found.passed_over[str(entry)] = "a link to a folder that was read"
        elif not recursive:
            found.passed_over[str(entry)] = "a folder"
        elif entry.name in pages:  # as ``restore --compare`` makes one
            found.passed_over[str(entry)] = f"the images of the page {entry.name}.html"
        else:
            seen.add(identity)
            _look(entry, found, seen, recursive, leave_out)
