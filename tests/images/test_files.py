import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deblur_jax.images.files import ImageError, StoredImage, to_uint8
from deblur_jax.images.reading import read_header, read_image, read_png, read_rgb
from deblur_jax.images.writing import write_image
from deblur_jax.runtime.files import FolderError, make_folder

SIZE = (5, 7)


def random_pixels(channels, dtype=np.uint8):
    shape = SIZE if channels == 1 else (*SIZE, channels)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        (".png", 1, np.uint8),
        (".png", 2, np.uint8),
        (".png", 3, np.uint8),
        (".png", 4, np.uint8),
        (".png", 1, np.uint16),
        (".png", 2, np.uint16),
        (".png", 3, np.uint16),
        (".png", 4, np.uint16),
        (".tif", 1, np.uint8),
        (".tif", 3, np.uint8),
        (".tif", 1, np.uint16),
        (".tiff", 3, np.uint16),
    ],
)
def test_a_photograph_there_and_back_is_the_same(tmp_path, suffix, channels, dtype):
    pixels = random_pixels(channels, dtype)
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    if suffix == ".png":
        first.write_bytes(imagecodecs.png_encode(pixels))
    else:
        tifffile.imwrite(first, pixels)
    photograph = read_image(first)
    assert photograph.pixels.dtype == dtype
    assert photograph.pixels.shape == pixels.shape
    write_image(second, photograph)
    if suffix == ".png":
        decoded = imagecodecs.png_decode(second.read_bytes())
        np.testing.assert_array_equal(decoded.reshape(pixels.shape), pixels)
    else:
        np.testing.assert_array_equal(tifffile.imread(second), pixels)
    assert read_header(first).size == SIZE
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    upright = random_pixels(3, np.uint8 if suffix == ".png" else np.uint16)
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x),
        7: lambda x: np.rot90(x[::-1]),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    stored = np.ascontiguousarray(undo(upright))
    file = tmp_path / f"turned{suffix}"
    if suffix == ".png":
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(file, exif=exif)
    else:
        tag = (0x0112, "H", 1, orientation, True)
        tifffile.imwrite(file, stored, photometric="rgb", extratags=[tag])
    np.testing.assert_array_equal(read_image(file).pixels, upright)
    assert read_header(file).size == SIZE


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "I", "PA", "La"])
def test_other_modes_are_read(tmp_path, mode):
    file = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr", "I", "PA", "La") else "image.png")
    source = Image.fromarray(random_pixels(3))
    if mode == "I":
        source = Image.fromarray(random_pixels(1, np.uint16).astype(np.int32))
    else:
        source = source.convert({"PA": "P", "La": "L"}.get(mode, mode))
    source.save(file)
    photograph = read_image(file)
    assert photograph.pixels.shape[:2] == SIZE
    assert photograph.pixels.dtype == (np.uint16 if mode == "I" else np.uint8)


def test_a_tiff_of_brightness_and_colours_is_converted(tmp_path):
    source = Image.fromarray(random_pixels(3)).convert("YCbCr")
    options = {"photometric": "ycbcr", "subsampling": (1, 1)}
    tifffile.imwrite(tmp_path / "image.tif", np.asarray(source), **options)
    expected = np.asarray(source.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif").pixels, expected)


def test_a_palette_with_transparency_keeps_it(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(random_pixels(3)).convert("P").save(file, transparency=0)
    assert read_image(file).pixels.shape == (*SIZE, 4)


def test_the_colour_space_is_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    Image.fromarray(random_pixels(3)).save(first, icc_profile=profile)
    write_image(second, read_image(first))
    with Image.open(second) as image:
        assert image.info["icc_profile"] == profile


def broken_files(folder):
    whole = folder / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole)
    content = whole.read_bytes()
    for name, damaged in {
        "truncated.png": content[: len(content) // 2],
        "garbage.png": b"not an image",
        "empty.png": b"",
        "garbage.tif": b"II*\x00 not an image",
    }.items():
        (folder / name).write_bytes(damaged)
        yield folder / name
    yield folder / "missing.png"
    (folder / "folder.png").mkdir()
    yield folder / "folder.png"


@pytest.mark.parametrize("read", [read_rgb, read_png, read_image])
def test_a_broken_file_is_named(tmp_path, read):
    for file in broken_files(tmp_path):
        with pytest.raises(ImageError) as error:
            read(file)
        assert str(error.value).startswith(f"{file}: ")


def test_the_header_of_a_broken_file_names_it(tmp_path):
    (tmp_path / "garbage.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"garbage\.png: not an image"):
        read_header(tmp_path / "garbage.png")


def test_an_rgb_png_is_passed_on_as_it_is(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(random_pixels(3)).save(file)
    assert read_png(file) == file.read_bytes()


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderError, match="file: can't be made a folder: "):
        make_folder(tmp_path / "file")


def test_a_write_that_fails_leaves_nothing_and_names_the_file(tmp_path):
    photograph = StoredImage(np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ImageError, match=r"no_such_folder/image\.png: can't be written"):
        write_image(tmp_path / "no_such_folder/image.png", photograph)
    assert list(tmp_path.iterdir()) == []


@given(st.floats(-1, 2))
def test_rounding_is_to_the_nearest(value):
    expected = min(max(value, 0.0), 1.0) * 255
    assert abs(int(to_uint8(np.array([value]))[0]) - expected) <= 0.5
