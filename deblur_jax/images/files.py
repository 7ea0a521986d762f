"""Images as arrays, and arrays to image files."""

import dataclasses
import io
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from etils import epath
from PIL import Image

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import PathLike, whole_file

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".pfm"),
)
"""What counts as an image in a folder."""

_END_OF_IHDR = 33
"""Of a PNG file: 8 bytes of signature, and the first chunk, which has 25."""


class ImageError(UserError, ValueError):
    """An image that can't be read or written; the message names the file."""


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image as it is shown: upright, with what a network does not change kept apart.

    Attributes:
        colour: (h, w, 3) for a colour image or (h, w) for a grey one, float32 in [0, 1].
        alpha: (h, w) float32 in [0, 1], or None.
        bits: 8 or 16, per channel, or 32 for floats.
        icc_profile: the colour space, or None.
        notes: what a user should know of how it was read.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()


def encoded_png(pixels: np.ndarray, icc_profile: bytes | None = None) -> bytes:
    """An image as the bytes of a PNG file.

    Args:
        pixels: (h, w) or (h, w, 2 to 4) uint8 or uint16.
        icc_profile: the colour space, or None.
    """
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:  # which Pillow can't write
        encoded = bytes(imagecodecs.png_encode(pixels))
        return encoded if icc_profile is None else _with_profile(encoded, icc_profile)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png", icc_profile=icc_profile)
    return stream.getvalue()


def _with_profile(png: bytes, icc_profile: bytes) -> bytes:
    """Puts the chunk iCCP after the first one (PNG specification, 11.3.2.3)."""
    content = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc_profile)
    length, check = len(content) - 4, zlib.crc32(content)
    chunk = length.to_bytes(4, "big") + content + check.to_bytes(4, "big")
    return png[:_END_OF_IHDR] + chunk + png[_END_OF_IHDR:]


def write_image(path: PathLike, image: StoredImage) -> None:
    """Writes an image with correct rounding, whole or not at all, in the format of the suffix.

    Raises:
        ImageError: if it can't be written.
    """
    target = epath.Path(path)
    pixels = _stored_array(image, floats=_is_tiff(path))
    try:
        with whole_file(target) as file:
            if _is_tiff(path):
                is_colour = pixels.ndim == 3 and pixels.shape[-1] > 2
                tifffile.imwrite(
                    file,
                    pixels,
                    photometric="rgb" if is_colour else "minisblack",
                    planarconfig="contig" if pixels.ndim == 3 else None,
                    extrasamples=None if image.alpha is None else ["unassalpha"],
                    iccprofile=image.icc_profile,
                )
            elif target.suffix.lower() == ".png":
                file.write(encoded_png(pixels, image.icc_profile))
            else:
                Image.fromarray(pixels).save(file, target.suffix[1:], icc_profile=image.icc_profile)
    except OSError as error:
        raise ImageError(f"{path}: can't be written: {error.strerror or error}") from None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] floats to 8 bits: clipped, then rounded to the nearest."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def as_float(image: np.ndarray) -> np.ndarray:
    """Integers of 8 or 16 bits to float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def as_8_bits(image: np.ndarray) -> np.ndarray:
    """Integers of 8 or 16 bits to 8, rounded to the nearest."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _is_tiff(path: PathLike) -> bool:
    return Path(path).suffix.lower() in (".tif", ".tiff")


def _stored_array(image: StoredImage, *, floats: bool) -> np.ndarray:
    """The pixels to write; floats are written with 16 bits where the format has none."""
    colour = image.colour
    if image.alpha is not None:
        colour = np.dstack([colour, image.alpha])
    if image.bits == 32 and floats:
        return colour.astype(np.float32)
    bits = min(image.bits, 16)
    return np.round(np.clip(colour, 0.0, 1.0) * (2**bits - 1)).astype(f"uint{bits}")
