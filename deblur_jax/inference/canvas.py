"""An image in memory, whose parts are read as floats and replaced by restored ones.

So an image takes no more memory than its own numbers, whatever a part needs while it is computed.
"""

from typing import NamedTuple

import numpy as np

from deblur_jax.errors import UserError
from deblur_jax.images.files import as_float
from deblur_jax.images.reading import FLOAT_RANGE
from deblur_jax.inference.sizes import Size

NOT_FINITE = "the network's output holds numbers that are not finite"


class RestorationError(UserError, ArithmeticError):
    """The network has no result for an image."""


class _Part(NamedTuple):
    rows: slice
    columns: slice
    pixels: np.ndarray


class Canvas:
    """Parts of an image as RGB, and restored parts in their place.

    Parts that overlap are read from above to below: a restored part is kept apart until no later
    one can see the pixels that it replaces.

    Args:
        pixels: (h, w) or (h, w, 1 to 4), the even ones with alpha, of uint8, uint16 or floats in
            [0, 1]; changed in place.
        multiple: height and width are extended to multiples of it, by repeating the border.

    Raises:
        ValueError: for an array of another shape or dtype, or floats that are no colours.

    Attributes:
        size: height and width, extended.
    """

    def __init__(self, pixels: np.ndarray, multiple: int) -> None:
        _check(pixels)
        self._pixels = pixels
        self._height, self._width = pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        self._colours = 1 if channels < 3 else 3
        self._waiting: list[_Part] = []
        self.size: Size = (_extended(self._height, multiple), _extended(self._width, multiple))

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """A part as RGB.

        Args:
            rows: of the extended image; no part that comes later begins above.
            columns: of the extended image.

        Returns:
            (rows, columns, 3) float32.
        """
        self._replace(above=rows.start)
        inside = self._pixels[rows.start : rows.stop, columns.start : columns.stop]
        inside = inside.reshape(*inside.shape[:2], -1)[..., : self._colours]
        if inside.dtype in (np.uint8, np.uint16):
            values = as_float(inside)
        else:
            values = inside.astype(np.float32)
        missing = (rows.stop - self._height, columns.stop - self._width)
        padding = [(0, max(0, count)) for count in missing]
        if any(after for _, after in padding):
            values = np.pad(values, [*padding, (0, 0)], mode="edge")
        return values if self._colours == 3 else np.repeat(values, 3, axis=-1)

    def write(self, rows: slice, columns: slice, restored: np.ndarray) -> None:
        """Replaces a part; what lies beyond the image's own borders is dropped.

        Args:
            rows: of the extended image.
            columns: of the extended image.
            restored: (rows, columns, 3) float32.

        Raises:
            RestorationError: if a number is not finite.
        """
        rows = slice(rows.start, min(rows.stop, self._height))
        columns = slice(columns.start, min(columns.stop, self._width))
        restored = restored[: rows.stop - rows.start, : columns.stop - columns.start]
        if not np.isfinite(restored).all():
            raise RestorationError(NOT_FINITE)
        values = np.clip(restored, 0.0, 1.0)
        if self._colours == 1:
            values = values.mean(-1, keepdims=True)
        if self._pixels.dtype in (np.uint8, np.uint16):
            values = np.round(values * np.iinfo(self._pixels.dtype).max)
        self._waiting.append(_Part(rows, columns, values.astype(self._pixels.dtype)))

    def finish(self) -> np.ndarray:
        """The image with all restored parts in their place."""
        self._replace(above=self._height)
        return self._pixels

    def _replace(self, above: int) -> None:
        """Puts down the restored parts that end above a row."""
        waiting = []
        for part in self._waiting:
            if part.rows.stop > above:
                waiting.append(part)
                continue
            target = self._pixels[part.rows, part.columns]
            if target.ndim == 2:
                target[...] = part.pixels[..., 0]
            else:
                target[..., : self._colours] = part.pixels
        self._waiting = waiting


def _extended(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _check(image: np.ndarray) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"expected (h, w) or (h, w, 1 to 4 channels), got shape {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"the image is empty: shape {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floats, got {image.dtype}")
    least, most = image.min(), image.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError("the image holds numbers that are not finite")
    if not (FLOAT_RANGE[0] <= least and most <= FLOAT_RANGE[1]):
        raise ValueError(
            f"the image holds floats from {least:.6g} to {most:.6g}: expected 0 to 1; integers of "
            "8 or 16 bits are taken as they are"
        )
