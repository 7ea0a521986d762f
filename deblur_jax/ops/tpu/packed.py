"""Feature maps in the form in which a TPU multiplies fast, for stacks of 3x3 convolutions.

A TPU's registers and matrix units are 128 lanes wide, and channels lie along the lanes. A map of 32
channels fills a quarter of them. So p neighbouring columns, p·c = 128, are packed into one position
with p·c lanes; and rows are cut into strips, which count as batch, since the compiler's layouts
want a batch of at least 32.

Columns lie on one of two grids. On the plain one position j holds columns j·p to j·p + p - 1; on
the shifted one it begins p/2 columns earlier. A 3x3 convolution from one grid to the other reads
two neighbouring positions and no third, so it becomes one convolution of 3 rows and 2 positions.
Two convolutions in a row end on the grid they began on, and nothing is realigned in between.

Columns and rows beyond the image exist where sizes are no multiples, and on the shifted grid. They
are always zero, as the zero padding of a convolution asks.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.convolution import LAYOUT

_LANES = 128
_MOST_COLUMNS = 4
"""Packed together: from 8 on, more than four of five products would be with zeros."""
_BATCH = 32
"""Rows of the batch, strips counted, from which on the compiler keeps one layout."""
_LEAST_ROWS = 8
"""Of a strip: it also reads one row of each neighbour."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["array"],
    meta_fields=["height", "width", "columns", "strips", "shifted"],
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed feature map.

    Attributes:
        array: (b·strips, rows of a strip, positions, columns·c).
        height, width: of the map, in pixels.
        columns: p, how many share a position.
        strips: how many the rows of an image are cut into.
        shifted: whether it lies on the shifted grid.
    """

    array: jax.Array
    height: int
    width: int
    columns: int
    strips: int
    shifted: bool

    @property
    def offset(self) -> int:
        """Columns before the image in the first position."""
        return self.columns // 2 if self.shifted else 0

    @property
    def positions(self) -> int:
        """That the columns of the map fill."""
        return math.ceil((self.width + self.offset) / self.columns)


def pack(features: jax.Array) -> Packed:
    """(b, h, w, c) on the plain grid, in the form for its size."""
    b, h, w, c = features.shape
    columns, strips = _columns(c), _strips(b, h)
    rows, positions = math.ceil(h / strips), math.ceil(w / columns)
    padding = ((0, 0), (0, rows * strips - h), (0, positions * columns - w), (0, 0))
    array = jnp.pad(features, padding)
    return Packed(
        array.reshape(b * strips, rows, positions, columns * c),
        height=h,
        width=w,
        columns=columns,
        strips=strips,
        shifted=False,
    )


def unpack(packed: Packed) -> jax.Array:
    """(b, h, w, c) of either grid."""
    n, rows, positions, lanes = packed.array.shape
    b, c = n // packed.strips, lanes // packed.columns
    array = packed.array.reshape(b, packed.strips * rows, positions * packed.columns, c)
    first, last = packed.offset, packed.offset + packed.width
    return jax.lax.slice(array, (0, 0, first, 0), (b, packed.height, last, c))


def convolve_3x3(
    packed: Packed, kernel: jax.Array, bias: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> Packed:
    """A 3x3 convolution with a bias, stride 1, padded with zeros; it ends on the other grid.

    Args:
        packed: a map of i channels.
        kernel: (3, 3, i, o).
        bias: (o,).
        precision: of products.

    Returns:
        A map of o channels, of the same height, width, columns and strips.
    """
    p = packed.columns
    shifted = p > 1 and not packed.shifted
    grid = dataclasses.replace(packed, shifted=shifted)
    array = _with_neighbouring_rows(packed)
    if p == 1:
        padding = (1, 1)
    elif shifted:
        padding = (1, grid.positions - packed.positions)
    else:
        padding = (0, grid.positions + 1 - packed.positions)
    convolved = jax.lax.conv_general_dilated(
        array,
        _packed_kernel(kernel, p, to_shifted=shifted),
        (1, 1),
        ((0, 0), padding),
        dimension_numbers=LAYOUT,
        precision=precision,
    )
    biased = convolved + jnp.tile(jnp.asarray(bias, convolved.dtype), p)
    return dataclasses.replace(grid, array=_zero_beyond(biased, grid))


def _columns(channels: int) -> int:
    """How many columns to pack: a power of two, so that c channels of each fill the lanes."""
    fitting = max(1, _LANES // channels)
    return min(_MOST_COLUMNS, 1 << (fitting.bit_length() - 1))


def _strips(batch: int, height: int) -> int:
    """How many strips to cut images into.

    Of those with which the batch is nearest to what the compiler wants, the count that leaves the
    fewest rows empty.
    """
    wanted = max(1, min(math.ceil(_BATCH / batch), height // _LEAST_ROWS))
    near = range(max(1, wanted - wanted // 4), wanted + 1)
    return min(near, key=lambda strips: (-height % strips, -strips))


def _with_neighbouring_rows(packed: Packed) -> jax.Array:
    """Each strip with the last row of the strip above it and the first of the one below."""
    n, rows, positions, lanes = packed.array.shape
    strips = packed.array.reshape(-1, packed.strips, rows, positions, lanes)
    zeros = jnp.zeros((len(strips), 1, 1, positions, lanes), packed.array.dtype)
    above = jnp.concatenate([zeros, strips[:, :-1, -1:]], axis=1)
    below = jnp.concatenate([strips[:, 1:, :1], zeros], axis=1)
    wider = jnp.concatenate([above, strips, below], axis=2)
    return wider.reshape(n, rows + 2, positions, lanes)


def _packed_kernel(kernel: jax.Array, columns: int, *, to_shifted: bool) -> jax.Array:
    """(3, 3, i, o) to (3, 2, p·i, p·o), zero where two columns are no neighbours."""
    if columns == 1:
        return kernel
    _, _, i, o = kernel.shape
    # The tap between the column in lane u of position a and the one in lane v of the output, as a
    # product with ones and zeros: exact, and its gradient sums what belongs to each tap.
    spread = jnp.asarray(_taps(columns, to_shifted), kernel.dtype)
    exact = jax.lax.Precision.HIGHEST
    packed = jnp.einsum("auvt,ytio->yauivo", spread, kernel, precision=exact)
    return packed.reshape(3, 2, columns * i, columns * o)


@functools.cache
def _taps(columns: int, to_shifted: bool) -> np.ndarray:
    """(2, p, p, 3): 1 where tap t reads lane u of position a for output lane v."""
    position, u, v, tap = np.ix_(range(2), range(columns), range(columns), range(3))
    # From the plain grid the first position read is the one before the output's.
    first = -columns + columns // 2 if to_shifted else -(columns // 2)
    return (first + columns * position + u - v + 1 == tap).astype(np.float32)


def _zero_beyond(array: jax.Array, grid: Packed) -> jax.Array:
    """The values inside the map; zero beyond it."""
    n, rows, positions, lanes = array.shape
    column = np.arange(positions * grid.columns) - grid.offset
    inside = (column >= 0) & (column < grid.width)
    if not inside.all():
        of_lanes = np.repeat(inside, lanes // grid.columns).reshape(positions, lanes)
        array *= jnp.asarray(of_lanes, array.dtype)
    if rows * grid.strips > grid.height:
        strip, row = np.arange(n) % grid.strips, np.arange(rows)
        filled = strip[:, None] * rows + row < grid.height
        array *= jnp.asarray(filled[:, :, None, None], array.dtype)
    return array
