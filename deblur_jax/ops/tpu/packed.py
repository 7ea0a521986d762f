"""Feature maps in the form in which a TPU multiplies fast.

A TPU's registers and matrix units are 128 lanes wide, and channels lie along the lanes. A map of 32
channels fills a quarter of them. So p neighbouring columns are packed into one position with p·c
lanes; where these are more than 128, they are blocks of 128, each with all the columns of some of
the channels. And rows are cut into strips, which count as batch, since the batch lies over the
other axis of the registers.

Where a map is halved, half as many columns share a position if there are two, so that position j of
the one lies over position j of the other; and if a position holds one column only, every second
position is left. All maps of an image are cut into strips at the same places.

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
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.tpu.strips import strips_of
from deblur_jax.runtime.differentiation import naming_the_plain_backend

LANES = 128

Array = TypeVar("Array", jax.Array, np.ndarray)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["array"],
    meta_fields=["height", "width", "columns", "strips", "in_stack", "shifted"],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed feature map.

    Attributes:
        array: (b·strips, rows of a strip, positions, lanes); see ``by_column``.
        height, width: of the map, in pixels.
        columns: p, how many share a position.
        strips: that each image is cut into.
        in_stack: whether convolutions go from one grid to the other.
        shifted: whether it lies on the shifted grid.
    """

    array: jax.Array
    height: int
    width: int
    columns: int
    strips: int
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
        halvings: how often the network halves a map of this size.
    """
    images, height, width, _ = features.shape
    smallest = images, height >> halvings, width >> halvings
    strips = strips_of(smallest, features.dtype)
    rows = math.ceil(smallest[1] / strips) << halvings
    return _packed(features, rows, strips, columns_of(channels))


def pack_as(features: jax.Array, packed: Packed) -> Packed:
    """Packs an NHWC array of the size of a map in the form of this map."""
    return _packed(features, packed.array.shape[1], packed.strips, packed.columns)


def with_columns(packed: Packed, columns: int) -> Packed:
    """The same map with another number of columns at each position."""
    if columns == packed.columns:
        return packed
    n, rows, positions, _ = packed.array.shape
    array = by_column(packed.array, packed.columns)
    array = array.reshape(n, rows, positions * packed.columns, packed.channels)
    wanted = math.ceil(packed.width / columns)
    array = array[:, :, : packed.width]
    array = jnp.pad(array, ((0, 0), (0, 0), (0, wanted * columns - packed.width), (0, 0)))
    array = in_lanes(array.reshape(n, rows, wanted, columns, packed.channels))
    return dataclasses.replace(packed, array=array, columns=columns)


def _packed(features: jax.Array, rows: int, strips: int, columns: int) -> Packed:
    b, h, w, c = features.shape
    positions = math.ceil(w / columns)
    padding = ((0, 0), (0, rows * strips - h), (0, positions * columns - w), (0, 0))
    array = jnp.pad(features, padding).reshape(b * strips, rows, positions, columns, c)
    return Packed(in_lanes(array), height=h, width=w, columns=columns, strips=strips)


def unpack(packed: Packed) -> jax.Array:
    """(b, h, w, c) of either grid."""
    n, rows, positions, _ = packed.array.shape
    b, c = n // packed.strips, packed.channels
    array = by_column(packed.array, packed.columns)
    array = array.reshape(b, packed.strips * rows, positions * packed.columns, c)
    first, last = packed.offset, packed.offset + packed.width
    return jax.lax.slice(array, (0, 0, first, 0), (b, packed.height, last, c))


def columns_of(channels: int) -> int:
    """How many columns fill the lanes: a power of two."""
    return 1 << (max(1, LANES // channels).bit_length() - 1)


def block_of(columns: int, channels: int) -> int:
    """How many channels the first 128 lanes hold, or all lanes where they are no blocks of 128."""
    fitting = max(1, LANES // columns)
    return fitting if channels % fitting == 0 else channels


def by_column(lanes: Array, columns: int) -> Array:
    """(..., lanes) to (..., columns, channels)."""
    channels = lanes.shape[-1] // columns
    block = block_of(columns, channels)
    blocks = lanes.reshape(*lanes.shape[:-1], channels // block, columns, block)
    return blocks.swapaxes(-3, -2).reshape(*lanes.shape[:-1], columns, channels)


def in_lanes(array: Array) -> Array:
    """(..., columns, channels) to (..., lanes)."""
    *others, columns, channels = array.shape
    block = block_of(columns, channels)
    blocks = array.reshape(*others, columns, channels // block, block)
    return blocks.swapaxes(-3, -2).reshape(*others, columns * channels)


def in_each_column(values: jax.Array, columns: int) -> jax.Array:
    """(..., channels) to (..., lanes): the same in every column."""
    *others, channels = values.shape
    return in_lanes(jnp.broadcast_to(values[..., None, :], (*others, columns, channels)))


def with_neighbouring_rows(packed: Packed, above: int, below: int) -> jax.Array:
    """Each strip with the last rows of the strip above it and the first of the one below.

    Returns:
        (b·strips, above + rows + below, positions, lanes); zeros beyond the image.
    """
    n, rows, positions, lanes = packed.array.shape
    strips = packed.array.reshape(-1, packed.strips, rows, positions, lanes)
    if max(above, below) > rows:
        return _with_rows_of_several_strips(strips, above, below)
    parts = [strips]
    if above:
        edge = jnp.zeros((len(strips), 1, above, positions, lanes), packed.array.dtype)
        parts.insert(0, jnp.concatenate([edge, strips[:, :-1, rows - above :]], axis=1))
    if below:
        edge = jnp.zeros((len(strips), 1, below, positions, lanes), packed.array.dtype)
        parts.append(jnp.concatenate([strips[:, 1:, :below], edge], axis=1))
    wider = jnp.concatenate(parts, axis=2) if len(parts) > 1 else strips
    return wider.reshape(n, above + rows + below, positions, lanes)


def _with_rows_of_several_strips(strips: jax.Array, above: int, below: int) -> jax.Array:
    b, count, rows, positions, lanes = strips.shape
    image = strips.reshape(b, count * rows, positions, lanes)
    image = jnp.pad(image, ((0, 0), (above, below), (0, 0), (0, 0)))
    wider = [image[:, rows * s : rows * (s + 1) + above + below] for s in range(count)]
    return jnp.stack(wider, axis=1).reshape(b * count, -1, positions, lanes)


def interleaved(arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Lines in turn of some arrays of one shape, k of them: k times as many along the axis.

    It is a sum of the arrays with gaps between their lines, which moves less than stacking them.
    """
    with naming_the_plain_backend():
        return _interleaved(tuple(arrays), axis)


def taken_apart(array: jax.Array, count: int, axis: int) -> tuple[jax.Array, ...]:
    """Undoes ``interleaved``: every k-th line along the axis, from the first k on."""
    with naming_the_plain_backend():
        return _taken_apart(array, count, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _interleaved(arrays: tuple[jax.Array, ...], axis: int) -> jax.Array:
    gap = len(arrays) - 1

    def with_gaps(array: jax.Array, before: int) -> jax.Array:
        padding = [(0, 0, 0)] * array.ndim
        padding[axis] = (before, gap - before, gap)
        return jax.lax.pad(array, jnp.zeros((), array.dtype), padding)

    first, *others = (with_gaps(array, before) for before, array in enumerate(arrays))
    return sum(others, first)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _taken_apart(array: jax.Array, count: int, axis: int) -> tuple[jax.Array, ...]:
    def from_line(first: int) -> jax.Array:
        return jax.lax.slice_in_dim(array, first, None, count, axis)

    return tuple(from_line(first) for first in range(count))


# Each is the gradient of the other. JAX's own gradients of them move more.
_interleaved.defvjp(
    lambda arrays, axis: (_interleaved(arrays, axis), len(arrays)),
    lambda axis, count, d_array: (_taken_apart(d_array, count, axis),),
)
_taken_apart.defvjp(
    lambda array, count, axis: (_taken_apart(array, count, axis), None),
    lambda count, axis, _, d_arrays: (_interleaved(d_arrays, axis),),
)


def zero_beyond(packed: Packed, at_border: float = 1.0) -> Packed:
    """The values inside the map; zero beyond it.

    Args:
        packed: a map with any values beyond the image.
        at_border: what the first and the last row and column are multiplied by.
    """
    array = packed.array
    n, rows, positions, _ = array.shape
    columns, c = packed.columns, packed.channels
    of_columns = _factors(positions * columns, packed.offset, packed.width, at_border)
    if not (of_columns == 1).all():
        each = np.broadcast_to(of_columns.reshape(positions, columns, 1), (positions, columns, c))
        array *= jnp.asarray(in_lanes(each), array.dtype)
    of_rows = _factors(rows * packed.strips, 0, packed.height, at_border)
    if not (of_rows == 1).all():
        of_strips = np.tile(of_rows.reshape(-1, rows), (n // packed.strips, 1))
        array *= jnp.asarray(of_strips[:, :, None, None], array.dtype)
    return dataclasses.replace(packed, array=array)


def _factors(length: int, offset: int, inside: int, at_border: float) -> np.ndarray:
    factors = np.zeros(length, np.float32)
    factors[offset : offset + inside] = 1
    factors[offset] *= at_border
    factors[offset + inside - 1] *= at_border
    return factors
