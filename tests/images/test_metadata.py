"""What goes with the pixels comes through, from every kind of file into every other."""

import itertools

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from deblur_jax.images.files import StoredImage
from deblur_jax.images.metadata import CAMERA_IFD, GPS_IFD, ORIENTATION, Metadata
from deblur_jax.images.reading import read_image
from deblur_jax.images.writing import FORMATS, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta><rdf tiff:Orientation="6" xmp:Rating="4"/></x:xmpmeta>'
MAKE, EXPOSURE, WIDTH, HEIGHT, NORTH = 0x010F, 0x829A, 0xA002, 0xA003, 1
SUFFIXES = [".jpg", ".png", ".tif", ".webp", ".avif"]
KEEPS_RESOLUTION = (".jpg", ".png", ".tif")


def exif():
    made = Image.Exif()
    made[MAKE], made[ORIENTATION] = "Maker", 6
    made.get_ifd(CAMERA_IFD).update(
        {EXPOSURE: IFDRational(1, 60), WIDTH: 48, HEIGHT: 32, 0x927C: b"maker's note"}
    )
    made.get_ifd(GPS_IFD).update({NORTH: "N", 2: (IFDRational(37), IFDRational(58), 0)})
    return made


def write_turned(file):
    """By Pillow and tifffile, 48x32 as stored."""
    pixels = np.full((32, 48, 3), 128, np.uint8)
    if file.suffix == ".tif":  # our own, since neither library writes all of it
        metadata = Metadata(SRGB, exif(), XMP, (300, 150))
        write_image(file, StoredImage(pixels.astype(np.uint16) * 257, metadata))
        with tifffile.TiffFile(file, mode="r+") as tiff:
            assert tiff.pages[0].tags[ORIENTATION].value == 6
        return
    image = Image.fromarray(pixels)
    options = {"exif": exif().tobytes(), "icc_profile": SRGB, "dpi": (300, 150)}
    if file.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        image.save(file, pnginfo=texts, **options)
    else:
        image.save(file, quality=95, xmp=XMP, **options)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(SUFFIXES, FORMATS.values())))
def test_metadata_come_through(source, target, tmp_path):
    first, second = tmp_path / f"first{source}", tmp_path / f"second{target}"
    write_turned(first)
    image = read_image(first)
    assert image.pixels.shape[:2] == (48, 32)
    write_image(second, image)
    with Image.open(second) as written:
        written.load()
        found, info = written.getexif(), written.info
        camera, place = found.get_ifd(CAMERA_IFD), found.get_ifd(GPS_IFD)
    assert written.size == (32, 48)
    assert found[MAKE].rstrip("\0") == "Maker"
    assert found[ORIENTATION] == 1
    assert float(camera[EXPOSURE]) == pytest.approx(1 / 60)
    assert (camera[WIDTH], camera[HEIGHT]) == (32, 48)
    assert camera[0x927C] == b"maker's note"
    assert place[NORTH] == "N"
    assert info["icc_profile"] == SRGB
    again = read_image(second)
    assert again.metadata.xmp == XMP.replace(b'"6"', b'"1"')
    if source in KEEPS_RESOLUTION and target in KEEPS_RESOLUTION:
        assert again.metadata.resolution == pytest.approx((150, 300), rel=1e-3)


def test_what_a_tiff_says_of_its_storage_stays_there(tmp_path):
    first, second = tmp_path / "first.tif", tmp_path / "second.png"
    tifffile.imwrite(
        first, np.zeros((32, 48, 3), np.uint8), photometric="rgb", metadata=None, software=False
    )
    write_image(second, read_image(first))
    with Image.open(second) as image:
        assert dict(image.getexif()) == {}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_damaged_exif_does_not_cost_the_image(suffix, tmp_path):
    first, second = tmp_path / f"first{suffix}", tmp_path / "second.png"
    damaged = exif().tobytes()[:40] + b"\xff" * 60
    Image.new("RGB", (24, 20)).save(first, exif=damaged)
    write_image(second, read_image(first))
    assert read_image(second).pixels.size == 20 * 24 * 3


def test_an_exif_chunk_after_the_pixels_counts(tmp_path):
    """As some tools write it."""
    file = tmp_path / "image.png"
    Image.new("RGB", (48, 32)).save(file, exif=exif())
    content = file.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, rest = content[start:end], content[:start] + content[end:]
    file.write_bytes(rest[:-12] + chunk + rest[-12:])
    image = read_image(file)
    assert image.pixels.shape[:2] == (48, 32)
    assert image.metadata.exif[MAKE] == "Maker"
