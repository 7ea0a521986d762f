"""Sharp views of photographs: reduced until they are sharp at pixel level, with detail in them."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from deblur_jax.errors import UserError
from deblur_jax.images.files import as_8_bits
from deblur_jax.images.reading import read_rgb

_LONGEST = 2400
"""Pixels of the longer side of a photograph, at most, from which views are cut."""
_REDUCTIONS = (1.0, 0.84, 0.71, 0.59, 0.5, 0.42, 0.35)
_SHARP = 0.48
"""The least ``sharpness`` of a photograph that is sharp at pixel level."""
_DETAIL = 6.0
"""Standard deviation of the Laplacian of a view with detail, in units of 1/255."""
_PLAIN_SHARE = 0.08
"""Share of views that may be plain, such as sky: noise in them must not be sharpened."""
_TRIES = 12
_FURTHER_REDUCTION = (0.75, 1.0)
_KEPT_IN_MEMORY = 48


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A photograph that views can be cut from.

    Attributes:
        path: its file.
        reduction: the factor on its size with which it is sharp at pixel level.
    """

    path: str
    reduction: float


def survey(path: str) -> Photograph | str:
    """Reads a file once.

    Returns:
        The photograph; or, where it can't serve, one line that names it and says why.
    """
    try:
        image = _read(path)
    except UserError as error:
        return str(error)
    for reduction in _REDUCTIONS:
        reduced = _resized(image, reduction)
        if min(reduced.size) < 64:
            break
        if sharpness(np.asarray(reduced.convert("L"), np.float32)) >= _SHARP:
            return Photograph(path, reduction)
    return f"{path}: not sharp, even when it is reduced to {_REDUCTIONS[-1]:.0%}"


def sharpness(grey: np.ndarray) -> float:
    """How much of the detail is as fine as the pixels allow.

    The amplitude of the highest octave of frequencies (a quarter to half a cycle a pixel) over
    that of the next one. Photographs that are sharp at pixel level have 0.5 to 0.8, blurred or
    enlarged ones less, noise has 2.

    Args:
        grey: (h, w) float32.
    """
    height, width = grey.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    fine = power[(frequency >= 0.25) & (frequency < 0.5)].sum()
    coarse = power[(frequency >= 0.125) & (frequency < 0.25)].sum()
    return float(np.sqrt(fine / max(float(coarse), 1e-9)))


def detail(grey: np.ndarray) -> float:
    """The standard deviation of the Laplacian of an image (h, w), in its units."""
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4.0 * grey[1:-1, 1:-1]).std())


def random_view(rng: np.random.Generator, photograph: Photograph, size: int) -> Image.Image:
    """A random ``size`` x ``size`` view, perhaps mirrored: sharp, most with detail.

    A photograph that is smaller is continued by its mirror image.
    """
    plain = rng.random() < _PLAIN_SHARE
    image = _read_reduced(photograph)
    best: tuple[float, Image.Image] | None = None
    for _ in range(_TRIES):
        view = _any_view(rng, image, size)
        grey = np.asarray(view.convert("L"), np.float32)
        found = detail(grey)
        if plain or (found >= _DETAIL and sharpness(grey) >= _SHARP):
            return view
        if best is None or found > best[0]:
            best = found, view
    assert best is not None
    return best[1]


def validation_share(paths: Sequence[str], names: Sequence[str], fraction: float) -> set[str]:
    """Chooses files for validation, by a hash of their names, so that others do not matter much.

    Args:
        paths: the files.
        names: of each, the same on every machine.
        fraction: of the files; at least one where it is above 0 and there are two.
    """
    order = sorted(
        zip(names, paths, strict=True),
        key=lambda item: hashlib.sha256(item[0].encode("utf-8", "replace")).hexdigest(),
    )
    if fraction <= 0 or len(order) < 2:
        return set()
    return {path for _, path in order[: max(1, round(fraction * len(order)))]}


def _any_view(rng: np.random.Generator, image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    extent = round(size / rng.uniform(*_FURTHER_REDUCTION))
    if shorter < extent:
        extent = max(size, shorter)
    if shorter < extent:
        missing = extent - shorter
        pixels = np.asarray(image)
        pads = [(0, missing if length < extent else 0) for length in pixels.shape[:2]]
        image = Image.fromarray(np.pad(pixels, [*pads, (0, 0)], "symmetric"))
    left = int(rng.integers(0, image.width - extent + 1))
    top = int(rng.integers(0, image.height - extent + 1))
    view = image.crop((left, top, left + extent, top + extent))
    if extent != size:
        view = view.resize((size, size), Image.Resampling.LANCZOS)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


@functools.lru_cache(maxsize=_KEPT_IN_MEMORY)
def _read_reduced(photograph: Photograph) -> Image.Image:
    return _resized(_read(photograph.path), photograph.reduction)


def _read(path: str) -> Image.Image:
    image = Image.fromarray(as_8_bits(read_rgb(path)))
    return _resized(image, min(1.0, _LONGEST / max(image.size)))


def _resized(image: Image.Image, factor: float) -> Image.Image:
    if factor == 1.0:
        return image
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)
