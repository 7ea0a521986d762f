"""A large picture as windows that overlap, so that a network sees them one by one."""

from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Along one axis: where a window starts, and which pixels of the result it gives."""

    start: int
    first: int
    end: int


def spans(length: int, window: int, overlap: int) -> list[Span]:
    """Covers an axis with windows; each pixel of the result is given by one of them.

    A pixel is at least ``overlap`` away from every border of its window that is not the picture's.

    Args:
        length: of the axis, in pixels.
        window: of the windows; more than twice the overlap, unless the axis is no longer than it.
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


class Tile(NamedTuple):
    """One window: what to read, what to keep of its result, and where that goes."""

    window: tuple[slice, slice]
    kept: tuple[slice, slice]
    target: tuple[slice, slice]


def tiles(size: tuple[int, int], window: int, overlap: int) -> Iterator[Tile]:
    """The windows of a picture: all of one size, at most ``window`` high and wide.

    Args:
        size: height and width.
        window, overlap: as of ``spans``.
    """
    height, width = size
    window_height, window_width = min(window, height), min(window, width)
    for row in spans(height, window, overlap):
        for column in spans(width, window, overlap):
            pairs = ((row, window_height), (column, window_width))
            yield Tile(
                tuple(slice(span.start, span.start + side) for span, side in pairs),
                tuple(slice(span.first - span.start, span.end - span.start) for span, _ in pairs),
                tuple(slice(span.first, span.end) for span, _ in pairs),
            )
