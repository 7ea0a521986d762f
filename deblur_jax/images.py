"""Picture files to arrays and back."""

import contextlib
import dataclasses
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from etils import epath
from PIL import Image, ImageOps

from deblur_jax.errors import UserError

PathLike = str | os.PathLike

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""What counts as a picture in a folder."""

_EXIF_ORIENTATION = 0x0112


class ImageError(UserError, ValueError):
    """A picture that can't be read or written; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A picture as its owner knows it: upright, with what a network does not touch kept beside.

    Attributes:
        colour: (h, w, 3) for a colour picture or (h, w) for a grey one, float32 in [0, 1].
        alpha: (h, w) float32 in [0, 1], or None.
        bits: 8 or 16, per channel.
        icc_profile: the colour space, or None.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc_profile: bytes | None = None


def read_rgb(path: PathLike) -> np.ndarray:
    """Reads a picture as (h, w, 3) uint8, as it is stored.

    Raises:
        ImageError: if the file is missing, truncated or no picture.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def read_png(path: PathLike) -> bytes:
    """Reads a picture as an RGB PNG, checked to be whole; an RGB PNG file comes as it is.

    Raises:
        ImageError: as ``read_rgb``.
    """
    with _errors_naming(path):
        content = epath.Path(path).read_bytes()
        picture = Image.open(io.BytesIO(content))
        picture.load()
        if (picture.format, picture.mode) != ("PNG", "RGB"):
            stream = io.BytesIO()
            picture.convert("RGB").save(stream, "png")
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
    """Height and width of what ``read_photograph`` gives, from the file's header alone.

    Raises:
        ImageError: as ``read_rgb``.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        picture = Image.open(file)
        width, height = picture.size
        is_turned = picture.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        turned = is_turned and picture.format != "TIFF"  # whose size Pillow turns itself
        return (width, height) if turned else (height, width)


def read_photograph(path: PathLike) -> Photograph:
    """Reads a picture of any common kind, turned as its EXIF orientation says.

    Grey and colour, with or without alpha, palettes, 8 and 16 bits. Colour PNGs of 16 bits are read
    with 8, which is all that Pillow offers; 16-bit colour TIFFs keep theirs.

    Raises:
        ImageError: if the file is missing, truncated or no picture.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        picture = Image.open(file)
        profile = picture.info.get("icc_profile")
        if picture.format == "TIFF" and picture.mode in ("RGB", "RGBA"):
            file.seek(0)
            pixels = _read_rgb_tiff(file)
        else:
            pixels = np.asarray(_with_plain_mode(ImageOps.exif_transpose(picture)))
        return dataclasses.replace(_photograph_from_array(pixels), icc_profile=profile)


def make_folder(path: PathLike) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        ImageError: if it can't be made.
    """
    try:
        epath.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{path}: can't be made a folder: {error.strerror or error}") from None


def write_photograph(path: PathLike, photograph: Photograph) -> None:
    """Writes a picture with correct rounding, whole or not at all, in the format of the suffix.

    Raises:
        ImageError: if it can't be written.
    """
    path = epath.Path(path)
    pixels = _stored_array(photograph)
    temporary = path.parent / f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    try:
        with temporary.open("wb") as file:
            if _is_tiff(path):
                tifffile.imwrite(file, pixels, iccprofile=photograph.icc_profile)
            else:
                Image.fromarray(pixels).save(
                    file, path.suffix[1:], icc_profile=photograph.icc_profile
                )
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ImageError(f"{path}: can't be written: {error.strerror or error}") from None


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] floats to 8 bits: clipped, then rounded to the nearest."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _is_tiff(path: PathLike) -> bool:
    return Path(path).suffix.lower() in (".tif", ".tiff")


def _read_rgb_tiff(file) -> np.ndarray:
    """The first page of a TIFF with all its bits, of which Pillow would keep 8, upright."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
        orientation = page.tags.valueof(_EXIF_ORIENTATION, 1)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _with_plain_mode(picture: Image.Image) -> Image.Image:
    """Palettes, CMYK and other stores of colour as L, LA, RGB, RGBA or I;16."""
    if picture.mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        return picture
    if picture.mode in ("I;16B", "I;16L", "I"):
        return Image.fromarray(np.clip(np.asarray(picture), 0, 65535).astype(np.uint16))
    if picture.mode == "1":
        return picture.convert("L")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _photograph_from_array(pixels: np.ndarray) -> Photograph:
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3):
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}: 8 or 16 bits only")
    bits = pixels.dtype.itemsize * 8
    values = pixels.astype(np.float32) / (2**bits - 1)
    if values.ndim == 2:
        return Photograph(values, bits=bits)
    channels = values.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{channels} channels: 1 to 4 only")
    colour = values[..., 0] if channels < 3 else values[..., :3]
    return Photograph(colour, values[..., -1] if channels in (2, 4) else None, bits)


def _stored_array(photograph: Photograph) -> np.ndarray:
    colour = photograph.colour
    if photograph.alpha is not None:
        colour = np.dstack([colour, photograph.alpha])
    limit = 2**photograph.bits - 1
    return np.round(np.clip(colour, 0.0, 1.0) * limit).astype(f"uint{photograph.bits}")


@contextlib.contextmanager
def _errors_naming(path: PathLike) -> Iterator[None]:
    """Turns whatever goes wrong with a file into an ``ImageError`` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: not a picture, or damaged at its start") from None
    except Exception as error:  # a damaged file can fail in any way
        raise ImageError(f"{path}: can't be read: {error}") from error
