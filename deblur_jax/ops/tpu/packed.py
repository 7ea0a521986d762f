"""Feature maps in the form in which a TPU multiplies fast.

A TPU's registers and matrix units are 128 lanes wide, and channels lie along the lanes. A map of 32
channels fills a quarter of them. So p neighbouring columns are packed into one position with p·c
lanes. And rows are cut into strips, which count as batch, since the batch lies over the registers'
other axis.

Where a map has half the columns of another, it has twice the channels, so half as many columns fill
the lanes. So all scales of a network have the same positions and the same strips: position j of one
lies over position j of the others, and resizing moves nothing from one position to another.

Columns lie on one of two grids. On the plain one position j holds columns j·p to j·p + p - 1; on
the shifted one it begins p/2 columns earlier. A 3x3 convolution from one grid to the other reads
two neighbouring positions and no third. Within a stack convolutions go from grid to grid, and two
of them end where they began; elsewhere every map lies on the plain grid.

Columns and rows beyond the image exist where sizes are no multiples, and on the shifted grid. They
are always zero, as the zero padding of a convolution asks.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

_LANES = 128
_STRIPS = 8
"""Of an image: as many as a register has sublanes, over which the batch lies."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["array"],
    meta_fields=["height", "width", "columns", "in_stack", "shifted"],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed feature map.

    Attributes:
        array: (b·strips, rows of a strip, positions, columns·c).
        height, width: of the map, in pixels.
        columns: p, how many share a position.
        in_stack: whether convolutions go from one grid to the other.
        shifted: whether it lies on the shifted grid.
    """

    array: jax.Array
    height: int
    width: int
    columns: int
    in_stack: bool = False
    shifted: bool = False

    @property
    def offset(self) -> int:
        """Columns before the image in the first position."""
        return self.columns // 2 if self.shifted else 0

    @property
    def positions(self) -> int:
        """That the columns of the map fill."""
        return math.ceil((self.width + self.offset) / self.columns)

    @property
    def channels(self) -> int:
        """c, of one column."""
        return self.array.shape[-1] // self.columns


def pack(features: jax.Array, *, channels: int, halvings: int = 0) -> Packed:
    """Packs an NHWC array on the plain grid.

    Args:
        features: (b, h, w, i), h and w multiples of 2^halvings.
        channels: of the maps of this size that it is convolved to; they shall fill the lanes.
        halvings: how often the network halves a map of this size, and doubles its channels.
    """
    b, h, w, i = features.shape
    columns = _columns(channels, halvings)
    rows = math.ceil((h >> halvings) / _STRIPS) << halvings
    positions = math.ceil(w / columns)
    padding = ((0, 0), (0, rows * _STRIPS - h), (0, positions * columns - w), (0, 0))
    array = jnp.pad(features, padding)
    array = array.reshape(b * _STRIPS, rows, positions, columns * i)
    return Packed(array, height=h, width=w, columns=columns)


def unpack(packed: Packed) -> jax.Array:
    """(b, h, w, c) of either grid."""
    n, rows, positions, _ = packed.array.shape
    b, c = n // _STRIPS, packed.channels
    array = packed.array.reshape(b, _STRIPS * rows, positions * packed.columns, c)
    first, last = packed.offset, packed.offset + packed.width
    return jax.lax.slice(array, (0, 0, first, 0), (b, packed.height, last, c))


def with_neighbouring_rows(packed: Packed, above: int, below: int) -> jax.Array:
    """Each strip with the last rows of the strip above it and the first of the one below.

    Returns:
        (b·strips, above + rows + below, positions, columns·c); zeros beyond the image.
    """
    n, rows, positions, lanes = packed.array.shape
    strips = packed.array.reshape(-1, _STRIPS, rows, positions, lanes)
    parts = [strips]
    if above:
        edge = jnp.zeros((len(strips), 1, above, positions, lanes), packed.array.dtype)
        parts.insert(0, jnp.concatenate([edge, strips[:, :-1, rows - above :]], axis=1))
    if below:
        edge = jnp.zeros((len(strips), 1, below, positions, lanes), packed.array.dtype)
        parts.append(jnp.concatenate([strips[:, 1:, :below], edge], axis=1))
    wider = jnp.concatenate(parts, axis=2) if len(parts) > 1 else strips
    return wider.reshape(n, above + rows + below, positions, lanes)


def zero_beyond(packed: Packed) -> Packed:
    """The values inside the map; zero beyond it."""
    array = packed.array
    n, rows, positions, lanes = array.shape
    column = np.arange(positions * packed.columns) - packed.offset
    inside = (column >= 0) & (column < packed.width)
    if not inside.all():
        of_lanes = np.repeat(inside, lanes // packed.columns).reshape(positions, lanes)
        array *= jnp.asarray(of_lanes, array.dtype)
    if rows * _STRIPS > packed.height:
        strip, row = np.arange(n) % _STRIPS, np.arange(rows)
        filled = strip[:, None] * rows + row < packed.height
        array *= jnp.asarray(filled[:, :, None, None], array.dtype)
    return dataclasses.replace(packed, array=array)


def _columns(channels: int, halvings: int) -> int:
    """How many columns to pack, so that maps of every scale fill the lanes, none less than one."""
    at_smallest = max(1, _LANES // (channels << halvings))
    return 1 << (at_smallest.bit_length() - 1 + halvings)
