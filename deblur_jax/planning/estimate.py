"""The time of a program on a TPU, as its compiler estimates it.

libtpu writes its estimate of the cycles that an instruction takes into the optimised program, for
nearly every instruction. Their sum, with the body of each loop as often as it runs, estimates the
program. It comes from the model by which the compiler schedules; nothing was measured.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import deblur_jax
from deblur_jax.planning.chips import Chip
from deblur_jax.planning.program_text import Instruction, Program
from deblur_jax.planning.traffic import COLLECTIVES, FREE

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL_COST = re.compile(r'"cost_estimate":(\{[^{}]*\})')
_OPERATION = re.compile(r'op_name="([^"]*)"')
_PACKAGE = Path(deblur_jax.__file__).parent
_NOT_NAMED = (f"{_PACKAGE / 'ops'}/", "/site-packages/")
"""What calls an operation, or a library, says more of an instruction than their own lines."""

_NAMES = {
    "copy-start": "asynchronous copies",
    "slice-done": "asynchronous slices",
    "custom-call": "other kernels and calls",
    **{kind: f"{kind}s" for kind in COLLECTIVES},
    **{f"{kind}-start": f"{kind}s" for kind in COLLECTIVES},
}
"""Of what carries no cycles; others go by their name in XLA."""


class Cost(NamedTuple):
    """What the instructions of one place take.

    Attributes:
        place: the line of the source, with its file, and at most two lines of that file from which
            it was called; or "made by the compiler".
        operation: of JAX, as ``conv_general_dilated``; ", gradient" where it is part of one.
        seconds: in one run of the program.
    """

    place: str
    operation: str
    seconds: float


class Estimate(NamedTuple):
    """The estimated time of a program on one chip.

    Attributes:
        seconds: in all.
        kernel_seconds: how much of that are Pallas kernels. Their cycles are not in the program:
            this is the time of their bytes or of their operations at the chip's published speed,
            whichever takes longer.
        costs: the places in the source, the most expensive one first.
        not_counted: instructions without cycles, and how often they run.
    """

    seconds: float
    kernel_seconds: float
    costs: list[Cost]
    not_counted: dict[str, int]


def estimate_time(program: Program, chip: Chip) -> Estimate | None:
    """Reads the compiler's estimate; None where the program carries none.

    Args:
        program: compiled by libtpu for this chip.
        chip: the one that it runs on.
    """
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    not_counted: Counter[str] = Counter()
    kernel_seconds = 0.0
    carried = False
    for instruction, around, times in _runs(program, program.entry, 1):
        if found := _CYCLES.search(instruction.text):
            carried = True
            taken = times * int(found[1]) / chip.clock
        elif 'custom_call_target="tpu_custom_call"' in instruction.text:
            taken = times * _kernel_seconds(instruction, around, chip)
            kernel_seconds += taken
        elif instruction.opcode not in FREE:
            opcode = instruction.opcode
            scalar = instruction.bytes(anywhere=True) <= 8 and opcode not in _NAMES
            not_counted["scalar operations" if scalar else _NAMES.get(opcode, opcode)] += times
            continue
        else:
            continue
        seconds[_place(program, instruction), _operation(instruction)] += taken
    if not carried:
        return None
    by_cost = sorted(seconds.items(), key=lambda item: item[1], reverse=True)
    costs = [Cost(*key, taken) for key, taken in by_cost if taken]
    return Estimate(sum(seconds.values()), kernel_seconds, costs, dict(not_counted.most_common()))


def _runs(
    program: Program, computation: str, times: int
) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
    """Each instruction that runs, with those around it and how often it runs.

    Of a conditional the costliest branch runs.
    """
    around = program.computations[computation]
    for instruction in around.values():
        if instruction.opcode == "while":
            body = instruction.called["body"]
            yield from _runs(program, body, times * program.iterations(instruction))
        elif instruction.opcode in ("call", "async-start"):
            yield from _runs(program, instruction.computation, times)
        elif instruction.opcode == "conditional":
            costliest = max(instruction.branches, key=lambda name: _cycles(program, name))
            yield from _runs(program, costliest, times)
        else:
            yield instruction, around, times


def _cycles(program: Program, computation: str) -> int:
    runs = _runs(program, computation, 1)
    return sum(times * int(n) for i, _, times in runs for n in _CYCLES.findall(i.text))


def _kernel_seconds(kernel: Instruction, around: dict[str, Instruction], chip: Chip) -> float:
    """By what it says of itself; what lies on the chip already is not moved from main memory."""
    moved = kernel.bytes() + sum(around[name].bytes() for name in kernel.operands)
    found = _KERNEL_COST.search(kernel.text)
    cost = json.loads(found[1]) if found else {}
    moved = min(moved, int(cost.get("bytes_accessed", moved)))
    operations = int(cost.get("flops", 0))
    return max(moved / chip.bytes_per_second, operations / chip.vector_operations)


def _place(program: Program, instruction: Instruction) -> str:
    places = program.places(instruction)
    if not places:
        return "made by the compiler"
    named = [line for line in places if not any(part in line.file for part in _NOT_NAMED)]
    line, *callers = named or places
    place = f"{line.file.removeprefix(f'{_PACKAGE.parent}/')}:{line.number}"
    in_file = itertools.takewhile(lambda caller: caller.file == line.file, callers)
    numbers = dict.fromkeys(caller.number for caller in in_file)
    return place + "".join(f" from :{number}" for number in itertools.islice(numbers, 2))


def _operation(instruction: Instruction) -> str:
    found = _OPERATION.search(instruction.text)
    if found is None:
        return instruction.opcode
    name = found[1].rpartition("/")[2] or instruction.opcode
    return f"{name}, gradient" if "transpose(" in found[1] else name
