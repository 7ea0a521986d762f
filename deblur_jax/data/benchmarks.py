"""Where the pairs are in the benchmarks, as their authors publish them.

Each finder takes the unpacked folder, or one that holds it, and returns the files of every split by
name. The training and test pairs are those of the authors. Other arrangements that circulate are
recognised too.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from deblur_jax.data.archives import MACOS_FOLDER, Download
from deblur_jax.data.folder import find_pairs
from deblur_jax.data.layouts import PairError, find_sides, split_folders
from deblur_jax.data.patches import PairFiles
from deblur_jax.images.folders import images_below

Splits = dict[str, PairFiles]

_SPLITS = ("train", "test")
_KOHLER_URL = "http://people.kyb.tuebingen.mpg.de/rolfk/BenchmarkECCV2012/"


class FoundSplits(NamedTuple):
    """What a folder holds of a benchmark.

    Attributes:
        splits: files by split and name.
        layout: how the folders are arranged, in words.
        missing: names of pairs that should be there, by split, where that can be known.
    """

    splits: Splits
    layout: str
    missing: dict[str, list[str]] = {}  # noqa: RUF012 — never changed


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set that papers report numbers on.

    Attributes:
        title: of the paper.
        homepage: where to get it.
        counts: how many pairs its splits have.
        find: what is below a folder; None if it is not there.
        downloads: archives that can be fetched.
    """

    title: str
    homepage: str
    counts: Mapping[str, int]
    find: Callable[[Path, str | None], FoundSplits | None]
    downloads: tuple[Download, ...] = ()


def _find_splits(root: Path, blurred: str | None) -> FoundSplits | None:
    """Folders of pairs as ``layouts`` knows them, within splits or as one test split."""
    candidates = _candidates(root)
    for folder, by_sequence in [
        *((c, False) for c in candidates),
        *((c, True) for c in candidates),
    ]:
        folders = {
            split: place
            for split, place in split_folders(folder).items()
            if find_sides(place, blurred) is not None
        }
        if not folders and find_sides(folder, blurred, by_sequence=by_sequence) is not None:
            folders = {"test": epath.Path(folder)}
        if folders:
            sides = find_sides(next(iter(folders.values())), blurred)
            splits: Splits = {s: find_pairs(place, blurred) for s, place in folders.items()}
            return FoundSplits(splits, "/".join(sides or ()))
    return None


def _find_hide(root: Path, blurred: str | None) -> FoundSplits | None:
    """``train/*.png``, ``test/{test-close-ups,test-long-shot}/*.png`` and ``GT/*.png``."""
    for folder in _candidates(root):
        truth = folder / "GT"
        present = [split for split in _SPLITS if (folder / split).is_dir()]
        if truth.is_dir() and present:
            sharp = {file.name: file for file in images_below(truth)}
            splits = {s: _matched(images_below(folder / s), sharp, truth) for s in present}
            used = {Path(str(file)).name for pairs in splits.values() for _, file in pairs.values()}
            alone = sorted(set(sharp) - used)
            if alone and len(present) == len(_SPLITS):
                raise PairError(f"{sharp[alone[0]]}: has no partner in train/ or test/")
            return FoundSplits(splits, "train, test and GT")
    return _find_splits(root, blurred)


def _matched(blurred_files: Sequence[Path], sharp: dict, truth: Path) -> PairFiles:
    pairs: dict[str, Any] = {}
    for file in blurred_files:
        if file.name not in sharp:
            raise PairError(f"{file}: has no partner in {truth}")
        if file.stem in pairs:
            raise PairError(f"{file}: has the same name as {pairs[file.stem][0]}")
        pairs[file.stem] = (file, sharp[file.name])
    return dict(sorted(pairs.items()))


def _find_realblur(root: Path, blurred: str | None, kind: str) -> FoundSplits | None:
    """Lists ``RealBlur_{J,R}_{train,test}_list.txt``: one sharp and one blurred file per line."""
    for folder in _candidates(root):
        lists = {split: folder / f"RealBlur_{kind}_{split}_list.txt" for split in _SPLITS}
        listed = {s: _listed(file, folder) for s, file in lists.items() if file.exists()}
        if listed:
            splits = {split: pairs for split, (pairs, _) in listed.items()}
            missing = {split: names for split, (_, names) in listed.items()}
            return FoundSplits(splits, "lists", missing)
    return _find_splits(root, blurred)


def _listed(file: Path, folder: Path) -> tuple[PairFiles, list[str]]:
    """The pairs of a list, and the names of those of which both sides are missing."""
    pairs, gone = {}, []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2:
            raise PairError(f'{file}, line {number}: expected "sharp blurred", got {line!r}')
        sharp, blurred = (folder / word for word in words[:2])
        # RealBlur-J_.../scene001/blur/blur_1.png is the first image of the sequence scene001.
        name = f"{blurred.parent.parent.name}/{blurred.stem}"
        missing = [path for path in (sharp, blurred) if not path.exists()]
        if len(missing) == 1:
            raise PairError(f"{file}, line {number}: {missing[0]} is missing")
        if name in pairs or name in gone:
            raise PairError(f"{file}, line {number}: {name} was listed before")
        if missing:
            gone.append(name)
        else:
            pairs[name] = (blurred, sharp)
    return dict(sorted(pairs.items())), sorted(gone)


def _find_kohler(root: Path, blurred: str | None) -> FoundSplits | None:
    """``Blurry1_1.png`` to ``Blurry4_12.png``; ``Image1/Kernel1/GroundTruth1_1_1.png`` and on."""
    del blurred
    files = images_below(root)
    frames: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        if match := re.fullmatch(r"GroundTruth(\d+)_(\d+)_(\d+)", file.stem):
            image, kernel, frame = map(int, match.groups())
            frames.setdefault(f"{image}_{kernel:02}", []).append((frame, file))
    shots = {}
    for file in files:
        if match := re.fullmatch(r"Blurry(\d+)_(\d+)", file.stem):
            image, kernel = map(int, match.groups())
            name = f"{image}_{kernel:02}"
            if name not in frames:
                raise PairError(f"{file}: has no GroundTruth{image}_{kernel}_*.png")
            shots[name] = (file, tuple(path for _, path in sorted(frames[name])))
    if not shots:
        return None
    all_names = {f"{image}_{kernel:02}" for image in range(1, 5) for kernel in range(1, 13)}
    missing = {"test": sorted(all_names - set(shots))}
    return FoundSplits({"test": dict(sorted(shots.items()))}, "48 shots", missing)


def _candidates(root: Path) -> list[Path]:
    """The folder, its sub-folders and theirs: archives often add one or two."""
    below = sorted([*root.glob("*"), *root.glob("*/*")])
    return [root, *(path for path in below if path.is_dir() and MACOS_FOLDER not in path.parts)]


BENCHMARKS = {
    "gopro": Benchmark(
        title="GoPro (Nah et al., CVPR 2017)",
        homepage="https://seungjunnah.github.io/Datasets/gopro (GOPRO_Large.zip)",
        counts={"train": 2103, "test": 1111},
        find=_find_splits,
    ),
    "hide": Benchmark(
        title="HIDE (Shen et al., ICCV 2019)",
        homepage="https://github.com/joanshen0508/HA_deblur",
        counts={"train": 6397, "test": 2025},
        find=_find_hide,
    ),
    "realblur_j": Benchmark(
        title="RealBlur-J (Rim et al., ECCV 2020)",
        homepage="http://cg.postech.ac.kr/research/realblur",
        counts={"train": 3758, "test": 980},
        find=functools.partial(_find_realblur, kind="J"),
    ),
    "realblur_r": Benchmark(
        title="RealBlur-R (Rim et al., ECCV 2020)",
        homepage="http://cg.postech.ac.kr/research/realblur",
        counts={"train": 3758, "test": 980},
        find=functools.partial(_find_realblur, kind="R"),
    ),
    "kohler": Benchmark(
        title="Kohler et al., ECCV 2012",
        homepage=_KOHLER_URL,
        counts={"test": 48},
        find=_find_kohler,
        downloads=(
            Download(_KOHLER_URL + "BlurryImages.zip", "61ffb1434d93fca6c508976a7216d723"),
            Download(
                _KOHLER_URL + "GroundTruth_pngs_Image1.zip", "acb90b6d9bfdb4b2370e08a5fcb80e68"
            ),
            Download(
                _KOHLER_URL + "GroundTruth_pngs_Image2.zip", "da440d3bf43b32bec0b7170ccd828f29"
            ),
            Download(
                _KOHLER_URL + "GroundTruth_pngs_Image3.zip", "3a77c41c951367f35db52eb18496bbac"
            ),
            Download(
                _KOHLER_URL + "GroundTruth_pngs_Image4.zip", "72ce9690c3ed1296358653396cf9576d"
            ),
        ),
    ),
}
