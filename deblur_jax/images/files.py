"""What an image file holds, and its numbers: integers of 8 or 16 bits, or floats."""

import dataclasses

import numpy as np

from deblur_jax.errors import UserError
from deblur_jax.images.metadata import Metadata

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".pfm", ".heic", ".heif"),
)
"""What counts as an image in a folder."""

MAX_PIXELS = 500_000_000
"""Of an image that is read; more are taken for a mistake."""


class ImageError(UserError, ValueError):
    """An image that can't be read or written; the message names the file."""


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image as it is shown: upright.

    Attributes:
        pixels: (h, w) or (h, w, 2 to 4), the even ones with alpha last; uint8, uint16, or float32
            in [0, 1].
        metadata: what goes with them.
        notes: what a user should know of how it was read.
    """

    pixels: np.ndarray
    metadata: Metadata = dataclasses.field(default_factory=Metadata)
    notes: tuple[str, ...] = ()


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] floats to 8 bits: clipped, then rounded to the nearest."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def to_uint16(image: np.ndarray) -> np.ndarray:
    """[0, 1] floats to 16 bits: clipped, then rounded to the nearest."""
    return np.round(np.clip(image, 0.0, 1.0) * 65535.0).astype(np.uint16)


def as_float(image: np.ndarray) -> np.ndarray:
    """Integers of 8 or 16 bits to float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def as_8_bits(image: np.ndarray) -> np.ndarray:
    """Integers of 8 or 16 bits to 8, rounded to the nearest."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
