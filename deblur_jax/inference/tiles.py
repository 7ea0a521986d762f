"""Restores a large image tile by tile; the tiles overlap."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from deblur_jax.errors import ConfigError
from deblur_jax.inference.canvas import Canvas
from deblur_jax.inference.sizes import Size

_TILE, _OVERLAP = 1024, 64


class Span(NamedTuple):
    """One tile along one axis: where it starts, and which pixels of the result it gives."""

    start: int
    first: int
    end: int

    def window(self, length: int) -> slice:
        """The pixels of the image that a tile of this length reads."""
        return slice(self.start, self.start + length)

    def kept(self) -> slice:
        """The pixels of the tile that are kept."""
        return slice(self.first - self.start, self.end - self.start)


def spans(length: int, window: int, overlap: int) -> list[Span]:
    """Covers an axis with tiles; each pixel of the result is given by one of them.

    A pixel is at least ``overlap`` away from every border of its tile that is not the image's.

    Args:
        length: of the axis, in pixels.
        window: length of the tiles; more than twice the overlap, unless one covers the axis.
        overlap: in pixels.
    """
    if length <= window:
        return [Span(0, 0, length)]
    step = window - 2 * overlap
    starts = [*range(0, length - window, step), length - window]
    ends = [start + window - overlap for start in starts[:-1]] + [length]
    return [
        Span(start, first, end)
        for start, first, end in zip(starts, [0, *ends[:-1]], ends, strict=True)
    ]


def even_window(length: int, largest: int, overlap: int, multiple: int) -> int:
    """The shortest tile that covers an axis in as few pieces as the longest one does.

    Args:
        length: of the axis, in pixels, a multiple of ``multiple``.
        largest: length of the tiles; more than twice the overlap.
        overlap: in pixels.
        multiple: the length must be a multiple of it; ``largest`` and ``overlap`` are.
    """
    if length <= largest:
        return length
    between = length - 2 * overlap
    count = -(-between // (largest - 2 * overlap))
    return -(-between // (count * multiple)) * multiple + 2 * overlap


class Tile(NamedTuple):
    """One tile: what to read, what to keep of its result, and where that goes."""

    window: tuple[slice, slice]
    kept: tuple[slice, slice]
    target: tuple[slice, slice]


def tiles(size: Size, window: Size, overlap: int) -> Iterator[Tile]:
    """The tiles of an image, all of one size.

    Args:
        size: of the image, no smaller than the tiles.
        window: height and width of the tiles.
        overlap: as of ``spans``.
    """
    for row in spans(size[0], window[0], overlap):
        for column in spans(size[1], window[1], overlap):
            yield Tile(
                (row.window(window[0]), column.window(window[1])),
                (row.kept(), column.kept()),
                (slice(row.first, row.end), slice(column.first, column.end)),
            )


class TileRestorer:
    """Restores one image after the other, tile by tile.

    The tiles of an image are as small as their number allows, so that little is restored twice.

    Args:
        multiple: the sides of images are multiples of it, and those of tiles must be.
        radius: how far the network sees: a larger overlap is of no use.
        tile: largest height and width of the tiles; None for 1024.
        overlap: at least; None for 64, or the radius if that is smaller.

    Raises:
        ConfigError: if nothing is left between the overlaps of a tile.
    """

    def __init__(
        self,
        multiple: int,
        radius: int,
        tile: int | None = None,
        overlap: int | None = None,
    ):
        self._multiple = multiple
        self._tile = _TILE if tile is None else tile // multiple * multiple
        overlap = min(radius, _OVERLAP if overlap is None else overlap)
        self._overlap = -(-overlap // multiple) * multiple
        if self._tile <= 2 * self._overlap:
            raise ConfigError(
                f"tiles of {self._tile} pixels leave nothing between overlaps of {self._overlap}: "
                f"they must be larger than {2 * self._overlap}"
            )

    def __call__(
        self,
        restore: Callable[[np.ndarray], np.ndarray],
        canvas: Canvas,
        progress: Callable[[float], None],
    ) -> None:
        """Restores an image.

        Args:
            restore: of one tile, ``blurred -> restored``, (h, w, 3) float32 each.
            canvas: the image, its sides multiples of ``multiple``.
            progress: called after each tile, with the share of the work it was.
        """
        parts = list(tiles(canvas.size, self.window(canvas.size), self._overlap))
        for tile in parts:
            restored = restore(canvas.read(*tile.window))
            canvas.write(*tile.target, restored[tile.kept])
            progress(1 / len(parts))

    def window(self, size: Size) -> Size:
        """Height and width of the tiles of an image."""
        height, width = (
            even_window(side, self._tile, self._overlap, self._multiple) for side in size
        )
        return height, width
