"""Image files to arrays: the one reader, for photographs, pairs and benchmarks.

Pillow says what a file is. What it would read with fewer bits than the file has is decoded by other
libraries: PNG by imagecodecs, TIFF by tifffile, PPM, PGM and PFM by netpbmfile.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import IO, NamedTuple

import imagecodecs
import netpbmfile
import numpy as np
import tifffile
from etils import epath
from PIL import Image, ImageCms, UnidentifiedImageError

from deblur_jax.images.files import ImageError, StoredImage, encoded_png
from deblur_jax.runtime.files import PathLike

_EXIF_ORIENTATION = 0x0112
_DEEP_PNG = 16
FLOAT_RANGE = (-0.5, 1.5)
"""Floats beyond these are no colours of 0 to 1; a little beyond, they are clipped."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM_STARTS = (b"P2", b"P3", b"P5", b"P6", b"Pf", b"PF")
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")


class Header(NamedTuple):
    """What a file says of its image before it is decoded.

    Attributes:
        size: height and width, upright.
        orientation: 1 to 8, as EXIF and TIFF number them; 1 is as stored.
    """

    size: tuple[int, int]
    orientation: int


class _Decoded(NamedTuple):
    """(h, w) or (h, w, channels) of uint8, uint16 or float32, upright; and what goes with it."""

    pixels: np.ndarray
    icc_profile: bytes | None
    notes: tuple[str, ...]


def read_image(path: PathLike) -> StoredImage:
    """Reads an image of any common kind, rotated as its EXIF orientation says.

    Grey and colour, with or without alpha, palettes, 8 and 16 bits, and TIFF and PFM of floats in
    [0, 1]. CMYK and Lab become sRGB.

    Raises:
        ImageError: if the file is missing, truncated or no image, or its numbers can't be colours.
    """
    with _errors_naming(path):
        pixels, profile, notes = _decode(epath.Path(path).read_bytes())
        bits = pixels.dtype.itemsize * 8
        values = pixels if bits == 32 else pixels.astype(np.float32) / (2**bits - 1)
        colour, alpha = _without_alpha(values)
        return StoredImage(colour, alpha, bits, profile, notes)


def read_rgb(path: PathLike) -> np.ndarray:
    """Reads an image as (h, w, 3) uint8 or uint16, as deep as it is stored, upright.

    Alpha is left out, grey is repeated, floats are rounded to 16 bits.

    Raises:
        ImageError: as ``read_image``.
    """
    with _errors_naming(path):
        return _rgb(_decode(epath.Path(path).read_bytes()).pixels)


def read_png(path: PathLike) -> bytes:
    """Reads an image as an RGB PNG, checked to be whole; an RGB PNG file comes as it is.

    Raises:
        ImageError: as ``read_image``.
    """
    with _errors_naming(path):
        content = epath.Path(path).read_bytes()
        pixels = _rgb(_decode(content).pixels)
        with Image.open(io.BytesIO(content)) as image:
            as_stored = (image.format, image.mode, _orientation(image)) == ("PNG", "RGB", 1)
        return content if as_stored else encoded_png(pixels)


def decoded_rgb(content: bytes) -> np.ndarray:
    """The image in the bytes of a file; as ``read_rgb``.

    Raises:
        ImageError: if they are no image.
    """
    with _errors_naming("an image in a data set"):
        return _rgb(_decode(content).pixels)


def pixels_of(image: Image.Image | PathLike) -> np.ndarray:
    """A Pillow image of any mode, or an image file, as it is shown.

    Returns:
        (h, w) or (h, w, 2 to 4), the even ones with alpha; uint8, uint16 or float32.

    Raises:
        ImageError: as ``read_image``.
    """
    if not isinstance(image, Image.Image):
        with _errors_naming(image):
            return _decode(epath.Path(image).read_bytes()).pixels
    with _errors_naming(f"an image of mode {image.mode}"):
        return _decode_by_pillow(image).pixels


def read_header(path: PathLike) -> Header:
    """Reads size and orientation, from the file's header alone.

    Raises:
        ImageError: if the file is missing or no image.
    """
    with _errors_naming(path), epath.Path(path).open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start in _TIFF_STARTS:
            with tifffile.TiffFile(file) as tiff:
                page = tiff.pages.first
                orientation = int(page.tags.valueof(_EXIF_ORIENTATION, 1))
                height, width = page.imagelength, page.imagewidth
        elif start[:2] in _NETPBM_STARTS:
            with netpbmfile.NetpbmFile(file) as netpbm:
                orientation, height, width = 1, netpbm.height, netpbm.width
        else:
            image = Image.open(file)
            width, height = image.size
            is_png = image.format == "PNG"
            orientation = _orientation_of_png(file) if is_png else _orientation(image)
        turned = orientation in (5, 6, 7, 8)
        return Header((width, height) if turned else (height, width), orientation)


def _decode(content: bytes) -> _Decoded:
    if content[:4] in _TIFF_STARTS:
        return _decode_tiff(content)
    if content[:2] in _NETPBM_STARTS:
        with netpbmfile.NetpbmFile(io.BytesIO(content)) as netpbm:
            pixels, greatest = netpbm.asarray(), netpbm.maxval
        if content[1:2] in (b"f", b"F"):
            pixels = pixels[::-1]  # PFM stores the last row first
        return _Decoded(_scaled(pixels, greatest), None, ())
    with Image.open(io.BytesIO(content)) as image:
        if image.format == "PNG" and content[24] == _DEEP_PNG:
            pixels = _upright(imagecodecs.png_decode(content), _orientation(image))
            return _Decoded(pixels, image.info.get("icc_profile"), ())
        return _decode_by_pillow(image)


def _decode_by_pillow(image: Image.Image) -> _Decoded:
    count = getattr(image, "n_frames", 1)
    notes = [f"holds {count} images: the first is read"] if count > 1 else []
    profile = image.info.get("icc_profile")
    orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns a TIFF itself
    if image.mode == "F" or image.mode.startswith("I"):
        return _Decoded(_upright(_of_numbers(image), orientation), profile, tuple(notes))
    if image.mode in ("CMYK", "LAB"):
        plain, profile, note = _to_srgb(image, profile)
        notes += [note] if note else []
    elif image.mode in _PLAIN_MODES and "transparency" not in image.info:
        plain = image
    elif image.mode in ("1", "L", "LA"):
        plain = image.convert("LA" if image.has_transparency_data else "L")
    else:
        plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return _Decoded(_upright(np.asarray(plain), orientation), profile, tuple(notes))


def _of_numbers(image: Image.Image) -> np.ndarray:
    """The modes I, I;16 and F."""
    pixels = np.asarray(image)
    return _scaled(pixels.astype(np.uint16) if pixels.dtype.itemsize == 2 else pixels, 65535)


def _to_srgb(
    image: Image.Image, profile: bytes | None
) -> tuple[Image.Image, bytes | None, str | None]:
    """CMYK and Lab to sRGB, by the image's own profile if it has one that can be used."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    space, note = image.mode, None
    own = None
    if profile is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if own is None and image.mode == "LAB":
        own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    converted = None
    if own is not None:
        with contextlib.suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
    if converted is None:
        converted = image.convert("RGB")
        note = (
            f"is {space} without a profile that can be used: converted to RGB by plain arithmetic"
        )
    return converted, srgb.tobytes(), note


def _decode_tiff(content: bytes) -> _Decoded:
    """The first page, with all its bits; 8 bits and less by Pillow, where it can."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages.first
        deep = np.max(page.bitspersample) > 8
        if not deep:
            with (
                contextlib.suppress(UnidentifiedImageError),
                Image.open(io.BytesIO(content)) as image,
            ):
                image.load()
                return _decode_by_pillow(image)
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
            raise ValueError(f"a TIFF of kind {photometric} with {page.bitspersample} bits")
        pixels = _scaled(pixels, 2 ** int(np.max(page.bitspersample)) - 1)
        if photometric == "MINISWHITE":
            pixels = (1.0 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max) - pixels
        profile = page.tags.valueof(34675)
        orientation = int(page.tags.valueof(_EXIF_ORIENTATION, 1))
        count = len(tiff.pages)
        notes = (f"holds {count} images: the first is read",) if count > 1 else ()
        return _Decoded(_upright(pixels, orientation), profile, notes)


def _scaled(pixels: np.ndarray, greatest: float) -> np.ndarray:
    """Numbers from 0 to ``greatest`` as uint8, uint16, or float32 in [0, 1]."""
    if np.issubdtype(pixels.dtype, np.floating):
        values = pixels.astype(np.float32)
        least, most = FLOAT_RANGE
        if not np.isfinite(values).all():
            raise ValueError("holds numbers that are not finite")
        if values.size and not (least <= values.min() and values.max() <= most):
            raise ValueError(
                f"floats from {values.min():.6g} to {values.max():.6g}: expected 0 to 1"
            )
        return values
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)  # as Pillow writes 16 bits of its mode I
    if not np.issubdtype(pixels.dtype, np.unsignedinteger):
        raise ValueError(f"pixels are {pixels.dtype}: unsigned integers or floats only")
    if pixels.dtype in (np.uint8, np.uint16) and greatest == np.iinfo(pixels.dtype).max:
        return pixels
    limit = 255 if greatest <= 255 else 65535
    scaled = np.rint(pixels.astype(np.float64) * (limit / greatest))
    return scaled.astype(np.uint8 if limit == 255 else np.uint16)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _orientation_of_png(file: IO[bytes]) -> int:
    """By the chunk eXIf, which may come after the pixels: Pillow would decode them first."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"eXIf":
            exif = Image.Exif()
            exif.load(file.read(length))
            value = exif.get(_EXIF_ORIENTATION, 1)
            return value if value in range(1, 9) else 1
        file.seek(length + 4, io.SEEK_CUR)
    return 1


def _without_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, w) or (h, w, 3), and the alpha channel (h, w), if there is one."""
    if pixels.ndim == 2:
        return pixels, None
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(f"an array of shape {pixels.shape}: 1 to 4 channels only")
    channels = pixels.shape[-1]
    colour = pixels[..., 0] if channels < 3 else pixels[..., :3]
    return colour, pixels[..., -1] if channels in (2, 4) else None


def _rgb(pixels: np.ndarray) -> np.ndarray:
    colour, _ = _without_alpha(pixels)
    if colour.dtype == np.float32:
        colour = np.rint(np.clip(colour, 0.0, 1.0) * 65535).astype(np.uint16)
    return np.ascontiguousarray(colour if colour.ndim == 3 else np.dstack([colour] * 3))


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
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ImageError(f"{path}: can't be read: {first[0]}") from error
