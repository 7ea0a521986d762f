"""What the lanes of packed gates hold, and how a kernel reads and writes lines of them.

The gates and the states of several directions fill the lanes with fewer columns than the inputs:
with one, for 32 channels and four directions. A kernel reads the inputs for each position of the
gates by a product with ones and zeros, which is exact. So neither what makes the gates nor what
reads the states moves anything.

Some lanes are scanned from the first line to the last, others from the last to the first. In one
turn of a loop the former are at line i and the latter at the i-th from the end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from deblur_jax.ops.recurrence import Direction
from deblur_jax.ops.tpu.packed import LANES, Packed, columns_of

ROWS, COLUMNS = 1, 2
"""Axes of ``Direction``: along which rows, or columns, follow each other."""
_UPPER_BITS = -(1 << 16)
"""Of a float32 those that bfloat16 has."""


@dataclasses.dataclass(frozen=True)
class Lanes:
    """What 128 lanes of the gates hold: columns, each with directions, each with channels.

    Attributes:
        directions: a power of two.
        channels: c, of one direction.
        strips: of an image.
    """

    directions: tuple[Direction, ...]
    channels: int
    strips: int

    @property
    def columns(self) -> int:
        """At a position of the gates; the inputs have ``len(directions)`` times as many."""
        return LANES // (len(self.directions) * self.channels)

    @property
    def axes(self) -> tuple[int, ...]:
        """That the directions lie along; columns first."""
        return tuple(sorted({direction.axis for direction in self.directions}, reverse=True))

    def spreading(self) -> np.ndarray:
        """(positions, 128, 128): which lane of the inputs (first) a lane of the gates reads.

        One position of the inputs lies over ``len(directions)`` positions of the gates.
        """
        count, lane = len(self.directions), np.arange(LANES)
        column = lane // (count * self.channels)
        table = np.zeros((count, LANES, LANES), np.float32)
        for position in range(count):
            source = (position * self.columns + column) * self.channels + lane % self.channels
            table[position, source, lane] = 1
        return table

    def sides(self, axis: int, shape: tuple[int, ...]) -> dict[bool, jax.Array]:
        """Which lanes of an array are scanned along an axis: False forwards, True in reverse."""
        lane = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
        direction = jax.lax.rem(jax.lax.div(lane, self.channels), len(self.directions))
        found: dict[bool, jax.Array] = {}
        for number, (of, reverse) in enumerate(self.directions):
            if of == axis:
                these = direction == number
                found[reverse] = found[reverse] | these if reverse in found else these
        return dict(sorted(found.items()))

    def column(self, shape: tuple[int, ...]) -> jax.Array:
        """Of each lane."""
        lane = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
        return jax.lax.div(lane, LANES // self.columns)


def lane_blocks(
    inputs: Packed, gates: Packed, directions: tuple[Direction, ...]
) -> tuple[Lanes, ...]:
    """What each 128 lanes of the gates hold; none where the lanes do not correspond."""
    c, lanes = inputs.channels, inputs.array.shape[-1]
    together = min(len(directions), LANES // max(1, c))
    if (
        lanes != LANES
        or gates.channels != len(directions) * c
        or gates.columns != columns_of(gates.channels)
        or gates.array.shape[-1] % LANES
        or LANES % (together * c)
        or len(directions) % together
        or inputs.shifted
        or gates.shifted
    ):
        return ()
    firsts = range(0, len(directions), together)
    return tuple(Lanes(directions[i : i + together], c, inputs.strips) for i in firsts)


@dataclasses.dataclass(frozen=True)
class Lines:
    """Reads and writes the lines of blocks along one axis, in the order of a scan.

    In turn i the lanes that are scanned forwards are at line i, and those in reverse at the i-th
    from the end.

    Attributes:
        lanes: of the gates.
        axis: of the scan.
        steps: lines in a block.
        shape: of a line of the gates: rows or positions, b·strips, 128.
        against: from the last line to the first, as the gradient goes.
    """

    lanes: Lanes
    axis: int
    steps: int
    shape: tuple[int, ...]
    against: bool = False

    @property
    def sides(self) -> dict[bool, jax.Array]:
        """Which lanes go from the first line to the last, False, and from the last on, True."""
        found = self.lanes.sides(self.axis, self.shape)
        return dict(sorted((reverse != self.against, mask) for reverse, mask in found.items()))

    def read(self, ref: Any, i: Any) -> jax.Array:
        """The values of turn i, in float32."""
        return self._merged(lambda at: self._line(ref, at).astype(jnp.float32), i)

    def read_inputs(self, ref: Any, table: Any, i: Any) -> jax.Array:
        """The inputs for the gates of turn i, in float32."""
        return self._merged(lambda at: self._spread(ref, table, at), i)

    def write(self, ref: Any, i: Any, values: jax.Array) -> None:
        """Stores values for turn i; lanes of the other axis stay."""
        for last_first, mask in self.sides.items():
            at = self._at(i, last_first)
            kept = jnp.where(mask, values, self._line(ref, at).astype(jnp.float32))
            ref[self._place(at)] = kept.astype(ref.dtype)

    def add_inputs(self, ref: Any, table: Any, i: Any, values: jax.Array) -> None:
        """Adds values of the gates' form to the inputs that these lanes read in turn i."""
        for last_first, mask in self.sides.items():
            self._gather(ref, table, self._at(i, last_first), jnp.where(mask, values, 0.0))

    def _at(self, i: Any, last_first: bool) -> Any:
        return self.steps - 1 - i if last_first else i

    def _merged(self, value_at: Callable[[Any], jax.Array], i: Any) -> jax.Array:
        return self.by_side(lambda last_first: value_at(self._at(i, last_first)))

    def by_side(self, value_of: Callable[[bool], jax.Array]) -> jax.Array:
        """A value for the lanes that go from the first line on, and one for the others."""
        sides = self.sides
        values = [value_of(last_first) for last_first in sides]
        return values[0] if len(values) == 1 else jnp.where(sides[True], values[1], values[0])

    def _place(self, at: Any) -> Any:
        return at if self.axis == ROWS else (slice(None), at)

    def _line(self, ref: Any, at: Any) -> jax.Array:
        return ref[self._place(at)]

    def _spread(self, ref: Any, table: Any, at: Any) -> jax.Array:
        count = len(self.lanes.directions)
        if self.axis == COLUMNS:
            place = jax.lax.div(at, count)
            return mix_lanes(ref[:, place], table[jax.lax.rem(at, count)])
        values = ref[at]
        parts = [mix_lanes(values, table[position]) for position in range(count)]
        spread = jnp.stack(parts, axis=1).reshape(-1, *values.shape[1:])
        return spread[: self.shape[0]]

    def _gather(self, ref: Any, table: Any, at: Any, values: jax.Array) -> None:
        count = len(self.lanes.directions)
        if self.axis == COLUMNS:
            place = jax.lax.div(at, count)
            ref[:, place] += mix_lanes(values, table[jax.lax.rem(at, count)])
            return
        missing = ref.shape[1] * count - len(values)
        if missing:
            values = jnp.concatenate([values, jnp.zeros((missing, *values.shape[1:]))])
        parts = values.reshape(-1, count, *values.shape[1:])
        ref[at] += sum(mix_lanes(parts[:, position], table[position]) for position in range(count))


def lines_of(gates: Any, axis: int, lanes: Lanes, *, against: bool = False) -> Lines:
    """The lines of a block of gates: an array, or a reference to one."""
    rows, positions, *register = gates.shape
    steps, lines = (rows, positions) if axis == ROWS else (positions, rows)
    return Lines(lanes, axis, steps, (lines, *register), against)


def mix_lanes(values: jax.Array, table: jax.Array) -> jax.Array:
    """Values (lines, b·strips, 128) times a table of ones and zeros (128, 128), in float32.

    The table is bfloat16, so a float32 value goes in three parts, which are bfloat16 and sum up to
    it exactly: half of the products that the highest precision takes.
    """
    rows = values.astype(jnp.float32).reshape(-1, LANES)
    parts = [rows] if values.dtype == jnp.bfloat16 else _in_three_parts(rows)
    mixed = [
        jnp.dot(part.astype(table.dtype), table, preferred_element_type=jnp.float32)
        for part in parts
    ]
    return sum(mixed[1:], mixed[0]).reshape(values.shape)


def _in_three_parts(values: jax.Array) -> list[jax.Array]:
    """float32 values as sums of three with 8 bits each, the smallest first."""
    parts: list[jax.Array] = []
    for _ in range(2):
        bits = jax.lax.bitcast_convert_type(values, jnp.int32) & _UPPER_BITS
        upper = jax.lax.bitcast_convert_type(bits, jnp.float32)
        parts.insert(0, upper)
        values = values - upper
    return [values, *parts]


def turns_of(lines: Lines) -> tuple[jax.Array, int]:
    """In which turn a lane's column is scanned, and the number of turns, at one position."""
    columns = lines.lanes.columns if lines.axis == COLUMNS else 1
    column = lines.lanes.column(lines.shape)
    return lines.by_side(lambda last: columns - 1 - column if last else column), columns


def to_next_strip(array: jax.Array, lines: Lines) -> jax.Array:
    """Each strip's values to the one that follows it; zeros to the first one."""
    strips = lines.lanes.strips
    if strips == 1:
        return jnp.zeros_like(array)
    axis = array.ndim - 2
    strip = jax.lax.rem(jax.lax.broadcasted_iota(jnp.int32, array.shape, axis), strips)

    def shifted(last_first: bool) -> jax.Array:
        rolled = pltpu.roll(array, array.shape[axis] - 1 if last_first else 1, axis)
        return jnp.where(strip == (strips - 1 if last_first else 0), 0.0, rolled)

    return lines.by_side(shifted)


def to_next_column(array: jax.Array, lines: Lines) -> jax.Array:
    """Each column's values to the lanes of the one that follows it, the last one's to the first."""
    columns = lines.lanes.columns
    if lines.axis == ROWS or columns == 1:
        return array
    width, axis = LANES // columns, array.ndim - 1
    return lines.by_side(lambda last: pltpu.roll(array, LANES - width if last else width, axis))
