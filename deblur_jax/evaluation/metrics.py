"""Measures of a restored image against the sharp one, in the four ways that papers use.

The ways differ by tenths of a dB and by 0.05 of SSIM, and papers rarely say which they used:

``float``
    MIMO-UNet's official PSNR. Pixels in [0, 1], the restored ones clamped and *not* rounded. Its
    authors did not publish their code for SSIM; their figures fit that of ``matlab``, which is
    taken here, on the same pixels.
``matlab``
    SVRNN, MPRNet, Restormer, and most published tables. Rounded to 8 bits. SSIM takes an image as
    a volume of height x width x 3: a Gaussian window of 11x11x11 (sigma 1.5), borders repeated on
    all axes, channels included; the mean over all voxels.
``skimage``
    DeepDeblur and many Python papers. Rounded to 8 bits. SSIM of each channel by a Gaussian
    window of 11x11 (sigma 1.5), population covariances, 5 pixels of border left out.
``realblur``
    The RealBlur benchmark: ``skimage`` after the restored image was aligned to the sharp one and
    its brightness matched, on the pixels that both cover: see ``alignment.py``.

All of it is computed by float32 sums of shifted arrays, without matrix products, which an
accelerator would round.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.errors import UserError
from deblur_jax.evaluation.alignment import align
from deblur_jax.images.files import as_float

Mode = Literal["float", "matlab", "skimage", "realblur"]
MODES = ("float", "matlab", "skimage", "realblur")

_SIGMA, _RADIUS = 1.5, 5
_K1, _K2 = 0.01, 0.03
_MIN_SIDE = 2 * _RADIUS + 1
_PIXELS_AT_ONCE = 2**20


class MetricError(UserError, ValueError):
    """Images that can't be compared."""


class Score(NamedTuple):
    """What an image scored.

    Attributes:
        psnr: in dB; infinite for equal images.
        ssim: at most 1.
        aligned: False where ``realblur`` found no alignment and compared the images as they are.
    """

    psnr: float
    ssim: float
    aligned: bool = True


def score(restored: np.ndarray, sharp: np.ndarray, mode: Mode) -> Score:
    """Compares one image with the truth.

    Args:
        restored: (h, w, 3) float32 in [0, 1]; it need not be clamped.
        sharp: the truth, likewise.
        mode: see the module.

    Raises:
        MetricError: for two sizes, one that is too small for the mode, or values that are not
            finite.
        AlignmentError: in mode ``realblur``, without OpenCV.
    """
    if mode not in MODES:
        raise MetricError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    if restored.shape != sharp.shape or restored.ndim != 3 or restored.shape[-1] != 3:
        raise MetricError(f"expected (h, w, 3) twice, got {restored.shape} and {sharp.shape}")
    if mode in ("skimage", "realblur") and min(restored.shape[:2]) < _MIN_SIDE:
        height, width = restored.shape[:2]
        raise MetricError(
            f"mode {mode} needs images of at least {_MIN_SIDE}x{_MIN_SIDE}, got {width}x{height}"
        )
    if not (np.isfinite(restored).all() and np.isfinite(sharp).all()):
        raise MetricError("an image holds numbers that are not finite")
    restored, sharp = (_as_measured(image, mode) for image in (restored, sharp))
    if np.array_equal(restored, sharp):
        return Score(math.inf, 1.0)
    converged, mask = True, np.ones((*sharp.shape[:2], 1), np.float32)
    if mode == "realblur":
        restored, sharp, mask, converged = align(restored, sharp)
    psnr, origin = _psnr_and_origin(restored, sharp, 3.0 * mask.sum(dtype=np.float64))
    ssim = _ssim_in_bands(restored, sharp, mask, origin, volume=mode in ("float", "matlab"))
    return Score(float(psnr), ssim, converged)


def best_score(
    restored: np.ndarray, sharp: np.ndarray | Sequence[np.ndarray], mode: Mode
) -> tuple[Score, np.ndarray]:
    """Compares an image with the truth, or with several, of which the best counts.

    Kohler's benchmark knows every frame of the camera's path: each is as good a truth.

    Args:
        restored: (h, w, 3) float32 in [0, 1].
        sharp: (h, w, 3) uint8 or uint16, or a sequence of such.
        mode: of ``MODES``.

    Returns:
        The score (the best PSNR, and the best SSIM), and the truth with the best PSNR, float32.

    Raises:
        MetricError, AlignmentError: as ``score``.
    """
    truths = [sharp] if isinstance(sharp, np.ndarray) else sharp
    scored = []
    for stored in truths:
        truth = as_float(stored)
        scored.append((score(restored, truth, mode), truth))
    best, nearest = max(scored, key=lambda pair: pair[0].psnr)
    return best._replace(ssim=max(one.ssim for one, _ in scored)), nearest


def _as_measured(image: np.ndarray, mode: Mode) -> np.ndarray:
    """The image as a mode compares it: (h, w, 3), float32 in [0, 1]."""
    image = np.clip(image, 0.0, 1.0, dtype=np.float32)
    return image if mode == "float" else np.round(image * np.float32(255.0)) / np.float32(255.0)


@jax.jit
def _psnr_and_origin(
    restored: jax.Array, sharp: jax.Array, count: float
) -> tuple[jax.Array, jax.Array]:
    """The PSNR of (h, w, 3) over ``count`` values, beyond which both are 0, and the sharp mean."""
    error = jnp.sum(jnp.square(restored - sharp)) / count
    return -10.0 * jnp.log10(error), jnp.mean(sharp)


def _ssim_in_bands(
    restored: np.ndarray, sharp: np.ndarray, mask: np.ndarray, origin: jax.Array, *, volume: bool
) -> float:
    """The mean SSIM of (h, w, 3) over ``mask``, (h, w, 1).

    It goes in bands of rows, since it takes some fifty times a band's memory.
    """
    height, width = restored.shape[:2]
    outside = 0 if volume else _RADIUS  # rows and columns that have no SSIM, on each side
    count = max(1, round(height * width / _PIXELS_AT_ONCE))
    edges = np.linspace(outside, height - outside, count + 1).astype(int)
    total = weight = 0.0
    for start, stop in itertools.pairwise(edges):
        rows = np.arange(start - _RADIUS, stop + _RADIUS).clip(0, height - 1)  # borders repeated
        inside = mask[start:stop, outside : width - outside]
        total += float(_sum_of_ssim(restored[rows], sharp[rows], inside, origin, volume=volume))
        weight += 3.0 * float(inside.sum(dtype=np.float64))
    return total / weight if weight else math.nan  # as the PSNR of no pixels


@functools.partial(jax.jit, static_argnames="volume")
def _sum_of_ssim(
    restored: jax.Array, sharp: jax.Array, inside: jax.Array, origin: jax.Array, *, volume: bool
) -> jax.Array:
    """The sum of the SSIM of (h, w, 3) over ``inside``, (h - 10, w or w - 10, 1); a scalar."""
    window = _blurred_volume if volume else _blurred_inside
    return jnp.sum(_ssim_map(restored, sharp, origin, window) * inside)


def psnr(restored: jax.typing.ArrayLike, sharp: jax.typing.ArrayLike) -> jax.Array:
    """PSNR of mode ``float`` in dB, for an image or a batch.

    Args:
        restored: (..., h, w, c).
        sharp: the same shape, in [0, 1].

    Returns:
        (...,) float32; infinite for equal images.
    """
    error = jnp.clip(jnp.asarray(restored, jnp.float32), 0.0, 1.0) - jnp.asarray(sharp, jnp.float32)
    return -10.0 * jnp.log10(jnp.mean(jnp.square(error), (-3, -2, -1)))


def _ssim_map(
    x: jax.Array, y: jax.Array, origin: jax.Array, window: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Wang et al. (2004), equation 13, for the range of 1, at every place of the window.

    Args:
        x: (h, w, c).
        y: the same shape.
        origin: a number near the mean. Variances do not change with the origin, and near it float32
            holds them to more digits.
        window: Gaussian means.
    """
    x, y = x - origin, y - origin
    mean_x, mean_y = window(x), window(y)
    variances = window(x * x + y * y) - mean_x * mean_x - mean_y * mean_y
    covariance = window(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    mean_x, mean_y = mean_x + origin, mean_y + origin
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _blurred_inside(values: jax.Array) -> jax.Array:
    """Gaussian means over windows that lie inside: (h, w, c) to (h - 10, w - 10, c)."""
    return _weighted_sums(_weighted_sums(values, 0), 1)


def _blurred_volume(values: jax.Array) -> jax.Array:
    """Gaussian means over volumes: (h, w, c) to (h - 10, w, c).

    Borders are repeated on the other axes; the rows come with theirs.
    """
    values = _weighted_sums(values, 0)
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (_RADIUS, _RADIUS)
        values = _weighted_sums(jnp.pad(values, padding, mode="edge"), axis)
    return values


def _weighted_sums(values: jax.Array, axis: int) -> jax.Array:
    """Sums over 11 neighbours along an axis, by the Gaussian's weights."""
    weights = [math.exp(-0.5 * (i / _SIGMA) ** 2) for i in range(-_RADIUS, _RADIUS + 1)]
    length = values.shape[axis] - 2 * _RADIUS
    total = jnp.zeros(())
    for i, weight in enumerate(weights):
        part = jax.lax.slice_in_dim(values, i, i + length, axis=axis)
        total += weight / sum(weights) * part
    return total
