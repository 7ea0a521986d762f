"""Images for pages: previews in 8 bits, embedded in the page or beside it."""

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from deblur_jax.images.files import StoredImage, as_8_bits, to_uint8

_ROWS_AT_ONCE = 256


def preview(image: StoredImage, longest: int) -> Image.Image:
    """An image in 8 bits and without alpha, reduced to at most ``longest`` pixels a side.

    Needs little memory beside the image itself, however large that is.
    """
    height, width = image.pixels.shape[:2]
    factor = max(1, -(-max(height, width) // (2 * longest)))
    bands = np.concatenate(list(_reduced(image.pixels, factor)))
    small = Image.fromarray(bands[..., 0] if bands.shape[2] == 1 else bands)
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if image.metadata.icc_profile:
        small.info["icc_profile"] = image.metadata.icc_profile
    return small


def _reduced(pixels: np.ndarray, factor: int) -> Iterator[np.ndarray]:
    """Means of squares of ``factor`` pixels, in bands of rows; without alpha."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    down, across = (min(factor, length) for length in pixels.shape[:2])
    height = pixels.shape[0] // down * down
    columns = pixels.shape[1] // across
    rows = max(1, _ROWS_AT_ONCE // down) * down
    for top in range(0, height, rows):
        band = pixels[top : min(top + rows, height), : columns * across, :colours]
        blocks = band.reshape(-1, down, columns, across, colours)
        mean = blocks.mean(axis=(1, 3), dtype=np.float32)
        if band.dtype == np.float32:
            yield to_uint8(mean)
        else:
            yield as_8_bits(np.round(mean).astype(band.dtype))


def as_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The bytes of a JPEG file, with the colour profile of the image."""
    return _encoded(image, "jpeg", quality=quality, icc_profile=image.info.get("icc_profile"))


def as_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    return _encoded(image, "png")


def embedded(image: bytes, kind: str) -> str:
    """A data URL. ``kind`` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
