"""``deblur-jax prepare synthesize SOURCES OUT``: pairs made of sharp footage."""

import argparse
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

import deblur_jax
from deblur_jax.data.folder import BLURRED, SHARP
from deblur_jax.data.footage import Clip, FootageScenes, clips_in, is_footage, survey_clip
from deblur_jax.data.layouts import PairError
from deblur_jax.data.mixture import PairSource
from deblur_jax.data.motion import Motion
from deblur_jax.data.photographs import Photograph, survey, validation_share
from deblur_jax.data.prepared import NAME, EncodedPair
from deblur_jax.data.preparing import Preparation
from deblur_jax.data.sources import open_pairs
from deblur_jax.data.synthesis import PhotographScenes, Shutter, SynthesisedPair
from deblur_jax.images.folders import images_below
from deblur_jax.images.writing import encoded_png
from deblur_jax.runtime.files import check_utf_8, make_folder, write_whole
from deblur_jax.runtime.limits import bounded_workers, count_cores
from deblur_jax.runtime.progress import progress_bar
from deblur_jax.runtime.workers import parallel_map

ACTION = "synthesize"
_WORKER_BYTES = 1 << 30
_KINDS = ("photographs", "frames")
_PERCENTILES = (5, 25, 50, 75, 95)
_SHEET = (6, 8)
_MAY_CHANGE = ("workers", "beside")
"""Flags that a command may have changed when it goes on: they change no pair."""
_MOTION_FLAGS = {
    "displacement": (
        "typical",
        "of a camera during the exposure: |N(0, so many)| pixels as a rule",
    ),
    "max_displacement": ("largest", "the limit to it, in pixels"),
    "large_share": ("share_large", "of pairs: --displacement to --max_displacement, evenly"),
    "still_share": ("share_still", "of pairs in which the camera stands still"),
}
"""Flags by which ``Motion`` is set: its field, and a help."""


class Encoded(NamedTuple):
    """A pair as PNG files, and what is counted of it."""

    blurred: bytes
    sharp: bytes
    psnr: float
    displacement: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument("action", choices=[ACTION])
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folders of photographs, folders of numbered frames at 120 to 240 a second, videos; "
        "photographs:FOLDER and frames:FOLDER say which, where a folder could be either. Each "
        "gives the same number of pairs",
    )
    parser.add_argument("out", metavar="OUT", help="the folder to make")
    parser.add_argument("--pairs", type=int, default=2000, help="training pairs to make")
    parser.add_argument("--size", type=int, default=256, help="height and width, in pixels")
    parser.add_argument(
        "--validation_fraction",
        type=float,
        default=0.1,
        help="share of the photographs and sequences that are kept for the validation pairs",
    )
    parser.add_argument(
        "--store",
        choices=["array_record", "images"],
        default="array_record",
        help="few large files, or blur/ and sharp/ with PNG files",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=count_cores(), help="processes")
    for flag, (field, text) in _MOTION_FLAGS.items():
        default = getattr(Motion(), field)
        parser.add_argument(f"--{flag}", type=float, default=default, help=text)
    parser.add_argument(
        "--frames",
        default="7,13",
        metavar="LEAST,GREATEST",
        help="how many frames of footage, or of a --frames_share, a blurred image is the mean of",
    )
    parser.add_argument(
        "--frames_share",
        type=float,
        default=Shutter().frames_share,
        help="of the pairs made of photographs: means of single frames, as those of GoPro are",
    )
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="add frames where things move by more than 1.5 pixels from one to the next "
        "(needs OpenCV: pip install opencv-python-headless)",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="PAIRS",
        help="a data set of real pairs, whose statistics are printed beside",
    )


def run(args: argparse.Namespace) -> None:
    """Makes the pairs.

    Raises:
        PairError: for a wrong argument, or where nothing can be made of the sources.
        FolderError, FileError: if OUT can't be written.

    Until all is written it lies in OUT.partial, where a command that was stopped goes on.
    """
    least, greatest = _check(args)
    check_utf_8(args.out)
    out = epath.Path(args.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PairError(f"{out}: exists and is not an empty folder; nothing was overwritten")
    beside = {name: open_pairs(name, "train") for name in args.beside}
    workers = bounded_workers(args.workers, _WORKER_BYTES)
    sources = [_survey(source, args, least, workers) for source in args.sources]
    counts = {"train": args.pairs}
    if args.validation_fraction > 0:
        counts["validation"] = max(1, round(args.pairs * args.validation_fraction))
    motion = Motion(**{field: getattr(args, f) for f, (field, _) in _MOTION_FLAGS.items()})
    makers = {split: _makers(args, sources, split, motion, (least, greatest)) for split in counts}
    described = {name: vars(args)[name] for name in vars(args) if name not in ("run", "command")}
    same = {name: value for name, value in described.items() if name not in _MAY_CHANGE}
    preparation = Preparation(args.out, {"version": deblur_jax.__version__, **same})
    with preparation.going_on():
        write_whole(preparation.folder / "synthesis.json", json.dumps(described, indent=2) + "\n")
        counted = _write(args, preparation, makers, counts, workers)
    _write_sheet(out / "examples.jpg", open_pairs(args.out, "train"))
    print(f"{', '.join(f'{n} pairs ({split})' for split, n in counts.items())} are in {args.out}")
    if len(counted) < sum(counts.values()):
        print(f"figures of the {len(counted)} pairs that were made after the stop:")
    if counted:
        for line in _statistics(counted, beside):
            print(line)


class _Scenes(NamedTuple):
    """What pairs are made of, by split."""

    train: list[Photograph] | list[Clip]
    validation: list[Photograph] | list[Clip]


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes pair i of a split; item i is a pure function of the arguments."""

    makers: Sequence[Callable[[int], SynthesisedPair]]

    def __call__(self, index: int) -> Encoded:
        pair = self.makers[index % len(self.makers)](index // len(self.makers))
        images = encoded_png(pair.blurred), encoded_png(pair.sharp)
        return Encoded(*images, _psnr(pair.blurred, pair.sharp), pair.displacement)


def _check(args: argparse.Namespace) -> tuple[int, int]:
    for name, least in (("pairs", 1), ("size", 16), ("workers", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise PairError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    for name in ("validation_fraction", "large_share", "still_share"):
        if not 0 <= getattr(args, name) < 1:
            raise PairError(f"--{name} must be at least 0 and below 1, not {getattr(args, name)}")
    if not 0 <= args.frames_share <= 1:
        raise PairError(f"--frames_share must be from 0 to 1, not {args.frames_share}")
    if not 0 < args.displacement <= args.max_displacement <= 200:
        raise PairError(
            "--displacement must be above 0, at most --max_displacement, and that at most 200"
        )
    words = args.frames.split(",")
    if len(words) != 2 or not all(word.strip().isdigit() for word in words):
        raise PairError(f"--frames must be two numbers, as in 7,13, not {args.frames}")
    least, greatest = (int(word) for word in words)
    if not 3 <= least <= greatest or (least == greatest and least % 2 == 0):
        raise PairError(f"--frames must hold an odd number from 3 on, which {args.frames} does not")
    return least, greatest


def _survey(source: str, args: argparse.Namespace, least: int, workers: int) -> _Scenes:
    """Looks through one source: all files are opened, and what can't serve is named."""
    kind, colon, rest = source.partition(":")
    folder = epath.Path(rest if colon and kind in _KINDS else source).expanduser()
    if not folder.exists():
        raise PairError(f"{folder}: no such file or folder")
    if not (colon and kind in _KINDS):
        kind = "frames" if is_footage(folder) else "photographs"
    found: list
    if kind == "photographs":
        files = [str(file) for file in images_below(folder)]
        surveyed = parallel_map(survey, files, workers)
        looked = list(progress_bar(surveyed, desc=f"{folder}", total=len(files), unit="file"))
        found = [item for item in looked if isinstance(item, Photograph)]
        refused = [item for item in looked if isinstance(item, str)]
        names = [os.path.relpath(item.path, folder) for item in found]
    else:
        clips, refused = clips_in(folder)
        looked = [survey_clip(clip, least + 1 - least % 2) for clip in clips]
        found = [item for item in looked if isinstance(item, Clip)]
        refused += [item for item in looked if isinstance(item, str)]
        names = [os.path.relpath(item.files[0], folder.parent) for item in found]
    for line in refused:
        print(f"passed over: {line}")
    what = "photographs" if kind == "photographs" else "sequences"
    if not found:
        raise PairError(f"{folder}: has no {what} to make pairs of")
    print(f"{folder}: {len(found)} {what}, {len(refused)} files or sequences passed over")
    kept = validation_share([str(i) for i in range(len(found))], names, args.validation_fraction)
    train = [item for i, item in enumerate(found) if str(i) not in kept]
    return _Scenes(train, [item for i, item in enumerate(found) if str(i) in kept])


def _makers(
    args: argparse.Namespace,
    sources: Sequence[_Scenes],
    split: str,
    motion: Motion,
    frames: tuple[int, int],
) -> _Maker:
    """What makes the pairs of a split: every source in turn, each with a seed of its own."""
    makers: list[Callable[[int], SynthesisedPair]] = []
    for position, scenes in enumerate(sources):
        items = getattr(scenes, split)
        seed = args.seed + 7919 * position + (1_000_003 if split == "validation" else 0)
        if items and isinstance(items[0], Photograph):
            shutter = Shutter(args.frames_share, frames)
            makers.append(PhotographScenes(items, args.size, motion, seed, shutter))
        elif items:
            makers.append(FootageScenes(items, args.size, frames, args.interpolate, seed))
    if not makers:
        raise PairError(
            "one photograph or sequence is too few for training and validation: set "
            "--validation_fraction=0"
        )
    return _Maker(makers)


def _write(
    args: argparse.Namespace,
    preparation: Preparation,
    makers: dict[str, _Maker],
    counts: dict[str, int],
    workers: int,
) -> list[tuple[float, float]]:
    """Writes all splits.

    Returns:
        PSNR and displacement of every pair that was made.
    """
    counted: list[tuple[float, float]] = []
    splits = {
        split: _PairsOfMaker(makers[split], count, workers, counted)
        for split, count in counts.items()
    }
    if args.store == "array_record":
        preparation.write(splits, description="Pairs synthesised from sharp footage.")
        preparation.finish(NAME, "synthesis.json")
    else:
        _write_images(epath.Path(preparation.folder), splits)
        preparation.finish(*splits, "synthesis.json")
    return counted


class _PairsOfMaker:
    """The pairs of a split; see ``preparing.PairMaker``."""

    items_per_shard = 512
    identity = "the plan says all of it"

    def __init__(
        self, maker: _Maker, count: int, workers: int, counted: list[tuple[float, float]]
    ) -> None:
        self._maker, self._count, self._workers = maker, count, workers
        self._counted = counted

    def __len__(self) -> int:
        return self._count

    def make(self, start: int, end: int) -> Iterator[list[EncodedPair]]:
        """The pairs from ``start`` to ``end``."""
        made = parallel_map(self._maker, range(start, end), self._workers)
        for index, pair in enumerate(made, start):
            self._counted.append((pair.psnr, pair.displacement))
            yield [(f"{index:06d}", pair.blurred, pair.sharp)]


def _write_images(folder: epath.Path, splits: dict[str, _PairsOfMaker]) -> None:
    """Writes image files; those of a command that was stopped are kept."""
    for split, pairs in splits.items():
        for kind in (BLURRED, SHARP):
            make_folder(folder / split / kind)
        there = len(list((folder / split / SHARP).glob("[0-9]*.png")))
        bar = progress_bar(desc=split, total=len(pairs), initial=there, unit="pair")
        with bar:
            for made in pairs.make(there, len(pairs)):
                for name, blurred, sharp in made:
                    assert isinstance(sharp, bytes)
                    write_whole(folder / split / BLURRED / f"{name}.png", blurred)
                    write_whole(folder / split / SHARP / f"{name}.png", sharp)
                bar.update()


def _write_sheet(path: epath.Path, pairs: PairSource) -> None:
    """Blurred above sharp, a few rows of them."""
    shown = [pairs[index] for index in range(min(len(pairs), _SHEET[0] * _SHEET[1]))]
    columns = [np.concatenate([pair["blurred"], pair["sharp"]]) for pair in shown]
    width = _SHEET[1]
    whole = len(columns) // width * width or len(columns)
    rows = [np.concatenate(columns[i : i + width], 1) for i in range(0, whole, width)]
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(stream, "jpeg", quality=90)
    write_whole(path, stream.getvalue())


def _statistics(counted: list[tuple[float, float]], beside: dict[str, PairSource]) -> Iterator[str]:
    yield f"blurred against sharp, dB: percentiles {', '.join(map(str, _PERCENTILES))}, mean"
    yield _row("these pairs", [psnr for psnr, _ in counted])
    for name, pairs in beside.items():
        real = (pairs[index] for index in range(len(pairs)))
        yield _row(name, [_psnr(pair["blurred"], pair["sharp"]) for pair in real])
    displacements = [displacement for _, displacement in counted if displacement > 0]
    if displacements:
        yield "displacement, pixels: percentiles and mean as above"
        yield _row("these pairs", displacements)


def _row(name: str, values: Sequence[float]) -> str:
    finite = [value for value in values if np.isfinite(value)]
    numbers = [*np.percentile(finite, _PERCENTILES), np.mean(finite)] if finite else []
    equal = len(values) - len(finite)
    more = f"; {equal} of {len(values)} equal" if equal else ""
    return f"  {name}: " + ", ".join(f"{number:.1f}" for number in numbers) + more


def _psnr(blurred: np.ndarray, sharp: np.ndarray) -> float:
    """Of two images (h, w, 3) uint8; in NumPy, since the workers do without JAX."""
    error = np.mean(np.square(blurred.astype(np.float32) - sharp)) / 255.0**2
    return float(-10.0 * np.log10(error)) if error > 0 else np.inf
