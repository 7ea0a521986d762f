"""Where the pairs are in the benchmarks, as their authors publish them.

Each finder takes the unpacked folder, or one that holds it, and returns the files of every split by
name. The training and test pairs are those of the authors.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deblur_jax.data.archives import Download
from deblur_jax.data.folder import PairError, find_pairs
from deblur_jax.data.patches import PairFiles
from deblur_jax.images.folders import images_below

Splits = dict[str, PairFiles]

_SPLITS = ("train", "test")
_NAMED_FOLDERS = (("input", "target"), ("blur", "sharp"))
_KOHLER_URL = "http://people.kyb.tuebingen.mpg.de/rolfk/BenchmarkECCV2012/"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set that papers report numbers on.

    Attributes:
        title: of the paper.
        homepage: where to get it.
        find: the files below a folder, by split; empty if they are not there.
        downloads: archives that can be fetched.
    """

    title: str
    homepage: str
    find: Callable[[Path, str], Splits]
    downloads: tuple[Download, ...] = ()


def _find_gopro(root: Path, blurred: str) -> Splits:
    """``{train,test}/SEQUENCE/{blur,blur_gamma,sharp}/``, or ``{train,test}/{blur,sharp}/``."""
    for folder in _candidates(root):
        splits: Splits = {}
        for split in _SPLITS:
            has_pairs = [*folder.glob(f"{split}/{blurred}"), *folder.glob(f"{split}/*/{blurred}")]
            if has_pairs:
                splits[split] = find_pairs(folder / split, blurred)
        if splits:
            return splits
    return {}


def _find_hide(root: Path, blurred: str) -> Splits:
    """``train/*.png``, ``test/{test-close-ups,test-long-shot}/*.png`` and ``GT/*.png``."""
    del blurred
    for folder in _candidates(root):
        truth = folder / "GT"
        if truth.is_dir():
            sharp = {file.name: file for file in images_below(truth)}
            return {
                split: _matched(images_below(folder / split), sharp, truth)
                for split in _SPLITS
                if (folder / split).is_dir()
            }
    return _find_named_folders(root)


def _matched(blurred_files: Sequence[Path], sharp: dict, truth: Path) -> PairFiles:
    pairs: dict[str, Any] = {}
    for file in blurred_files:
        if file.name not in sharp:
            raise PairError(f"{file}: has no partner in {truth}")
        if file.stem in pairs:
            raise PairError(f"{file}: has the same name as {pairs[file.stem][0]}")
        pairs[file.stem] = (file, sharp[file.name])
    return dict(sorted(pairs.items()))


def _find_named_folders(root: Path) -> Splits:
    """``test/{input,target}/``, as many later codes repack a benchmark."""
    for folder in [*_candidates(root), *(c / "test" for c in _candidates(root))]:
        for blurred, sharp in _NAMED_FOLDERS:
            if (folder / blurred).is_dir() and (folder / sharp).is_dir():
                truths = {file.name: file for file in images_below(folder / sharp)}
                pairs = _matched(images_below(folder / blurred), truths, folder / sharp)
                return {"test": pairs}
    return {}


def _find_realblur(root: Path, kind: str) -> Splits:
    """Lists ``RealBlur_{J,R}_{train,test}_list.txt``: one sharp and one blurred file per line."""
    for folder in _candidates(root):
        lists = {split: folder / f"RealBlur_{kind}_{split}_list.txt" for split in _SPLITS}
        if any(file.exists() for file in lists.values()):
            return {split: _listed(file, folder) for split, file in lists.items() if file.exists()}
    return _find_named_folders(root)


def _listed(file: Path, folder: Path) -> PairFiles:
    pairs = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2:
            raise PairError(f'{file}, line {number}: expected "sharp blurred", got {line!r}')
        sharp, blurred = (folder / word for word in words[:2])
        for missing in (path for path in (sharp, blurred) if not path.exists()):
            raise PairError(f"{file}, line {number}: {missing} is missing")
        # RealBlur-J_.../scene001/blur/blur_1.png is the first image of the sequence scene001.
        name = f"{blurred.parent.parent.name}/{blurred.stem}"
        if name in pairs:
            raise PairError(f"{file}, line {number}: {name} was listed before")
        pairs[name] = (blurred, sharp)
    return dict(sorted(pairs.items()))


def _find_kohler(root: Path, blurred: str) -> Splits:
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
    return {"test": dict(sorted(shots.items()))} if shots else {}


def _candidates(root: Path) -> list[Path]:
    """The folder, its sub-folders and theirs: archives often add one or two."""
    return [root, *(path for path in sorted([*root.glob("*"), *root.glob("*/*")]) if path.is_dir())]


BENCHMARKS = {
    "gopro": Benchmark(
        title="GoPro (Nah et al., CVPR 2017)",
        homepage="https://seungjunnah.github.io/Datasets/gopro (GOPRO_Large.zip)",
        find=_find_gopro,
    ),
    "hide": Benchmark(
        title="HIDE (Shen et al., ICCV 2019)",
        homepage="https://github.com/joanshen0508/HA_deblur",
        find=_find_hide,
    ),
    "realblur_j": Benchmark(
        title="RealBlur-J (Rim et al., ECCV 2020)",
        homepage="http://cg.postech.ac.kr/research/realblur",
        find=lambda root, blurred: _find_realblur(root, "J"),
    ),
    "realblur_r": Benchmark(
        title="RealBlur-R (Rim et al., ECCV 2020)",
        homepage="http://cg.postech.ac.kr/research/realblur",
        find=lambda root, blurred: _find_realblur(root, "R"),
    ),
    "kohler": Benchmark(
        title="Kohler et al., ECCV 2012",
        homepage=_KOHLER_URL,
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
