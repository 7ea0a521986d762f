"""``deblur-jax score RESTORED SHARP --mode MODE``: any method's images, measured."""

import argparse
import concurrent.futures
import os
from collections.abc import Sequence

from etils import epath

from deblur_jax.commands.flags import add_loose_names, say
from deblur_jax.data.names import match_loosely
from deblur_jax.errors import UserError
from deblur_jax.evaluation import metrics
from deblur_jax.evaluation.means import finite_mean
from deblur_jax.evaluation.report import remarks, to_json
from deblur_jax.images.files import as_float
from deblur_jax.images.folders import look_below
from deblur_jax.images.reading import read_rgb
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.progress import progress_bar


class ScoreError(UserError, ValueError):
    """Images that do not pair up; the message names the file."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument("restored", help="a folder of images that any method made")
    parser.add_argument("sharp", help="a folder with the sharp images, by the same names")
    parser.add_argument("--mode", required=True, choices=metrics.MODES)
    add_loose_names(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Measures every image.

    Raises:
        ScoreError: if an image has no partner, or one of another size.
        ImageError: if one is broken.
    """
    require_devices()
    pairs = _pairs(epath.Path(args.restored), epath.Path(args.sharp), loose=args.loose_names)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        scored = threads.map(lambda files: _score(files[0], files[1], args.mode), pairs.values())
        bar = progress_bar(scored, desc="scoring", unit="image", total=len(pairs))
        scores = dict(zip(pairs, bar, strict=True))
    psnr = finite_mean(score.psnr for score in scores.values())
    summary = {
        "mode": args.mode,
        "count": len(scores),
        "psnr": psnr.value,
        "ssim": finite_mean(score.ssim for score in scores.values()).value,
        "infinite": {"psnr": psnr.infinite} if psnr.infinite else {},
        "not_aligned": sum(not score.aligned for score in scores.values()),
        "per_image": [{"name": name, **score._asdict()} for name, score in scores.items()],
    }
    print(to_json(summary) if args.json else _table(summary), end="")


def _pairs(
    restored: epath.Path, sharp: epath.Path, *, loose: bool
) -> dict[str, tuple[epath.Path, epath.Path]]:
    ours, truths = _images(restored), _images(sharp)
    if loose:
        partners = match_loosely(sorted(ours), sorted(truths))
        return {name: (ours[name], truths[partners[name]]) for name in sorted(ours)}
    for files, others, folder in ((ours, truths, sharp), (truths, ours, restored)):
        alone = sorted(set(files) - set(others))
        if alone:
            more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
            raise ScoreError(f"{files[alone[0]]}: has no partner in {folder}{more}")
    return {name: (ours[name], truths[name]) for name in sorted(ours)}


def _images(folder: epath.Path) -> dict[str, epath.Path]:
    if not folder.is_dir():
        raise ScoreError(f"{folder}: no such folder")
    found: dict[str, epath.Path] = {}
    looked = look_below(folder)
    say(filter(None, [looked.line()]))
    for file in looked.images:
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ScoreError(f"{file}: has the same name as {found[name]}")
        found[name] = file
    if not found:
        raise ScoreError(f"{folder}: no images there")
    return found


def _score(restored_file: epath.Path, sharp_file: epath.Path, mode: metrics.Mode) -> metrics.Score:
    restored, sharp = (as_float(read_rgb(file)) for file in (restored_file, sharp_file))
    try:
        return metrics.score(restored, sharp, mode)
    except metrics.MetricError as error:
        raise ScoreError(f"{restored_file}: {error}") from None


def _table(summary: dict) -> str:
    lines = [
        f"{row['name']}  {row['psnr']:.2f} dB  SSIM {row['ssim']:.4f}"
        + ("" if row["aligned"] else "  (not aligned)")
        for row in summary["per_image"]
    ]
    lines.append(
        f"mean of {summary['count']}, mode {summary['mode']}: {summary['psnr']:.2f} dB, "
        f"SSIM {summary['ssim']:.4f}"
    )
    lines += remarks(summary)
    return "\n".join(lines) + "\n"
