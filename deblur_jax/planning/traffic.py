"""What a program moves: bytes to and from main memory, and between chips."""

from collections import Counter

from deblur_jax.planning.program_text import Instruction, Program

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "iota",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "copy-done",
        "slice-start",
        "all-reduce-done",
        "all-gather-done",
        "async-done",
        "async-update",
        "collective-permute-done",
    }
)
"""They move nothing, or are the second half of an asynchronous pair, which is counted once."""
_SLICES = ("slice", "dynamic-slice")


def collectives_in(program: Program) -> dict[str, dict[str, int]]:
    """The collectives of a program, by kind: how many, and the bytes they return."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for instructions in program.computations.values():
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                count[kind] += 1
                size[kind] += instruction.bytes(anywhere=True)
    return {kind: {"count": count[kind], "bytes": size[kind]} for kind in sorted(count)}


def bytes_moved(program: Program) -> int:
    """Bytes that a program reads from and writes to the device's main memory.

    The operands and the result of each instruction are counted, those in a loop as often as it
    runs, and of a slice only what is sliced. A ``while`` whose number of iterations is not in its
    condition counts once.
    """
    return _Traffic(program).of(program.entry)


class _Traffic:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.computations = program.computations
        self.known: dict[str, int] = {}

    def of(self, computation: str) -> int:
        if computation not in self.known:
            instructions = self.computations[computation]
            self.known[computation] = sum(
                self.of_instruction(instruction, instructions)
                for instruction in instructions.values()
            )
        return self.known[computation]

    def of_instruction(self, instruction: Instruction, around: dict[str, Instruction]) -> int:
        opcode = instruction.opcode
        if opcode in FREE:
            return 0
        if opcode == "while":
            return self.program.iterations(instruction) * self.of(instruction.called["body"])
        if opcode == "conditional":
            return max(self.of(name) for name in instruction.branches)
        if opcode in ("call", "async-start"):
            return self.of(instruction.computation)
        if opcode == "fusion":
            return self.of_fusion(instruction, around)
        operands = [around[name].bytes() for name in instruction.operands]
        if opcode == "slice-done":  # only what comes from HBM is copied asynchronously
            return instruction.bytes() + instruction.bytes(anywhere=True)
        if opcode in _SLICES:
            part = instruction.bytes(anywhere=True)
            return min(operands[0], part) + instruction.bytes()
        if opcode == "dynamic-update-slice":
            return 2 * operands[1]
        if opcode == "copy-start":  # its type holds source and destination
            return instruction.bytes()
        return sum(operands) + instruction.bytes()

    def of_fusion(self, fusion: Instruction, around: dict[str, Instruction]) -> int:
        """What of each operand is read, and what of the result is written."""
        inside, results = _flat(self.program, fusion.computation, fusion.operands)
        total = 0
        for name in dict.fromkeys(fusion.operands):
            # The operand's place in memory is in the type that it has outside.
            size = around[name].bytes()
            users = [user for user in inside.values() if name in user.operands]
            parts = [_part_of_operand(user, name) for user in users]
            whole = None in parts or name in results
            total += size if whole else min(size, sum(part or 0 for part in parts))
        written = [inside[name] for name in results if name in inside]
        if any(i.opcode == "dynamic-update-slice" for i in written):
            return total + sum(
                inside[i.operands[1]].bytes()
                if i.opcode == "dynamic-update-slice" and i.operands[1] in inside
                else i.bytes()
                for i in written
            )
        return total + fusion.bytes()


def _flat(
    program: Program, computation: str, operands: list[str]
) -> tuple[dict[str, Instruction], list[str]]:
    """A fused computation with the fusions inside it spelt out, and the names of its results.

    Its parameters go by the names of the operands, and what only changes a layout by the name of
    what it changes: the slice of a copy reads no more than the slice.
    """
    same: dict[str, str] = {}
    flat: dict[str, Instruction] = {}
    results: list[str] = []
    for i in program.computations[computation].values():
        named = i._replace(operands=[same.get(name, name) for name in i.operands])
        if i.opcode == "parameter":
            same[i.name] = operands[_parameter_number(i.text)]
        elif i.opcode in ("bitcast", "copy"):
            same[i.name] = named.operands[0]
        elif i.opcode == "fusion":
            nested, of_nested = _flat(program, i.computation, named.operands)
            flat |= nested
            if len(of_nested) == 1:
                same[i.name] = of_nested[0]
        else:
            flat[i.name] = named
        if i.text.lstrip().startswith("ROOT "):
            last = named.operands if i.opcode == "tuple" else [same.get(i.name, i.name)]
            results = [same.get(name, name) for name in last]
    return flat, results


def _parameter_number(text: str) -> int:
    return int(text.partition("parameter(")[2].partition(")")[0])


def _part_of_operand(user: Instruction, operand: str) -> int | None:
    """Bytes that a slice takes of an operand; None where the whole is used."""
    if user.opcode in _SLICES:
        return user.bytes(anywhere=True) if user.operands[0] == operand else 0
    if user.opcode == "dynamic-update-slice" and user.operands[0] == operand:
        return 0  # it is written in place
    return None
