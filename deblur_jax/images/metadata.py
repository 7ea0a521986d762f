"""What an image file says besides its pixels, kept for the restored image.

The pixels are turned upright when they are read, so what is kept says that they are.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from PIL import Image

ORIENTATION = 0x0112
"""The tag, of EXIF and of TIFF."""
CAMERA_IFD, GPS_IFD = 0x8769, 0x8825
"""EXIF keeps most of what it says in these tables, which its main table points to."""

_WIDTH, _HEIGHT = 0xA002, 0xA003
OF_THE_SCENE = frozenset(
    {
        *(0x010E, 0x010F, 0x0110, ORIENTATION, 0x0131, 0x0132, 0x013B, 0x013C),
        *(0x4746, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
    }
)
"""Description, make, model, software, date, artist, host, rating, copyright, and Windows' own: the
other tags of a TIFF file say how its pixels are stored."""
_ORIENTATION_IN_XMP = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>\s*))[2-8]")
_PNG_SIGNATURE_BYTES = 8
_MOST_EXIF_BYTES = 65_500
"""What a JPEG file can hold."""
_PER_INCH = {2: 1.0, 3: 2.54}
"""Units of a TIFF's resolution, inch and centimetre, by their numbers."""
_MOST_PER_INCH = 65535.0


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What goes with an upright image.

    Attributes:
        icc_profile: the colour space.
        exif: camera, date, place and more, as Pillow holds it.
        xmp: an XML packet with the like.
        resolution: pixels per inch, across and down.
    """

    icc_profile: bytes | None = None
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None


def metadata_of(image: Image.Image, file: IO[bytes] | None) -> Metadata:
    """What Pillow has read of an image, as it is right for the upright image.

    Args:
        image: opened; its pixels need not be decoded.
        file: it was opened from, or None.
    """
    turned = orientation_of(image, file) in (5, 6, 7, 8)
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return Metadata(
        image.info.get("icc_profile"),
        _upright(_exif(image, file), turned=turned, is_tiff=image.format == "TIFF"),
        None if xmp is None else _ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp),
        _resolution(image.info.get("dpi"), turned),
    )


def metadata_of_tiff(file: IO[bytes], tags: Mapping[int, Any], turned: bool) -> Metadata:
    """As ``metadata_of``, for a TIFF that Pillow does not open.

    Args:
        file: the file.
        tags: of its first page: values by number.
        turned: whether height and width change places.
    """
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # as of BigTIFF, which EXIF has not
        file.seek(0)
        exif.load_from_fp(file)
    xmp, unit = tags.get(700), _PER_INCH.get(tags.get(296, 2))
    resolution = None
    with contextlib.suppress(Exception):  # a damaged one can fail in any way
        resolution = [over / under * unit for over, under in (tags[282], tags[283])]
    return Metadata(
        tags.get(34675),
        _upright(exif, turned=turned, is_tiff=True),
        None if xmp is None else _ORIENTATION_IN_XMP.sub(rb"\g<1>1", bytes(xmp)),
        _resolution(resolution, turned),
    )


def _resolution(found: Any, turned: bool) -> tuple[float, float] | None:
    """Across and down, where both are numbers that a file can hold."""
    try:
        across, down = (float(value) for value in found)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (0 < across < _MOST_PER_INCH and 0 < down < _MOST_PER_INCH):
        return None
    return (down, across) if turned else (across, down)


def orientation_of(image: Image.Image, file: IO[bytes] | None) -> int:
    """How the stored pixels are to be turned, 1 to 8; 1 is not at all.

    Args:
        image: opened.
        file: it was opened from, or None.
    """
    value = _exif(image, file).get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _exif(image: Image.Image, file: IO[bytes] | None) -> Image.Exif:
    """PNG's may come after the pixels, where Pillow finds it only by decoding them."""
    if image.format == "PNG" and file is not None:
        for kind, content in _png_chunks(file, {b"eXIf"}):
            exif = Image.Exif()
            if kind == b"eXIf":
                with contextlib.suppress(Exception):  # a damaged one can fail in any way
                    exif.load(content)
                return exif
    if image.format == "PNG" and "exif" not in image.info and not _has_raw_profile(image):
        return Image.Exif()  # getexif would decode the image
    with contextlib.suppress(Exception):
        return image.getexif()
    return Image.Exif()


def _has_raw_profile(image: Image.Image) -> bool:
    return any(str(key).startswith("Raw profile type") for key in image.info)


def _png_chunks(file: IO[bytes], kinds: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of these kinds, without decoding the image; leaves the file where it was."""
    before = file.tell()
    file.seek(_PNG_SIGNATURE_BYTES)
    try:
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in kinds:
                yield kind, file.read(length)
                file.seek(4, 1)
            else:
                file.seek(length + 4, 1)
    finally:
        file.seek(before)


def _upright(exif: Image.Exif, *, turned: bool, is_tiff: bool) -> Image.Exif | None:
    """A copy that says the image is upright, without the thumbnail, which is blurred.

    What can't be written again, as it is damaged, is left out.
    """
    kept = Image.Exif()
    tables: dict[int, dict[int, Any]] = {}
    with contextlib.suppress(Exception):  # a damaged one can fail in any way
        for tag, value in exif.items():
            if tag not in (CAMERA_IFD, GPS_IFD) and (tag in OF_THE_SCENE or not is_tiff):
                kept[tag] = value
        for number in (CAMERA_IFD, GPS_IFD):
            if table := exif.get_ifd(number):
                tables[number] = kept.get_ifd(number)
                tables[number].update(table)
    if ORIENTATION in kept:
        kept[ORIENTATION] = 1
    camera = tables.get(CAMERA_IFD, {})
    if turned and _WIDTH in camera and _HEIGHT in camera:
        camera[_WIDTH], camera[_HEIGHT] = camera[_HEIGHT], camera[_WIDTH]
    _keep_what_can_be_written(kept, [kept, *tables.values()])
    return kept if len(kept) or any(tables.values()) else None


def _keep_what_can_be_written(exif: Image.Exif, tables: list[Any]) -> None:
    if _can_be_written(exif):
        return
    entries = [(table, tag, table[tag]) for table in tables for tag in list(table)]
    for table, tag, _ in entries:
        del table[tag]
    for table, tag, value in entries:
        table[tag] = value
        if not _can_be_written(exif):
            del table[tag]


def _can_be_written(exif: Image.Exif) -> bool:
    try:
        return len(exif.tobytes()) < _MOST_EXIF_BYTES
    except Exception:  # a damaged one can fail in any way
        return False
