"""In which blocks a kernel of the packed recurrence takes its arrays, and how it is called.

A kernel scans both axes of whole images where they fit on the chip; else there is one for each
axis, and the second completes what the first one wrote.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deblur_jax.ops.tpu.packed import LANES, Packed
from deblur_jax.ops.tpu.recurrence_lanes import COLUMNS, ROWS, Lanes
from deblur_jax.ops.tpu.strips import SUBLANES

BYTES_ON_CHIP = 12 * 2**20
"""For the blocks of a kernel, of the 16 MiB that every generation has."""
_WORKING_VALUES = 8
"""Arrays of float32, as large as a line, that one turn of a loop holds."""


class Moved(NamedTuple):
    """How many arrays like the inputs, and like the gates, a kernel moves; whether it adds up."""

    as_inputs: int
    as_gates: int
    adds: bool


FORWARD = Moved(as_inputs=1, as_gates=2, adds=False)
BACKWARD = Moved(as_inputs=2, as_gates=4, adds=True)


class Blocks(NamedTuple):
    """What a kernel takes at once.

    Attributes:
        rows: of each strip.
        positions: of the inputs.
        strips: of some images.
        buffers: for each block: with 2 one is moved while another one is computed.
    """

    rows: int
    positions: int
    strips: int
    buffers: int


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a recurrence and of its kernels' arrays.

    Attributes:
        rows: of a strip.
        positions: of the inputs.
        strips: of all images.
        together: strips that stay in one block: whole registers, and whole images.
        spread: positions of the gates over one of the inputs.
        itemsize: bytes of a value.
        moved: by a kernel.
    """

    rows: int
    positions: int
    strips: int
    together: int
    spread: int
    itemsize: int
    moved: Moved

    @property
    def fits(self) -> bool:
        """Whether the strips fill registers, and a line of either axis fits on the chip."""
        return self.strips % self.together == 0 and all(
            self.blocks_of((axis,), completes=True) for axis in (ROWS, COLUMNS)
        )

    def blocks_of(self, axes: Sequence[int], *, completes: bool) -> Blocks | None:
        """The blocks of a kernel along some axes; None where none fits on the chip.

        Args:
            axes: whose lines it takes as a whole.
            completes: whether it reads what another kernel wrote.
        """
        rows = [self.rows] if ROWS in axes else _divisors(self.rows)
        positions = [self.positions] if COLUMNS in axes else _divisors(self.positions)
        images = _divisors(self.strips // self.together)
        for buffers in (2, 1):
            for of_rows, of_positions, count in itertools.product(rows, positions, images):
                blocks = Blocks(of_rows, of_positions, count * self.together, buffers)
                if self._bytes(blocks, axes, completes) <= BYTES_ON_CHIP:
                    return blocks
        return None

    def _bytes(self, blocks: Blocks, axes: Sequence[int], completes: bool) -> int:
        rows, positions, strips, buffers = blocks
        arrays = self.moved.as_inputs + self.spread * (self.moved.as_gates + completes)
        sums = 4 * (1 + buffers * completes) if self.moved.adds else 0
        lines = max(rows if axis == COLUMNS else positions * self.spread for axis in axes)
        of_block = rows * positions * (arrays * self.itemsize * buffers + sums)
        return strips * LANES * (of_block + lines * 4 * _WORKING_VALUES)


def size_of(inputs: Packed, lanes: Lanes, itemsize: int, moved: Moved) -> Size:
    """The size of a recurrence over inputs whose gates have these lanes."""
    n, rows, positions, _ = inputs.array.shape
    together = math.lcm(SUBLANES, inputs.strips)
    return Size(rows, positions, n, together, len(lanes.directions), itemsize, moved)


def _divisors(number: int) -> list[int]:
    """The greatest one first."""
    return [k for k in range(number, 0, -1) if number % k == 0]


class KernelPlan(NamedTuple):
    """One kernel: the axes that it scans, its blocks, and whether it completes another one."""

    axes: tuple[int, ...]
    blocks: Blocks
    completes: bool


def plan_kernels(lanes: Lanes, size: Size) -> list[KernelPlan]:
    """One kernel for both axes where a whole image fits, else one for each; ``size.fits``."""
    both = size.blocks_of(lanes.axes, completes=False)
    if both is not None and (both.buffers > 1 or len(lanes.axes) == 1):
        return [KernelPlan(lanes.axes, both, completes=False)]
    plans: list[KernelPlan] = []
    for axis in lanes.axes:
        completes = bool(plans)
        blocks = size.blocks_of((axis,), completes=completes)
        if blocks is None:
            raise ValueError(f"a line of {size} does not fit on the chip")
        plans.append(KernelPlan((axis,), blocks, completes))
    return plans


class BlockArray(NamedTuple):
    """What a kernel reads: block ``slot`` of the lanes of an array like the inputs or the gates."""

    array: jax.Array
    slot: int
    as_gates: bool


class BlockOutput(NamedTuple):
    """What a kernel writes, and the array, if there is one, whose other values stay."""

    shape: jax.ShapeDtypeStruct
    slot: int
    as_gates: bool
    begun: jax.Array | None


def call_kernel(
    kernel: Callable,
    plan: KernelPlan,
    tables: Sequence[jax.Array],
    arrays: Sequence[BlockArray],
    outputs: Sequence[BlockOutput],
    *,
    operations: int,
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel over blocks.

    Args:
        kernel: takes references to the tables, to blocks of the arrays, to those of what was begun
            if it completes that, to those of the outputs, and, for a gradient, to float32 values of
            the shape of the inputs' block.
        plan: of the kernel.
        tables: which it takes as a whole; the first has an entry for each position of the gates
            over one of the inputs.
        arrays: the inputs, the gates, and others.
        outputs: the states; or the gradients of the inputs and of the gates.
        operations: additions and multiplications for each value of a state, without the products
            with the tables, which the matrix unit computes.
        interpret: run it step by step in JAX.
    """
    of_rows, of_positions, of_strips, buffers = plan.blocks
    rows, positions, strips, _ = arrays[0].array.shape
    gates_positions = arrays[1].array.shape[1]
    of_gates = min(len(tables[0]) * of_positions, gates_positions)
    mode: dict[str, Any] = {} if buffers > 1 else {"pipeline_mode": pl.Buffered(buffers)}

    def spec(slot: int, as_gates: bool) -> pl.BlockSpec:
        return pl.BlockSpec(
            (of_rows, of_gates if as_gates else of_positions, of_strips, LANES),
            lambda strip, row, position: (row, position, strip, slot),
            **mode,
        )

    def spec_of_begun(output: BlockOutput) -> pl.BlockSpec:
        if plan.completes:
            return spec(output.slot, output.as_gates)
        return pl.BlockSpec(memory_space=pl.ANY)  # other blocks of it stay

    begun = {i: output.begun for i, output in enumerate(outputs) if output.begun is not None}
    operands = [*tables, *(array.array for array in arrays), *begun.values()]
    first = len(operands) - len(begun)
    read = len(operands) if plan.completes else first
    results = [output.shape for output in outputs]

    def run(*refs: Any) -> None:
        kernel(*refs[:read], *refs[len(operands) :])

    moved = sum(operand.nbytes for operand in operands[:read])
    moved += sum(result.size * result.dtype.itemsize for result in results)
    sums = pltpu.VMEM((of_rows, of_positions, of_strips, LANES), jnp.float32)
    return pl.pallas_call(
        run,
        grid=(strips // of_strips, rows // of_rows, positions // of_positions),
        in_specs=[
            *(pl.BlockSpec(table.shape, lambda *_: (0, 0, 0)) for table in tables),
            *(spec(array.slot, array.as_gates) for array in arrays),
            *(spec_of_begun(outputs[i]) for i in begun),
        ],
        out_specs=[spec(output.slot, output.as_gates) for output in outputs],
        out_shape=results,
        scratch_shapes=[sums] * (len(outputs) - 1),
        input_output_aliases={
            first + place: i
            for place, (i, array) in enumerate(begun.items())
            if array.dtype == results[i].dtype
        },
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
        cost_estimate=pl.CostEstimate(
            flops=operations * rows * gates_positions * strips * LANES,
            transcendentals=0,
            bytes_accessed=moved,
        ),
        interpret=interpret,
    )(*operands)
