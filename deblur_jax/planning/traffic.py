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
        called = instruction.called
        if opcode in FREE:
            return 0
        if opcode == "while":
            return self.program.iterations(instruction) * self.of(called["body"])
        if opcode == "conditional":
            return max(self.of(name) for name in instruction.branches)
        if opcode in ("call", "async-start"):
            return self.of(called.get("to_apply") or called["calls"])
        if opcode == "fusion":
            return self.of_fusion(instruction, around, self.computations[called["calls"]])
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

    def of_fusion(
        self, fusion: Instruction, around: dict[str, Instruction], inside: dict[str, Instruction]
    ) -> int:
        """What of each operand is read, and what of the result is written."""
        parameters = {
            _parameter_number(i.text): i.name for i in inside.values() if i.opcode == "parameter"
        }
        total = 0
        for position, name in enumerate(fusion.operands):
            # The operand's place in memory is in the type that it has outside.
            size = around[name].bytes()
            users = [i for i in inside.values() if parameters[position] in i.operands]
            parts = [_part_of_operand(i, parameters[position], inside) for i in users]
            total += size if None in parts else min(size, sum(part or 0 for part in parts))
        root = next(i for i in inside.values() if i.text.lstrip().startswith("ROOT "))
        written = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if any(i.opcode == "dynamic-update-slice" for i in written):
            return total + sum(
                inside[i.operands[1]].bytes() if i.opcode == "dynamic-update-slice" else i.bytes()
                for i in written
            )
        return total + fusion.bytes()


def _parameter_number(text: str) -> int:
    return int(text.partition("parameter(")[2].partition(")")[0])


def _part_of_operand(user: Instruction, operand: str, inside: dict[str, Instruction]) -> int | None:
    """Bytes that a slice takes of an operand; None where the whole is used."""
    if user.opcode in _SLICES:
        return user.bytes(anywhere=True) if user.operands[0] == operand else 0
    if user.opcode == "dynamic-update-slice" and user.operands[0] == operand:
        return 0  # it is written in place
    return None
