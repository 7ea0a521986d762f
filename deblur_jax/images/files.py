"""Image files to arrays and back."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import tifffile
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import PathLike, whole_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder."""

_EXIF_ORIENTATION = 0x0112


class ImageError(UserError, ValueError):
    """An image that can't be read or written; the message names the file."""


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image as it is shown: upright, with what a network does not change kept apart.

    Attributes:
        colour: (h, w, 3) for a colour image or (h, w) for a grey one, float32 in [0, 1].
        alpha: (h, w) float32 in [0, 1], or None.
        bits: 8 or 16, per channel.
        icc_profile: the colour space, or None.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc_profile: bytes | None = None


def read_rgb(path: PathLike) -> np.ndarray:
    """Reads an image as (h, w, 3) uint8, as it is stored.

    Raises:
        ImageError: if the file is missing, truncated or no image.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def read_png(path: PathLike) -> bytes:
    """Reads an image as an RGB PNG, checked to be whole; an RGB PNG file comes as it is.

    Raises:
        ImageError: as ``read_rgb``.
    """
    with _errors_naming(path):
        content = epath.Path(path).read_bytes()
        image = Image.open(io.BytesIO(content))
        image.load()
        if (image.format, image.mode) != ("PNG", "RGB"):
            stream = io.BytesIO()
            image.convert("RGB").save(stream, "png")
            content = stream.getvalue()
        return content


def read_size(path: PathLike) -> tuple[int, int]:
    """Height and width as stored, from the file's header alone.

    Raises:
        ImageError: as ``read_rgb``.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        width, height = Image.open(file).size
        return height, width


def read_upright_size(path: PathLike) -> tuple[int, int]:
    """Height and width of what ``read_image`` gives, from the file's header alone.

    Raises:
        ImageError: as ``read_rgb``.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        image = Image.open(file)
        width, height = image.size
        is_rotated = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        rotated = is_rotated and image.format != "TIFF"  # Pillow rotates the size of a TIFF itself
        return (width, height) if rotated else (height, width)


def read_image(path: PathLike) -> StoredImage:
    """Reads an image of any common kind, rotated as its EXIF orientation says.

    Grey and colour, with or without alpha, palettes, 8 and 16 bits. Colour PNGs of 16 bits are read
    with 8, which is all that Pillow offers; 16-bit colour TIFFs keep theirs.

    Raises:
        ImageError: if the file is missing, truncated or no image.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        image = Image.open(file)
        profile = image.info.get("icc_profile")
        if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
            file.seek(0)
            pixels = _read_rgb_tiff(file)
        else:
            pixels = np.asarray(_with_plain_mode(ImageOps.exif_transpose(image)))
        return dataclasses.replace(_image_from_array(pixels), icc_profile=profile)


def encoded_png(pixels: np.ndarray) -> bytes:
    """An image as the bytes of a PNG file.

    Args:
        pixels: (h, w, 3) uint8.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "png")
    return stream.getvalue()


def write_image(path: PathLike, image: StoredImage) -> None:
    """Writes an image with correct rounding, whole or not at all, in the format of the suffix.

    Raises:
        ImageError: if it can't be written.
    """
    target = epath.Path(path)
    pixels = _stored_array(image)
    try:
        with whole_file(target) as file:
            if _is_tiff(path):
                tifffile.imwrite(file, pixels, iccprofile=image.icc_profile)
            else:
                Image.fromarray(pixels).save(file, target.suffix[1:], icc_profile=image.icc_profile)
    except OSError as error:
        raise ImageError(f"{path}: can't be written: {error.strerror or error}") from None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] floats to 8 bits: clipped, then rounded to the nearest."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _is_tiff(path: PathLike) -> bool:
    return Path(path).suffix.lower() in (".tif", ".tiff")


def _read_rgb_tiff(file: IO[bytes]) -> np.ndarray:
    """The first page of a TIFF with all its bits, of which Pillow would keep 8, upright."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
        orientation = page.tags.valueof(_EXIF_ORIENTATION, 1)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _with_plain_mode(image: Image.Image) -> Image.Image:
    """An image with a palette, CMYK or another mode as L, LA, RGB, RGBA or I;16."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        return image
    if image.mode in ("I;16B", "I;16L", "I"):
        return Image.fromarray(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _image_from_array(pixels: np.ndarray) -> StoredImage:
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3):
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}: 8 or 16 bits only")
    bits = pixels.dtype.itemsize * 8
    values = pixels.astype(np.float32) / (2**bits - 1)
    if values.ndim == 2:
        return StoredImage(values, bits=bits)
    channels = values.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{channels} channels: 1 to 4 only")
    colour = values[..., 0] if channels < 3 else values[..., :3]
    return StoredImage(colour, values[..., -1] if channels in (2, 4) else None, bits)


def _stored_array(image: StoredImage) -> np.ndarray:
    colour = image.colour
    if image.alpha is not None:
        colour = np.dstack([colour, image.alpha])
    limit = 2**image.bits - 1
    return np.round(np.clip(colour, 0.0, 1.0) * limit).astype(f"uint{image.bits}")


@contextlib.contextmanager
def _errors_naming(path: PathLike) -> Iterator[None]:
    """Makes an ``ImageError`` that names the file of whatever goes wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or damaged at its start") from None
    except Exception as error:  # a damaged file can fail in any way
        raise ImageError(f"{path}: can't be read: {error}") from error
