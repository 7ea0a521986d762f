"""A folder of pairs: ``blur/`` and ``sharp/``, or as others call them, matched by name."""

import hashlib

import numpy as np
from etils import epath

from deblur_jax.data.layouts import PairError, describe_sides, find_sides
from deblur_jax.data.names import match_loosely
from deblur_jax.images.folders import images_below, look_below
from deblur_jax.images.reading import read_header, read_rgb
from deblur_jax.runtime.files import PathLike, file_size

BLURRED, SHARP = "blur", "sharp"
"""How this project calls the folders that it makes."""


class FolderPairs:
    """The pairs below a folder, by name.

    Two layouts are read, here with one sequence: ``blur/SEQ_000001.png`` beside
    ``sharp/SEQ_000001.png`` (or in sub-folders of both), and GoPro's own ``SEQ/blur/000001.png``
    beside ``SEQ/sharp/000001.png``.

    Args:
        root: the folder.
        blurred: name of the folders with blurred images, where it is to be chosen: GoPro has
            "blur_gamma" too. ``layouts.SIDE_NAMES`` are recognised.
        loose_names: match names as ``names.match_loosely``.

    Raises:
        PairError: if there are no pairs, an image has no partner, or a pair differs in size.
        ImageError: if an image's header can't be read.
    """

    def __init__(
        self, root: PathLike, *, blurred: str | None = None, loose_names: bool = False
    ) -> None:
        self._files = find_pairs(root, blurred, loose_names=loose_names)
        self.names = list(self._files)
        self.sizes = [read_header(blurred_file).size for blurred_file, _ in self._files.values()]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Item ``index``: ``blurred`` and ``sharp``, each (h, w, 3) uint8 or uint16."""
        blurred, sharp = self._files[self.names[index]]
        return {"blurred": read_rgb(blurred), "sharp": read_rgb(sharp)}


def find_pairs(
    root: PathLike, blurred: str | None = None, *, loose_names: bool = False
) -> dict[str, tuple[epath.Path, epath.Path]]:
    """Files (blurred, sharp) by name, in the order of the names.

    Raises:
        PairError, ImageError: as ``FolderPairs``.
    """
    folder = epath.Path(root)
    if not folder.is_dir():
        raise PairError(f"{root}: no such folder")
    sides = find_sides(folder, blurred)
    if sides is None:
        raise PairError(f"{root}: holds no pairs: looked for {describe_sides(blurred)}")
    blurred_files, sharp_files = (_images_in(folder, side) for side in sides)
    if loose_names and blurred_files and sharp_files:
        partners = match_loosely(sorted(blurred_files), sorted(sharp_files))
        sharp_files = {name: sharp_files[partner] for name, partner in partners.items()}
    for ours, theirs, partner in (
        (blurred_files, sharp_files, sides.sharp),
        (sharp_files, blurred_files, sides.blurred),
    ):
        alone = sorted(set(ours) - set(theirs))
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise PairError(f"{ours[alone[0]]}: has no partner in {partner}/{more}")
    if not blurred_files:
        raise PairError(f"{root}: no images in {sides.blurred}/ and {sides.sharp}/")
    pairs = {name: (blurred_files[name], sharp_files[name]) for name in sorted(blurred_files)}
    for blurred_file, sharp_file in pairs.values():
        before, after = read_header(blurred_file), read_header(sharp_file)
        if before.orientation != after.orientation:
            raise PairError(
                f"{blurred_file}: has the EXIF orientation {before.orientation}, but {sharp_file} "
                f"has {after.orientation}: turn one of them"
            )
        blurred_size, sharp_size = before.size, after.size
        if blurred_size != sharp_size:
            raise PairError(
                f"{blurred_file}: is {blurred_size[1]}x{blurred_size[0]}, but {sharp_file} is "
                f"{sharp_size[1]}x{sharp_size[0]}"
            )
    return pairs


def what_is_passed_over(root: PathLike, blurred: str | None = None) -> list[str]:
    """A line for each folder of pairs that holds files which are no images."""
    folder, sides = epath.Path(root), find_sides(root, blurred)
    places = [place for side in sides or () for place in _side_folders(folder, side)]
    return [line for place in places if (line := look_below(place).line()) is not None]


def folder_fingerprint(root: PathLike) -> str:
    """The SHA-256 of the names and sizes in bytes of all images of the pairs below a folder."""
    digest = hashlib.sha256()
    folder = epath.Path(root)
    for kind, side in zip((BLURRED, SHARP), find_sides(folder) or (), strict=False):
        for name, file in sorted(_images_in(folder, side).items()):
            digest.update(f"{kind}\0{name}\0{file_size(file)}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _images_in(root: epath.Path, kind: str) -> dict[str, epath.Path]:
    """Images in ``root/kind/**``, else in ``root/*/kind``, by their path without ``kind``."""
    found: dict[str, epath.Path] = {}
    for folder in _side_folders(root, kind):
        for file in images_below(folder):
            inside = file.relative_to(folder).with_suffix("")
            name = (folder.parent.relative_to(root) / inside).as_posix()
            if name in found:
                raise PairError(f"{file}: has the same name as {found[name]}")
            found[name] = file
    return found


def _side_folders(root: epath.Path, kind: str) -> list[epath.Path]:
    return [root / kind] if (root / kind).is_dir() else sorted(root.glob(f"*/{kind}"))
