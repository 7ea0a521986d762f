"""Arrays to image files, whole or not at all, with what goes with the pixels."""

import io
import zlib
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deblur_jax.images.files import ImageError, StoredImage, as_8_bits, to_uint8, to_uint16
from deblur_jax.images.metadata import CAMERA_IFD, GPS_IFD, OF_THE_SCENE, Metadata
from deblur_jax.runtime.files import PathLike, whole_file

FORMATS = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
"""What can be written: the suffix by the format."""
LOSSLESS = (".png", ".tif", ".tiff")
QUALITY = 95
"""Of the formats that lose something, 1 to 100."""

_OF_PILLOW = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".mpo"), "JPEG"),
    ".webp": "WEBP",
    ".avif": "AVIF",
}
WRITTEN_SUFFIXES = (*LOSSLESS, *_OF_PILLOW)
"""What a file to write can be named."""

_END_OF_IHDR = 33
"""Of a PNG file: 8 bytes of signature, and the first chunk, which has 25."""
_INCHES_PER_METRE = 39.37007874
_MOST_XMP_BYTES = 65_500
"""What a JPEG file can hold."""
_EXIF_START = b"Exif\0\0"
_LARGEST_OFFSET = 2**32
"""EXIF within a TIFF has offsets of 32 bits."""


def write_image(path: PathLike, image: StoredImage, *, quality: int = QUALITY) -> None:
    """Writes an image, whole or not at all, in the format of the suffix.

    PNG and TIFF keep everything, but for floats, which PNG rounds to 16 bits. JPEG, WebP and AVIF
    have 8 bits, and JPEG has no alpha.

    Args:
        path: local or remote; its suffix is one of ``WRITTEN_SUFFIXES``.
        image: to write.
        quality: 1 to 100, of JPEG, WebP and AVIF.

    Raises:
        ImageError: if it can't be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise ImageError(f"{path}: can't be written: a suffix of {', '.join(WRITTEN_SUFFIXES)}")
    try:
        with whole_file(path) as file:
            if suffix in (".tif", ".tiff"):
                _write_tiff(file, image.pixels, image.metadata)
            elif suffix == ".png":
                _write_png(file, _integers(image.pixels), image.metadata)
            else:
                _write_with_loss(file, image, _OF_PILLOW[suffix], quality)
    except Exception as error:  # a library can refuse an image in any way
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: can't be written: {reason}") from None


def encoded_png(pixels: np.ndarray) -> bytes:
    """An image as the bytes of a PNG file.

    Args:
        pixels: (h, w) or (h, w, 2 to 4) uint8 or uint16.
    """
    stream = io.BytesIO()
    _write_png(stream, pixels, Metadata())
    return stream.getvalue()


def _integers(pixels: np.ndarray) -> np.ndarray:
    return to_uint16(pixels) if pixels.dtype == np.float32 else pixels


def _write_png(file: IO[bytes], pixels: np.ndarray, metadata: Metadata) -> None:
    stream: Any = _AfterFirstChunk(file, _png_chunks(metadata))
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:  # which Pillow can't write
        stream.write(imagecodecs.png_encode(pixels))
    else:
        Image.fromarray(pixels).save(stream, "png")


class _AfterFirstChunk(io.RawIOBase):
    """Passes a PNG file on, with more chunks after its first one."""

    def __init__(self, file: IO[bytes], chunks: bytes) -> None:
        self._file, self._chunks, self._left = file, chunks, _END_OF_IHDR

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        content = memoryview(content)
        before, after = content[: self._left], content[self._left :]
        self._file.write(before)
        if self._left and len(before) == self._left:
            self._file.write(self._chunks)
        self._file.write(after)
        self._left -= len(before)
        return len(content)


def _png_chunks(metadata: Metadata) -> bytes:
    """The chunks of PNG's specification (11.3) that hold these, to come after the first one."""
    chunks = b""
    if metadata.icc_profile is not None:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.resolution is not None:
        per_metre = (round(value * _INCHES_PER_METRE) for value in metadata.resolution)
        chunks += _chunk(b"pHYs", b"".join(n.to_bytes(4, "big") for n in per_metre) + b"\1")
    if metadata.exif is not None:
        chunks += _chunk(b"eXIf", metadata.exif.tobytes().removeprefix(_EXIF_START))
    if metadata.xmp is not None:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    return chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


def _write_with_loss(file: IO[bytes], image: StoredImage, form: str, quality: int) -> None:
    pixels = image.pixels
    pixels = to_uint8(pixels) if pixels.dtype == np.float32 else as_8_bits(pixels)
    if form == "JPEG" and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    metadata = image.metadata
    options: dict[str, Any] = {"quality": quality}
    if metadata.icc_profile is not None:
        options["icc_profile"] = metadata.icc_profile
    if metadata.exif is not None:
        options["exif"] = metadata.exif.tobytes()
    if metadata.xmp is not None and (form != "JPEG" or len(metadata.xmp) < _MOST_XMP_BYTES):
        options["xmp"] = metadata.xmp
    if metadata.resolution is not None and form == "JPEG":
        options["dpi"] = metadata.resolution
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, form, **options)


def _write_tiff(file: IO[bytes], pixels: np.ndarray, metadata: Metadata) -> None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    tables = _tables(metadata, pixels.nbytes)
    # The library takes every tag but these: their entries get the number before, and theirs later.
    tags = [*_tags(metadata), *((number - 1, "I", 1, 0, True) for number in tables)]
    tifffile.imwrite(
        file,
        pixels,
        byteorder="<",
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if pixels.ndim == 3 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=metadata.icc_profile,
        resolution=metadata.resolution,
        resolutionunit=None if metadata.resolution is None else "INCH",
        software=False,
        metadata=None,
        extratags=tags,
    )
    for number, table in tables.items():
        _append_table(file, number, table)


def _tags(metadata: Metadata) -> list[tuple[int, str, int, Any, bool]]:
    """The tags of EXIF's main table, as TIFF's own; and the XMP packet."""
    tags: list[tuple[int, str, int, Any, bool]] = []
    for number, value in (metadata.exif or {}).items():
        if number not in OF_THE_SCENE:
            continue  # how the pixels of another file are stored
        if isinstance(value, str):
            text = value.encode("utf-8", "replace") + b"\0"
            tags.append((number, "s", len(text), text, True))
        elif isinstance(value, bytes):
            tags.append((number, "B", len(value), value, True))
        elif isinstance(value, int) and 0 <= value < 2**16:
            tags.append((number, "H", 1, value, True))
    if metadata.xmp is not None:
        tags.append((700, "B", len(metadata.xmp), metadata.xmp, True))
    return tags


def _tables(metadata: Metadata, num_bytes: int) -> dict[int, dict[int, Any]]:
    """EXIF's further tables, where their offsets are sure to fit."""
    if metadata.exif is None or num_bytes > _LARGEST_OFFSET // 2:
        return {}
    tables = {number: metadata.exif.get_ifd(number) for number in (CAMERA_IFD, GPS_IFD)}
    return {number: table for number, table in tables.items() if table}


def _append_table(file: IO[bytes], number: int, table: dict[int, Any]) -> None:
    """Writes one at the end, and its number and place into the entry that was left for it."""
    entry = _entry_of(file, number - 1)
    entries = ImageFileDirectory_v2(b"II*\0\0\0\0\0", group=number)
    for tag, value in table.items():
        entries[tag] = value
    end = file.seek(0, io.SEEK_END)
    file.write(b"\0" * (end % 2))  # tables begin at even places
    start = file.tell()
    file.write(entries.tobytes(start))
    file.seek(entry)
    file.write(number.to_bytes(2, "little"))
    file.seek(entry + 8)
    file.write(start.to_bytes(4, "little"))
    file.seek(0, io.SEEK_END)


def _entry_of(file: IO[bytes], number: int) -> int:
    """Where the first table of a TIFF (6.0, section 2) has a tag: number, type, count, value."""
    file.seek(4)
    table = int.from_bytes(file.read(4), "little")
    file.seek(table)
    count = int.from_bytes(file.read(2), "little")
    tags = [int.from_bytes(file.read(12)[:2], "little") for _ in range(count)]
    return table + 2 + 12 * tags.index(number)
