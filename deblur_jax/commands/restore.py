"""``deblur-jax restore FILES_OR_FOLDERS``: photographs to restored ones."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath

import deblur_jax
from deblur_jax.commands.flags import add_dtype, add_tiles, restoring_options, say
from deblur_jax.commands.targets import Job, plan_targets
from deblur_jax.data.sources import is_embedded
from deblur_jax.errors import UserError
from deblur_jax.images.files import MAX_PIXELS, ImageError, StoredImage
from deblur_jax.images.reading import read_header, read_image
from deblur_jax.images.writing import FORMATS, LOSSLESS, QUALITY, write_image
from deblur_jax.inference.canvas import RestorationError
from deblur_jax.inference.ensemble import ENSEMBLES
from deblur_jax.inference.restorer import Restorer
from deblur_jax.pages.comparison import PAGE, Comparison
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.files import check_output_folder, make_folder
from deblur_jax.runtime.names import shown
from deblur_jax.runtime.progress import progress_bar
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS

_MAX_COMPILATIONS = 4
_MEGA = 1_000_000


class RestoreError(UserError, RuntimeError):
    """Some images could not be restored."""


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
        "--ema", action="store_true", help="use the moving average of a run that kept one"
    )
    _add_output_arguments(parser)
    parser.add_argument(
        "--ensemble", choices=ENSEMBLES, help="average over rotated and reflected copies"
    )
    add_tiles(parser)
    add_dtype(parser)
    parser.add_argument(
        "--max_megapixels",
        type=int,
        default=MAX_PIXELS // _MEGA,
        help="refuse larger images (default: %(default)s)",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="restored", help="the folder for the restored images (default: restored)"
    )
    parser.add_argument(
        "--format",
        choices=[*FORMATS, "same"],
        help='of the restored images, "same" for that of each image (default: png, and tiff for '
        "TIFF, which keep everything)",
    )
    parser.add_argument(
        "--quality",
        type=_quality,
        default=QUALITY,
        help="of JPEG, WebP and AVIF, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the images of sub-folders too, and keep the tree",
    )
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="leave images out that are restored already, to go on after a stop",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help=f"write {PAGE} too, a page with every image before and after",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be written, and write nothing"
    )


def _quality(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected 1 to 100, not {text!r}")
    return int(text)


@dataclasses.dataclass
class _Report:
    """What came of the images, in the order they were named."""

    failures: dict[epath.Path, str] = dataclasses.field(default_factory=dict)
    notes: dict[epath.Path, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def run(args: argparse.Namespace) -> None:
    """Restores every image that can be read; the others are named, and end it with an error.

    Raises:
        TargetError: if there is nothing to restore, or an input would be overwritten.
        RestoreError: if some images failed.
    """
    plan = plan_targets(
        args.images, epath.Path(args.out), form=args.format, recursive=args.recursive
    )
    jobs = [job for job in plan.jobs if not (args.skip_existing and job.target.exists())]
    skipped = len(plan.jobs) - len(jobs)
    if args.dry_run:
        for source, target in jobs:
            print(f"{source} -> {target}")
        say(plan.notes)
        return
    require_devices()
    check_output_folder(args.out)
    restorer = Restorer.load(args.weights, **restoring_options(args))
    say(_notes_on_weights(restorer))

    start = time.monotonic()
    comparison = Comparison(epath.Path(args.out)) if args.compare else None
    report = _restore_all(restorer, jobs, args, comparison)
    seconds = time.monotonic() - start
    print(
        f"{len(jobs) - len(report.failures)} of {len(jobs)} images restored in {seconds:.1f} s: "
        f"{args.out}" + (f"; {skipped} were there already" if skipped else "")
    )
    if comparison is not None:
        page = _write_page(comparison, plan.jobs, report, restorer, args)
        print(f"before and after: {page}")
    say(plan.notes)
    for job in jobs:
        say(f"{job.source} {note}" for note in report.notes.get(job.source, ()))
    for job in jobs:
        if job.source in report.failures:
            print(f"not restored: {report.failures[job.source]}", file=sys.stderr)
    if report.failures:
        raise RestoreError(f"{len(report.failures)} of {len(jobs)} images could not be restored")


def _notes_on_weights(restorer: Restorer) -> list[str]:
    if restorer.trained_on is None or not is_embedded(restorer.trained_on):
        return []
    return [
        f"these weights were trained on {restorer.trained_on} and undo that kind of blur only; "
        f"for photographs leave --weights out, or name {DEFAULT_WEIGHTS}"
    ]


def _write_page(
    comparison: Comparison,
    jobs: list[Job],
    report: _Report,
    restorer: Restorer,
    args: argparse.Namespace,
) -> epath.Path:
    """Writes the page; of images that were restored before, the files are read."""
    unread = []
    for job in jobs:
        if job.source in report.failures or comparison.has(job.target):
            continue
        try:
            before, after = (
                read_image(file, max_pixels=args.max_megapixels * _MEGA) for file in job
            )
            comparison.add("before", job.target, str(job.source), before)
            comparison.add("after", job.target, str(job.source), after)
        except ImageError as error:
            unread.append(str(error))
    foot = {"deblur_jax": deblur_jax.__version__, "weights": shown(args.weights)}
    if restorer.digest is not None:
        foot["digest"] = restorer.digest
    if args.ensemble:
        foot["ensemble"] = args.ensemble
    return comparison.write(
        [job.target for job in jobs],
        [*(report.failures[job.source] for job in jobs if job.source in report.failures), *unread],
        foot,
    )


def _restore_all(
    restorer: Restorer, jobs: list[Job], args: argparse.Namespace, comparison: Comparison | None
) -> _Report:
    """All devices of this machine take images from one queue; files are read beside them."""
    report, sizes = _Report(), {}
    for job in jobs:
        try:
            sizes[job] = read_header(job.source).size
        except ImageError as error:
            report.failures[job.source] = str(error)
    # Neighbours of one size: the compiled program stays the same.
    readable = sorted(sizes, key=lambda job: sizes[job])

    shared = restorer.shared(jax.local_devices())
    shared.plan_sizes(sizes.values(), _MAX_COMPILATIONS)

    megapixels = {job: height * width / _MEGA for job, (height, width) in sizes.items()}
    with (
        progress_bar(
            desc="restoring",
            unit="MP",
            unit_scale=True,
            estimate_from=0.02,  # the first program is compiled before
            total=math.ceil(1e3 * sum(megapixels.values())) / 1e3,  # never less than what is done
        ) as bar,
        concurrent.futures.ThreadPoolExecutor(shared.num_devices + 1) as threads,
    ):

        def restore(job: Job) -> None:
            def progress(share: float) -> None:
                bar.update(share * megapixels[job])

            with _failures_kept(job, report):
                image = read_image(job.source, max_pixels=args.max_megapixels * _MEGA)
                pixels = np.require(image.pixels, requirements=["C", "W"])
                image = dataclasses.replace(image, pixels=pixels)  # the other memory is given back
                if comparison is not None:
                    comparison.add("before", job.target, str(job.source), image)
                shared.restore_in_place(pixels, progress)
                make_folder(job.target.parent)
                write_image(job.target, image, quality=args.quality)
                if comparison is not None:
                    comparison.add("after", job.target, str(job.source), image)
                losses = [] if job.target.suffix in LOSSLESS else _losses(image, job.target)
                report.notes[job.source] = (*image.notes, *losses)

        for number, _ in enumerate(threads.map(restore, readable), 1):
            bar.set_postfix_str(f"{number} of {len(readable)} images")
    return report


@contextlib.contextmanager
def _failures_kept(job: Job, report: _Report) -> Iterator[None]:
    """What goes wrong with one image does not stop the others."""
    try:
        yield
    except RestorationError as error:
        report.failures[job.source] = f"{job.source}: {error}"
    except UserError as error:
        report.failures[job.source] = str(error)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first = (str(error).splitlines() or ["out of memory"])[0]
        report.failures[job.source] = f"{job.source}: {first}: a smaller --tile needs less memory"
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        report.failures[job.source] = f"{job.source}: {type(error).__name__}: {first}"


def _losses(image: StoredImage, target: epath.Path) -> list[str]:
    """What a format with 8 bits does not keep."""
    notes = []
    if image.pixels.dtype != np.uint8:
        notes.append(f"has more than 8 bits: {target.suffix[1:]} keeps 8")
    has_alpha = image.pixels.ndim == 3 and image.pixels.shape[2] in (2, 4)
    if has_alpha and target.suffix.lower() not in (".webp", ".avif"):
        notes.append(f"has alpha: {target.suffix[1:]} does not keep it")
    return notes
