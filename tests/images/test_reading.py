"""Every kind of file, against the values that were stored, made by other libraries or by hand."""

import io
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from deblur_jax.data.folder import FolderPairs
from deblur_jax.data.layouts import PairError
from deblur_jax.images.files import ImageError, StoredImage, as_8_bits
from deblur_jax.images.metadata import Metadata
from deblur_jax.images.reading import decoded_rgb, read_header, read_image, read_png, read_rgb
from deblur_jax.images.writing import write_image

SIZE = (20, 24)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def ramp(channels=3, dtype=np.uint16):
    """Smooth, so that JPEG keeps it; every byte of a value counts."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    planes = [(rows * (3 + c) + columns * (5 - c)) / 250 for c in range(channels)]
    values = np.dstack(planes) if channels > 1 else planes[0]
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    return np.round(values * np.iinfo(dtype).max).astype(dtype)


def expected(values):
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    return (values / np.iinfo(values.dtype).max).astype(np.float32)


def values_of(image):
    return expected(image.pixels)


TIFFS = {
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "tiled": {"tile": (16, 16), "compression": "lzw"},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "planar": {"planarconfig": "separate"},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colour_tiffs(kind, dtype, tmp_path):
    file, values = tmp_path / "image.tif", ramp(dtype=dtype)
    stored = np.moveaxis(values, -1, 0) if kind == "planar" else values
    options = dict(TIFFS[kind])
    if dtype == np.float32:
        options.pop("predictor", None)
    tifffile.imwrite(file, stored, photometric="rgb", **options)
    image = read_image(file)
    np.testing.assert_allclose(values_of(image), expected(values), atol=1e-7)
    assert image.pixels.dtype == dtype
    assert read_header(file).size == SIZE


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f2", "f4", "f8"])
def test_grey_tiffs(dtype, tmp_path):
    file, values = tmp_path / "image.tif", ramp(1, dtype)
    tifffile.imwrite(file, values)
    image = read_image(file)
    np.testing.assert_allclose(values_of(image), expected(values), atol=1e-5)
    tifffile.imwrite(file, values, photometric="miniswhite")
    np.testing.assert_allclose(values_of(read_image(file)), 1 - expected(values), atol=1e-5)


def test_twelve_bits_fill_the_range(tmp_path):
    file = tmp_path / "image.pgm"
    values = (ramp(1) >> 4).astype(np.uint16)
    header = f"P5\n{SIZE[1]} {SIZE[0]}\n4095\n"
    file.write_bytes(header.encode() + values.astype(">u2").tobytes())
    np.testing.assert_allclose(values_of(read_image(file)), values / 4095, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bits(channels, tmp_path):
    values = ramp(channels)
    tif, png = tmp_path / "a.tif", tmp_path / "a.png"
    photometric = "rgb" if channels == 4 else "minisblack"
    tifffile.imwrite(tif, values, photometric=photometric, extrasamples=["unassalpha"])
    png.write_bytes(imagecodecs.png_encode(values))
    for file in (tif, png):
        image = read_image(file)
        np.testing.assert_array_equal(image.pixels, values)


@pytest.mark.parametrize("kind", ["ppm", "pgm", "pfm", "colour pfm"])
def test_netpbm(kind, tmp_path):
    file = tmp_path / f"image.{kind[-3:]}"
    height, width = SIZE
    if "pfm" in kind:
        values = ramp(3 if "colour" in kind else 1, np.float32)
        header = f"{'PF' if 'colour' in kind else 'Pf'}\n{width} {height}\n-1.0\n"
        file.write_bytes(header.encode() + values[::-1].astype("<f4").tobytes())
    else:
        values = ramp(3 if kind == "ppm" else 1)
        header = f"{'P6' if kind == 'ppm' else 'P5'}\n{width} {height}\n65535\n"
        file.write_bytes(header.encode() + values.astype(">u2").tobytes())
    np.testing.assert_allclose(values_of(read_image(file)), expected(values), atol=1e-6)
    assert read_header(file).size == SIZE


@pytest.mark.parametrize("suffix", ["jpg", "jfif", "webp", "avif", "bmp", "gif"])
def test_eight_bits(suffix, tmp_path):
    file, values = tmp_path / f"image.{suffix}", ramp(dtype=np.uint8)
    form = {"jfif": "jpeg", "jpg": "jpeg"}.get(suffix, suffix)
    Image.fromarray(values).save(file, form, quality=95)
    tolerance = 0.12 if suffix == "gif" else 0.04
    np.testing.assert_allclose(values_of(read_image(file)), expected(values), atol=tolerance)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_single_transparent_colour_becomes_alpha(depth, tmp_path):
    values = ramp(dtype=np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(values).save(file, transparency=tuple(int(v) for v in values[3, 4]))
    if depth == 16:
        alpha = np.where((values == values[3, 4]).all(-1), 0, 65535)
        rgba = np.dstack([values.astype(np.uint16) * 257, alpha]).astype(np.uint16)
        file.write_bytes(imagecodecs.png_encode(rgba))
    alpha = values_of(read_image(file))[..., 3]
    assert alpha[3, 4] == 0
    assert np.mean(alpha) > 0.9


@pytest.mark.parametrize("depth", [8, 10])
def test_heic(depth, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    file, values = tmp_path / "image.heic", ramp(dtype=np.uint8 if depth == 8 else np.uint16)
    mode = "RGB" if depth == 8 else "RGB;16"
    size = SIZE[::-1]
    pillow_heif.encode(mode, size, values.tobytes(), file, quality=95, bit_depth=depth)
    image = read_image(file)
    assert image.pixels.dtype == values.dtype
    np.testing.assert_allclose(values_of(image), expected(values), atol=0.05)
    assert read_header(file).size == SIZE


def test_heic_without_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match="pip install pillow-heif"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("depth", [10, 12])
def test_avif_of_more_than_8_bits(depth, tmp_path):
    file, values = tmp_path / "image.avif", ramp() >> (16 - depth)
    file.write_bytes(imagecodecs.avif_encode(values, level=100, bitspersample=depth))
    image = read_image(file)
    assert image.pixels.dtype == np.uint16
    np.testing.assert_allclose(values_of(image), values / (2**depth - 1), atol=1e-4)


def test_cmyk_and_lab_become_srgb_and_say_so(tmp_path):
    values = ramp(dtype=np.uint8)
    cmyk, lab = tmp_path / "cmyk.jpg", tmp_path / "lab.tif"
    Image.fromarray(values).convert("CMYK").save(cmyk, quality=95)
    to_lab = ImageCms.profileToProfile(
        Image.fromarray(values),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    to_lab.save(lab)
    for file, notes in ((cmyk, 1), (lab, 0)):
        image = read_image(file)
        np.testing.assert_allclose(values_of(image), expected(values), atol=0.06)
        assert image.metadata.icc_profile[16:20] == b"RGB "
        assert len(image.notes) == notes


def test_further_pages_and_frames_are_said(tmp_path):
    first, *others = (Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue"))
    for name in ("pages.tif", "frames.gif"):
        first.save(tmp_path / name, save_all=True, append_images=others)
        assert read_image(tmp_path / name).notes == ("holds 3 images: the first is read",)


def test_floats_that_are_no_colours_are_refused(tmp_path):
    file = tmp_path / "image.tif"
    for factor, message in ((255, "floats from 0 to 175"), (np.nan, "not finite")):
        tifffile.imwrite(file, ramp(1, np.float32) * np.float32(factor))
        with pytest.raises(ImageError, match=message):
            read_image(file)


def test_a_16_bit_png_keeps_its_profile(tmp_path):
    file = tmp_path / "image.png"
    write_image(file, StoredImage(ramp(), Metadata(icc_profile=SRGB)))
    assert read_image(file).metadata.icc_profile == SRGB
    np.testing.assert_array_equal(imagecodecs.png_decode(file.read_bytes()), ramp())
    with Image.open(file) as image:
        assert image.info["icc_profile"] == SRGB


def test_floats_are_written_as_floats_or_16_bits(tmp_path):
    image = StoredImage(ramp(3, np.float32))
    for name, dtype in (("image.tif", np.float32), ("image.png", np.uint16)):
        write_image(tmp_path / name, image)
        np.testing.assert_allclose(values_of(read_image(tmp_path / name)), image.pixels, atol=1e-5)
        assert read_image(tmp_path / name).pixels.dtype == dtype


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pairs_keep_16_bits_and_the_orientation(suffix, tmp_path):
    values = ramp(1)
    for kind, factor in (("blur", 0.7), ("sharp", 1.0)):
        (tmp_path / kind).mkdir()
        Image.fromarray((values * factor).astype(np.uint16)).save(tmp_path / kind / f"1.{suffix}")
    pair = FolderPairs(tmp_path)[0]
    assert pair["sharp"].dtype == np.uint16
    np.testing.assert_array_equal(pair["sharp"], np.dstack([values] * 3))
    np.testing.assert_array_equal(
        decoded_rgb(read_png(tmp_path / f"sharp/1.{suffix}")), pair["sharp"]
    )
    assert as_8_bits(pair["sharp"]).max() == round(values.max() / 257)


def test_a_pair_of_two_orientations_is_an_error(tmp_path):
    for kind, orientation in (("blur", 1), ("sharp", 3)):
        (tmp_path / kind).mkdir()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(ramp(dtype=np.uint8)).save(tmp_path / kind / "1.png", exif=exif)
    with pytest.raises(PairError, match=r"1\.png: has the EXIF orientation 1, but .* has 3"):
        FolderPairs(tmp_path)


def test_pairs_are_turned_as_their_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
        Image.fromarray(ramp(dtype=np.uint8)).save(tmp_path / kind / "1.png", exif=exif)
    pairs = FolderPairs(tmp_path)
    assert pairs.sizes == [SIZE[::-1]]
    np.testing.assert_array_equal(pairs[0]["sharp"], np.rot90(ramp(dtype=np.uint8), -1))
    np.testing.assert_array_equal(
        decoded_rgb(read_png(tmp_path / "sharp/1.png")), pairs[0]["sharp"]
    )


def test_read_rgb_repeats_grey_and_leaves_alpha_out(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(ramp(2, np.uint8)).save(stream, "png")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    np.testing.assert_array_equal(
        read_rgb(tmp_path / "a.png"), np.dstack([ramp(2, np.uint8)[..., 0]] * 3)
    )
