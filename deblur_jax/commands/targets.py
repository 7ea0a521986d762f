"""Which file each image is restored into."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.images.folders import look_below
from deblur_jax.images.writing import FORMATS, WRITTEN_SUFFIXES
from deblur_jax.runtime.files import real_place
from deblur_jax.runtime.names import file_name

_TIFF = (".tif", ".tiff")


class TargetError(UserError, ValueError):
    """Images for which no file can be named."""


class Job(NamedTuple):
    """An image and the file to restore it into."""

    source: epath.Path
    target: epath.Path


class Plan(NamedTuple):
    """All there is to do, and lines on what was passed over."""

    jobs: list[Job]
    notes: list[str]


def plan_targets(
    inputs: Sequence[str], out: epath.Path, *, form: str | None = None, recursive: bool = True
) -> Plan:
    """Each image with the file to write; folders keep their tree.

    Images that would share a file, such as a.jpg, a.png and A.JPG, get their suffix into the name,
    and where that is not enough a number.

    Args:
        inputs: files and folders.
        out: the folder to write to; it is not looked for images, if it lies in one of the inputs.
        form: of ``FORMATS``; "same" for that of each image, PNG where that can't be written; None
            for PNG, and TIFF for TIFF.
        recursive: take the images of sub-folders too.

    Raises:
        TargetError: if there are no images, two of one name come from two folders, or an input
            would be overwritten.
    """
    sources: list[tuple[epath.Path, epath.Path]] = []
    notes: list[str] = []
    for name in inputs:
        path = epath.Path(name)
        if not path.is_dir():
            sources.append((path, epath.Path(path.name)))
            continue
        found = look_below(path, recursive=recursive, leave_out=[real_place(out)])
        sources += [(epath.Path(file), epath.Path(file).relative_to(path)) for file in found.images]
        notes += filter(None, [found.line()])
    if not sources:
        raise TargetError(". ".join([f"{', '.join(inputs)}: no images there", *notes]))

    by_relative: dict[epath.Path, epath.Path] = {}
    for source, relative in sources:
        other = by_relative.setdefault(relative, source)
        if real_place(other) != real_place(source):
            raise TargetError(
                f"{source} and {other} would both become {out / _renamed(relative, form)}: restore "
                "their folders into two"
            )
    jobs = [
        Job(by_relative[relative], out / target)
        for relative, target in _apart(list(by_relative), form).items()
    ]
    originals = {real_place(source) for source, _ in sources}
    for source, target in jobs:
        if real_place(target) in originals:
            raise TargetError(
                f"{target}: is an input, restored from {source}; choose another --out"
            )
    return Plan(jobs, notes)


def _apart(relatives: list[epath.Path], form: str | None) -> dict[epath.Path, epath.Path]:
    """A target of its own for each, also where capitals and small letters are the same."""
    wanted = {relative: _renamed(relative, form) for relative in relatives}
    sharing = collections.Counter(map(_folded, wanted.values()))
    targets = {r: target for r, target in wanted.items() if sharing[_folded(target)] == 1}
    taken = {_folded(target) for target in targets.values()}
    for relative, target in wanted.items():
        if relative in targets:
            continue
        stem, number = f"{relative.stem}_{relative.suffix[1:].lower()}", 1
        candidate = _named(target, stem)
        while _folded(candidate) in taken:
            number += 1
            candidate = _named(target, f"{stem}-{number}")
        targets[relative] = candidate
        taken.add(_folded(candidate))
    return {relative: targets[relative] for relative in relatives}


def _folded(path: epath.Path) -> str:
    return str(path).casefold()


def _renamed(path: epath.Path, form: str | None) -> epath.Path:
    suffix = path.suffix.lower()
    if form == "same":
        new = path.suffix if suffix in WRITTEN_SUFFIXES else ".png"
    elif form is not None:
        new = FORMATS[form]
    else:
        new = path.suffix if suffix in _TIFF else ".png"
    return _named(path.with_suffix(new), path.stem)


def _named(path: epath.Path, stem: str) -> epath.Path:
    return path.with_name(file_name(stem, path.suffix))
