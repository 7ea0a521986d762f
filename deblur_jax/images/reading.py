"""Image files to arrays: the one reader, for photographs, pairs and benchmarks.

Pillow says what a file is. What it would read with fewer bits than the file has is decoded by other
libraries: PNG and AVIF by imagecodecs, TIFF by tifffile, PPM, PGM and PFM by netpbmfile. HEIC is
read by pillow-heif, where that is installed.
"""

import contextlib
import dataclasses
import io
import mmap
import threading
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, NamedTuple, cast

import imagecodecs
import netpbmfile
import numpy as np
import tifffile
from etils import epath
from PIL import Image, ImageCms, UnidentifiedImageError

from deblur_jax.images.files import MAX_PIXELS, ImageError, StoredImage, to_uint16
from deblur_jax.images.metadata import (
    ORIENTATION,
    metadata_of,
    metadata_of_tiff,
    orientation_of,
)
from deblur_jax.images.writing import encoded_png
from deblur_jax.runtime.files import PathLike

_START_BYTES = 26
"""Of a file, which say how to read it; the number of bits of a PNG is the last but one."""
_DEEP_PNG = 16
FLOAT_RANGE = (-0.5, 1.5)
"""Floats beyond these are no colours of 0 to 1; a little beyond, they are clipped."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM_STARTS = (b"P2", b"P3", b"P5", b"P6", b"Pf", b"PF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA")


class Header(NamedTuple):
    """What a file says of its image before it is decoded.

    Attributes:
        size: height and width, upright.
        orientation: 1 to 8, as EXIF and TIFF number them; 1 is as stored.
    """

    size: tuple[int, int]
    orientation: int


def read_image(path: PathLike, *, max_pixels: int = MAX_PIXELS) -> StoredImage:
    """Reads an image of any common kind, turned as its EXIF orientation says.

    Grey and colour, with or without alpha, palettes, 8 and 16 bits, and TIFF and PFM of floats in
    [0, 1]. CMYK and Lab become sRGB.

    Args:
        path: local or remote.
        max_pixels: more are an error, before anything is decoded.

    Raises:
        ImageError: if the file is missing, truncated or no image, its numbers can't be colours, or
            it is too large.
    """
    with _opened(path, max_pixels) as file:
        return _decode(file)


def read_rgb(path: PathLike) -> np.ndarray:
    """Reads an image as (h, w, 3) uint8 or uint16, as deep as it is stored, upright.

    Alpha is left out, grey is repeated, floats are rounded to 16 bits.

    Raises:
        ImageError: as ``read_image``.
    """
    with _opened(path) as file:
        return _rgb(_decode(file).pixels)


def read_png(path: PathLike) -> bytes:
    """Reads an image as an RGB PNG, checked to be whole; an RGB PNG file comes as it is.

    Raises:
        ImageError: as ``read_image``.
    """
    with _opened(path) as file:
        pixels = _rgb(_decode(file).pixels)
        file.seek(0)
        with Image.open(file) as image:
            as_stored = (image.format, image.mode, orientation_of(image, file))
        if as_stored != ("PNG", "RGB", 1):
            return encoded_png(pixels)
        file.seek(0)
        return file.read()


def decoded_rgb(content: bytes) -> np.ndarray:
    """The image in the bytes of a file; as ``read_rgb``.

    Raises:
        ImageError: if they are no image.
    """
    with _errors_naming("an image in a data set"):
        return _rgb(_decode(io.BytesIO(content)).pixels)


def pixels_of(image: Image.Image | PathLike) -> np.ndarray:
    """A Pillow image of any mode, or an image file, as it is shown.

    Returns:
        (h, w) or (h, w, 2 to 4), the even ones with alpha; uint8, uint16 or float32.

    Raises:
        ImageError: as ``read_image``.
    """
    if not isinstance(image, Image.Image):
        return read_image(image).pixels
    with _errors_naming(f"an image of mode {image.mode}"):
        return _decode_by_pillow(image, None).pixels


def read_header(path: PathLike) -> Header:
    """Reads size and orientation, from the file's header alone.

    Raises:
        ImageError: if the file is missing or no image.
    """
    with _errors_naming(path), _pillow_takes_any_size(), epath.Path(path).open("rb") as file:
        return _header(file)


def _header(file: IO[bytes]) -> Header:
    start = file.read(_START_BYTES)
    file.seek(0)
    if start[:4] in _TIFF_STARTS:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            orientation = int(page.tags.valueof(ORIENTATION, 1))
            height, width = page.imagelength, page.imagewidth
    elif start[:2] in _NETPBM_STARTS:
        with netpbmfile.NetpbmFile(cast(BinaryIO, file)) as netpbm:
            orientation, height, width = 1, netpbm.height, netpbm.width
    elif _is_heif(start):
        orientation, (width, height) = 1, _open_heif(file).size
    else:
        image = Image.open(file)
        width, height = image.size
        orientation = orientation_of(image, file)
    file.seek(0)
    turned = orientation in (5, 6, 7, 8)
    return Header((width, height) if turned else (height, width), orientation)


def _decode(file: IO[bytes]) -> StoredImage:
    start = file.read(_START_BYTES)
    file.seek(0)
    if start[:4] in _TIFF_STARTS:
        return _decode_tiff(file)
    if start[:2] in _NETPBM_STARTS:
        with netpbmfile.NetpbmFile(cast(BinaryIO, file)) as netpbm:
            pixels, greatest = netpbm.asarray(), netpbm.maxval
        if start[1:2] in (b"f", b"F"):
            pixels = pixels[::-1]  # PFM stores the last row first
        return StoredImage(_one_to_four(_scaled(pixels, greatest)))
    if _is_heif(start):
        return _decode_heif(file)
    with Image.open(file) as image:
        deep = _decode_deep(file, image, start)
        if deep is None:
            return _decode_by_pillow(image, file)
        pixels = _upright(_one_to_four(deep), orientation_of(image, file))
        return StoredImage(pixels, metadata_of(image, file))


def _decode_deep(file: IO[bytes], image: Image.Image, start: bytes) -> np.ndarray | None:
    """PNG and AVIF of more than 8 bits, as stored; None for others."""
    if image.format == "PNG" and start[24] == _DEEP_PNG:
        return imagecodecs.png_decode(_content(file))
    if image.format == "AVIF":
        content = _content(file)
        flags = content[content.find(b"av1C") + 6]  # AV1 in ISOBMFF, section 2.3.3
        if flags & 0x40:
            return _scaled(imagecodecs.avif_decode(content), 4095 if flags & 0x20 else 1023)
    return None


def _content(file: IO[bytes]) -> Any:
    """All bytes of a file; those of a local one are not copied."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        file.seek(0)
        return file.read()


def _decode_by_pillow(image: Image.Image, file: IO[bytes] | None) -> StoredImage:
    count = getattr(image, "n_frames", 1)
    notes = [f"holds {count} images: the first is read"] if count > 1 else []
    is_tiff = image.format == "TIFF"
    orientation = 1 if is_tiff else orientation_of(image, file)  # Pillow turns a TIFF itself
    metadata = metadata_of(image, file)
    if image.mode == "F" or image.mode.startswith("I"):
        return StoredImage(_upright(_of_numbers(image), orientation), metadata, tuple(notes))
    if image.mode in ("CMYK", "LAB"):
        plain, profile, note = _to_srgb(image, metadata.icc_profile)
        metadata = dataclasses.replace(metadata, icc_profile=profile)
        notes += [note] if note else []
    elif image.mode in _PLAIN_MODES and "transparency" not in image.info:
        plain = image
    elif image.mode in ("1", "L", "LA"):
        plain = image.convert("LA" if image.has_transparency_data else "L")
    else:
        plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return StoredImage(_upright(np.asarray(plain), orientation), metadata, tuple(notes))


def _is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _open_heif(file: IO[bytes]) -> Any:
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("HEIC needs the package pillow-heif: pip install pillow-heif") from None
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False)


def _decode_heif(file: IO[bytes]) -> StoredImage:
    """HEIC of 8 to 12 bits; the library turns it upright, and says so in its EXIF."""
    images = _open_heif(file)
    holder = Image.new("L", (1, 1))
    holder.info = dict(images.info)
    notes = (f"holds {len(images)} images: the first is read",) if len(images) > 1 else ()
    return StoredImage(np.asarray(images), metadata_of(holder, None), notes)


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


def _decode_tiff(file: IO[bytes]) -> StoredImage:
    """The first page, with all its bits; 8 bits and less by Pillow, where it can."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        deep = np.max(page.bitspersample) > 8
        # Pillow 12 takes these for truncated, its own ones too.
        plain_ycbcr = (
            page.photometric == tifffile.PHOTOMETRIC.YCBCR
            and page.compression == tifffile.COMPRESSION.NONE
            and page.subsampling == (1, 1)
        )
        if not deep and not plain_ycbcr:
            file.seek(0)
            with contextlib.suppress(UnidentifiedImageError), Image.open(file) as image:
                metadata = metadata_of(image, file)
                image.load()
                decoded = _decode_by_pillow(image, None)
                profile = decoded.metadata.icc_profile  # another after a change of colour space
                return dataclasses.replace(
                    decoded, metadata=dataclasses.replace(metadata, icc_profile=profile)
                )
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        if plain_ycbcr:
            pixels = np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))
        photometric = "RGB" if plain_ycbcr else tifffile.PHOTOMETRIC(page.photometric).name
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
            raise ValueError(f"a TIFF of kind {photometric} with {page.bitspersample} bits")
        pixels = _scaled(pixels, 2 ** int(np.max(page.bitspersample)) - 1)
        if photometric == "MINISWHITE":
            pixels = (1.0 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max) - pixels
        orientation = int(page.tags.valueof(ORIENTATION, 1))
        count = len(tiff.pages)
        notes = (f"holds {count} images: the first is read",) if count > 1 else ()
        tags = {tag.code: tag.value for tag in page.tags}
        metadata = metadata_of_tiff(file, tags, turned=orientation in (5, 6, 7, 8))
        return StoredImage(_upright(_one_to_four(pixels), orientation), metadata, notes)


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


def _one_to_four(pixels: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, 2 to 4)."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        return pixels[..., 0]
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (2, 3, 4)):
        return pixels
    raise ValueError(f"an array of shape {pixels.shape}: 1 to 4 channels only")


def _rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[-1] == 2 else pixels[..., :3]
    if pixels.dtype == np.float32:
        pixels = to_uint16(pixels)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.dstack([pixels] * 3))


@contextlib.contextmanager
def _opened(path: PathLike, max_pixels: int = MAX_PIXELS) -> Iterator[IO[bytes]]:
    """A file of an image that is not too large, at its start."""
    target = epath.Path(path)
    with (
        _errors_naming(path),
        _pillow_takes_any_size(),
        target.open("rb") if "://" not in str(path) else io.BytesIO(target.read_bytes()) as file,
    ):
        height, width = _header(file).size
        if height * width > max_pixels:
            raise ValueError(
                f"it has {height * width / 1e6:,.0f} megapixels, more than {max_pixels / 1e6:,.0f}:"
                f" if that is right, give --max_megapixels {-(-height * width // 10**6)}"
            )
        yield file


class _PillowsLimit:
    """How many readers are at work, and Pillow's own limit, which they put away."""

    lock = threading.Lock()
    readers = 0
    limit: int | None = None


@contextlib.contextmanager
def _pillow_takes_any_size() -> Iterator[None]:
    """Within the context, Pillow neither warns of a large image nor refuses it."""
    with _PillowsLimit.lock:
        if _PillowsLimit.readers == 0:
            _PillowsLimit.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PillowsLimit.readers += 1
    try:
        yield
    finally:
        with _PillowsLimit.lock:
            _PillowsLimit.readers -= 1
            if _PillowsLimit.readers == 0:
                Image.MAX_IMAGE_PIXELS = _PillowsLimit.limit


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
