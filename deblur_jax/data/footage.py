"""Pairs made of high-speed footage: the mean of n frames is blurred, the middle one is sharp."""

import atexit
import dataclasses
import functools
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from deblur_jax.data.exposure import GAMMA
from deblur_jax.data.synthesis import SynthesisedPair
from deblur_jax.errors import UserError
from deblur_jax.images.files import as_8_bits, to_uint8
from deblur_jax.images.folders import images_below
from deblur_jax.images.reading import read_rgb
from deblur_jax.runtime.files import is_remote

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_SHARE_LINEAR = 0.5
_STATIC = 1.5
"""Mean difference of the first and the last frame of a run, in units of 1/255, below which nothing
moves."""
_TRIES = 12
_LARGEST_STEP = 1.5
"""Pixels that things may move from one sub-frame to the next, where frames are interpolated."""
_MOST_INTERPOLATED = 12
_KEPT_FRAMES = 48


class FootageError(UserError, ValueError):
    """Footage that can't be read; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of one sequence.

    Attributes:
        files: the images of the frames in their order; or one video file.
        length: number of frames.
    """

    files: tuple[str, ...]
    length: int

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index``, (h, w, 3) uint8.

        Raises:
            FootageError, ImageError: naming the file that can't be read.
        """
        if _is_video(self.files[0]):
            return _video_frame(self.files[0], index)
        return _image_frame(self.files[index])


def clips_in(source: epath.Path) -> tuple[list[Clip], list[str]]:
    """The sequences of a folder, one for each folder with numbered images in it; or a video file.

    A gap in the numbers ends a sequence.

    Returns:
        The sequences, and a line for each file that can't serve.
    """
    if _is_video(source):
        try:
            return [Clip((str(source),), _video_length(str(source)))], []
        except FootageError as error:
            return [], [str(error)]
    by_folder: dict[str, list[tuple[int, str]]] = {}
    refused = []
    for file in images_below(source):
        number = _number(file.stem)
        if number is None:
            refused.append(f"{file}: its name has no number, so its place among the frames is open")
        else:
            by_folder.setdefault(str(file.parent), []).append((number, str(file)))
    clips = []
    for frames in by_folder.values():
        frames.sort()
        steps = sorted(b[0] - a[0] for a, b in itertools.pairwise(frames))
        usual = steps[len(steps) // 2] if steps else 1
        run = [frames[0]]
        for frame in frames[1:]:
            if frame[0] - run[-1][0] != usual:
                clips.append(_clip(run))
                run = []
            run.append(frame)
        clips.append(_clip(run))
    return clips, refused


def is_footage(source: epath.Path) -> bool:
    """Whether a source is a video file, or a folder whose images are numbered frames.

    Frames are images of one size, seven or more of consecutive numbers in one folder.
    """
    if _is_video(source):
        return True
    if not source.is_dir():
        return False
    clips, refused = clips_in(source)
    return not refused and bool(clips) and all(clip.length >= 7 for clip in clips)


def survey_clip(clip: Clip, fewest: int) -> Clip | str:
    """Reads a few frames of a sequence.

    Args:
        clip: the sequence.
        fewest: frames that a pair needs at least.

    Returns:
        The sequence; or, where it can't serve, one line that names it and says why.
    """
    if clip.length < fewest:
        return f"{clip.files[0]}: a sequence of {clip.length} frames, of {fewest} that a pair needs"
    try:
        places = np.linspace(0, clip.length - 1, min(clip.length, 9)).round().astype(int)
        frames = [clip.frame(int(place)) for place in places]
    except UserError as error:
        return str(error)
    if len({frame.shape for frame in frames}) > 1:
        return f"{clip.files[0]}: its sequence has frames of several sizes"
    if all(_change(a, b) < _STATIC for a, b in itertools.pairwise(frames)):
        return f"{clip.files[0]}: nothing moves in its sequence"
    return clip


@dataclasses.dataclass(frozen=True)
class FootageScenes:
    """Pairs made of footage; pair i is a pure function of (seed, i) and the clips.

    Args:
        clips: to take frames from.
        size: height and width of a pair, in pixels; None for whole frames.
        frames: the least and the greatest number of frames to average; even ones are left out,
            since only an odd number has a middle one.
        interpolate: whether frames are added between those that are more than 1.5 pixels apart.
        seed: another one makes other pairs.
    """

    clips: Sequence[Clip]
    size: int | None
    frames: tuple[int, int]
    interpolate: bool
    seed: int

    def __call__(self, index: int) -> SynthesisedPair:
        """Pair ``index``.

        Raises:
            FootageError, ImageError: naming a file that can't be read.
        """
        rng = np.random.default_rng([self.seed, index])
        for _ in range(_TRIES):
            run = self._random_run(rng)
            if _change(run[0], run[-1]) >= _STATIC:
                break
        linear = rng.random() < _SHARE_LINEAR
        sharp = run[len(run) // 2]
        displacement = 0.0
        if self.interpolate:
            run, displacement = _interpolated(run)
        light = [np.float32(frame / 255.0) ** (GAMMA if linear else 1.0) for frame in run]
        blurred = np.mean(light, axis=0) ** (1.0 / GAMMA if linear else 1.0)
        return SynthesisedPair(to_uint8(blurred), sharp, displacement)

    def _random_run(self, rng: np.random.Generator) -> list[np.ndarray]:
        clip = self.clips[int(rng.integers(len(self.clips)))]
        least, greatest = self.frames
        odd = [n for n in range(least, min(greatest, clip.length) + 1) if n % 2]
        count = int(rng.choice(odd))
        first = int(rng.integers(clip.length - count + 1))
        run = [clip.frame(first + position) for position in range(count)]
        if self.size is None:
            return run
        height, width = run[0].shape[:2]
        if min(height, width) < self.size:
            raise FootageError(
                f"{clip.files[0]}: frames of {width}x{height} are smaller than --size {self.size}"
            )
        top = int(rng.integers(height - self.size + 1))
        left = int(rng.integers(width - self.size + 1))
        step = -1 if rng.random() < 0.5 else 1
        rows, columns = slice(top, top + self.size), slice(left, left + self.size)
        return [np.ascontiguousarray(frame[rows, columns][:, ::step]) for frame in run]


def _clip(run: list[tuple[int, str]]) -> Clip:
    return Clip(tuple(file for _, file in run), len(run))


def _number(stem: str) -> int | None:
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None


def _change(first: np.ndarray, last: np.ndarray) -> float:
    return float(np.abs(first.astype(np.int16) - last.astype(np.int16)).mean())


@functools.lru_cache(maxsize=_KEPT_FRAMES)
def _image_frame(path: str) -> np.ndarray:
    return as_8_bits(read_rgb(path))


def _is_video(path: Any) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _opencv() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our own line says what is damaged
    try:
        import cv2
    except ModuleNotFoundError:
        raise FootageError(
            "reading videos and interpolating frames need OpenCV: "
            "pip install opencv-python-headless"
        ) from None
    return cv2


@functools.lru_cache(maxsize=4)
def _video(path: str) -> Any:
    file = _local_copy(path) if is_remote(path) else Path(path)
    if not file.is_file():
        raise FootageError(f"{path}: no such file")
    video = _opencv().VideoCapture(str(file))
    if not video.isOpened():
        raise FootageError(f"{path}: not a video that can be read, or damaged")
    return video


def _local_copy(path: str) -> Path:
    """A copy of a video in a bucket, kept while this process lives: OpenCV reads local files."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / epath.Path(path).name
    if epath.Path(path).exists():
        epath.Path(path).copy(copy)
    return copy


def _video_length(path: str) -> int:
    length = int(_video(path).get(_opencv().CAP_PROP_FRAME_COUNT))
    if length < 1:
        raise FootageError(f"{path}: a video without frames, or damaged")
    return length


@functools.lru_cache(maxsize=_KEPT_FRAMES)
def _video_frame(path: str, index: int) -> np.ndarray:
    cv2, video = _opencv(), _video(path)
    if int(video.get(cv2.CAP_PROP_POS_FRAMES)) != index:
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
    found, frame = video.read()
    if not found:
        raise FootageError(f"{path}: frame {index} can't be read: the video is damaged")
    return np.ascontiguousarray(frame[..., ::-1])


def _interpolated(run: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Frames with others between them, and the path of what moves most, in pixels."""
    cv2 = _opencv()
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in run]
    flows = [
        (finder.calc(a, b, None), finder.calc(b, a, None)) for a, b in itertools.pairwise(greys)
    ]
    steps = [float(np.percentile(np.linalg.norm(there, axis=-1), 98)) for there, _ in flows]
    # As many between each two frames, so that each has the same weight in the mean.
    between = min(_MOST_INTERPOLATED, max(1, int(np.ceil(max(steps) / _LARGEST_STEP)))) - 1
    result = [run[0]]
    for (first, second), (there, back) in zip(itertools.pairwise(run), flows, strict=True):
        for number in range(between):
            part = (number + 1) / (between + 1)
            result.append(_between(cv2, first, second, there, back, part))
        result.append(second)
    return result, float(sum(steps))


def _between(
    cv2: Any,
    first: np.ndarray,
    second: np.ndarray,
    there: np.ndarray,
    back: np.ndarray,
    part: float,
) -> np.ndarray:
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)

    def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
        return cv2.remap(
            image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
        ).astype(np.float32)

    # The flow where something will be is near that where it is.
    from_first = warped(first, -part * there)
    from_second = warped(second, -(1.0 - part) * back)
    return np.round((1.0 - part) * from_first + part * from_second).astype(np.uint8)
