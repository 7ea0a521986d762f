"""``deblur-jax restore FILES_OR_FOLDERS``: photographs to restored ones."""

import argparse
import collections
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deblur_jax.data.folder import images_below
from deblur_jax.data.sources import is_embedded
from deblur_jax.errors import UserError
from deblur_jax.images.files import ImageError, write_image
from deblur_jax.images.reading import read_header, read_image
from deblur_jax.inference.ensemble import ENSEMBLES
from deblur_jax.inference.restorer import RestorationError, Restorer
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.files import FolderError, check_output_folder, make_folder
from deblur_jax.runtime.progress import progress_bar
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS

_MAX_COMPILATIONS = 4


class RestoreError(UserError, RuntimeError):
    """Some images could not be restored, or none could be begun."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument("images", nargs="+", help="files, or folders with images")
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        help="a workdir, a checkpoint, a converted folder or file, an official file, or the name "
        f"of weights that come with the package (default: {DEFAULT_WEIGHTS})",
    )
    parser.add_argument(
        "--out", default="restored", help="the folder for the restored images (default: restored)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be written, and write nothing"
    )
    parser.add_argument(
        "--ensemble", choices=ENSEMBLES, help="average over rotated and reflected copies"
    )
    parser.add_argument(
        "--ema", action="store_true", help="use the moving average of a run that kept one"
    )
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


def _overlap(text: str) -> int:
    """Pixels; "exact" is more than any network sees, and is lowered to what it sees."""
    if text == "exact":
        return sys.maxsize
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f'expected pixels or "exact", not {text!r}')
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Restores every image that can be read; the others are named, and end it with an error.

    Raises:
        RestoreError: if there is nothing to restore, an input would be overwritten, or some
            images failed.
    """
    jobs = plan_targets(args.images, Path(args.out))
    if args.dry_run:
        for source, target in jobs:
            print(f"{source} -> {target}")
        return
    require_devices()
    check_output_folder(args.out)
    restorer = Restorer.load(
        args.weights,
        ema=args.ema,
        ensemble=args.ensemble,
        tile=args.tile,
        overlap=args.overlap,
    )
    if restorer.trained_on is not None and is_embedded(restorer.trained_on):
        print(
            f"note: these weights were trained on {restorer.trained_on} and undo that kind of blur "
            f"only; for photographs leave --weights out, or name {DEFAULT_WEIGHTS}",
            file=sys.stderr,
        )
    failures: list[UserError] = []
    notes: list[str] = []
    start = time.monotonic()

    readable = []
    for source, target in jobs:
        try:
            readable.append((source, target, read_header(source).size))
        except ImageError as error:
            failures.append(error)
    restorer.plan_sizes([size for _, _, size in readable], _MAX_COMPILATIONS)

    # Neighbours of one size: the compiled program stays the same.
    readable.sort(key=lambda job: job[2])
    for source, target, _ in progress_bar(readable, desc="restoring", unit="image"):
        try:
            notes += [f"{source} {note}" for note in _restore(restorer, source, target)]
        except RestorationError as error:
            failures.append(RestorationError(f"{source}: {error}"))
        except (ImageError, FolderError) as error:
            failures.append(error)

    seconds = time.monotonic() - start
    print(
        f"{len(jobs) - len(failures)} of {len(jobs)} images restored in {seconds:.1f} s: {args.out}"
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    for failure in failures:
        print(f"not restored: {failure}", file=sys.stderr)
    if failures:
        raise RestoreError(f"{len(failures)} of {len(jobs)} images could not be restored")


def _restore(restorer: Restorer, source: Path, target: Path) -> tuple[str, ...]:
    """Restores one image; returns what a user should know of how it was read."""
    photograph = read_image(source)
    restored = dataclasses.replace(photograph, colour=restorer(photograph.colour))
    make_folder(target.parent)
    write_image(target, restored)
    return photograph.notes


def plan_targets(inputs: list[str], out: Path) -> list[tuple[Path, Path]]:
    """Each image with the file to write: a PNG, or a TIFF for a TIFF; folders keep their tree.

    Raises:
        RestoreError: if there are no images, two would become one, or an input be overwritten.
    """
    sources: list[tuple[Path, Path]] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            sources += [(Path(file), Path(file).relative_to(path)) for file in images_below(path)]
        else:
            sources.append((path, Path(path.name)))
    if not sources:
        raise RestoreError(f"{', '.join(inputs)}: no images there")

    sharing = collections.Counter(_renamed(relative) for relative in {r for _, r in sources})
    jobs: dict[Path, Path] = {}
    for source, relative in sources:
        target = _renamed(relative)
        if sharing[target] > 1:  # a.jpg beside a.png
            target = target.with_stem(f"{relative.stem}_{relative.suffix[1:].lower()}")
        target = out / target
        if os.path.realpath(jobs.get(target, source)) != os.path.realpath(source):
            raise RestoreError(f"{source} and {jobs[target]} would both become {target}")
        jobs[target] = source
    originals = {os.path.realpath(source) for source, _ in sources}
    for target, source in jobs.items():
        if os.path.realpath(target) in originals:
            raise RestoreError(
                f"{target}: is an input, restored from {source}; choose another --out"
            )
    return [(source, target) for target, source in jobs.items()]


def _renamed(path: Path) -> Path:
    return path if path.suffix.lower() in (".tif", ".tiff") else path.with_suffix(".png")
