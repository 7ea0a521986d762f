"""What an optimised program of XLA does, read from its text: collectives, and bytes of memory."""

import math
import re
from collections import Counter
from typing import NamedTuple

_ARRAY = re.compile(r"(pred|[a-z]+\d+(?:e\w+)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:true|false)_computation=(%[\w.\-]+)|branch_computations=\{([^}]*)\}")
_OPERAND = re.compile(r"%([\w.\-]+)")
_NUMBER = re.compile(r"s32\[\]\S* constant\((\d+)\)")

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_FREE = frozenset(
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
_OTHER_MEMORY = re.compile(r"S\([1-9]\)")
"""The mark in a layout of the memory on the chip, which is not HBM."""


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    text: str


def collectives_in(program: str) -> dict[str, dict[str, int]]:
    """The collectives of a program, by kind: how many, and the bytes they return."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for instructions in _parse(program)[0].values():
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                count[kind] += 1
                size[kind] += _bytes(instruction.type, anywhere=True)
    return {kind: {"count": count[kind], "bytes": size[kind]} for kind in sorted(count)}


def bytes_moved(program: str) -> int:
    """Bytes that a program reads from and writes to the device's main memory.

    The operands and the result of each instruction are counted, those in a loop as often as it
    runs, and of a slice only what is sliced. A ``while`` whose number of iterations is not in its
    condition counts once.
    """
    computations, entry = _parse(program)
    return _Traffic(computations).of(entry)


class _Traffic:
    def __init__(self, computations: dict[str, dict[str, _Instruction]]) -> None:
        self.computations = computations
        self.known: dict[str, int] = {}

    def of(self, computation: str) -> int:
        if computation not in self.known:
            instructions = self.computations[computation]
            self.known[computation] = sum(
                self.of_instruction(instruction, instructions)
                for instruction in instructions.values()
            )
        return self.known[computation]

    def of_instruction(self, instruction: _Instruction, around: dict[str, _Instruction]) -> int:
        opcode = instruction.opcode
        called = dict(_CALLED.findall(instruction.text))
        if opcode in _FREE:
            return 0
        if opcode == "while":
            return self.count_iterations(called["condition"]) * self.of(called["body"])
        if opcode == "conditional":
            names = _OPERAND.findall(str(_BRANCHES.findall(instruction.text)))
            return max(self.of(name) for name in names)
        if opcode in ("call", "async-start"):
            return self.of(called.get("to_apply") or called["calls"])
        if opcode == "fusion":
            return self.of_fusion(instruction, around, self.computations[called["calls"]])
        operands = [_bytes(around[name].type) for name in instruction.operands]
        if opcode == "slice-done":  # only what comes from HBM is copied asynchronously
            return _bytes(instruction.type) + _bytes(instruction.type, anywhere=True)
        if opcode in _SLICES:
            part = _bytes(instruction.type, anywhere=True)
            return min(operands[0], part) + _bytes(instruction.type)
        if opcode == "dynamic-update-slice":
            return 2 * operands[1]
        if opcode == "copy-start":  # its type holds source and destination
            return _bytes(instruction.type)
        return sum(operands) + _bytes(instruction.type)

    def of_fusion(
        self, fusion: _Instruction, around: dict[str, _Instruction], inside: dict[str, _Instruction]
    ) -> int:
        """What of each operand is read, and what of the result is written."""
        parameters = {
            _parameter_number(i.text): i.name for i in inside.values() if i.opcode == "parameter"
        }
        total = 0
        for position, name in enumerate(fusion.operands):
            # The operand's place in memory is in the type that it has outside.
            size = _bytes(around[name].type)
            users = [i for i in inside.values() if parameters[position] in i.operands]
            parts = [_part_of_operand(i, parameters[position], inside) for i in users]
            total += size if None in parts else min(size, sum(part or 0 for part in parts))
        root = next(i for i in inside.values() if i.text.lstrip().startswith("ROOT "))
        written = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if any(i.opcode == "dynamic-update-slice" for i in written):
            return total + sum(
                _bytes(inside[i.operands[1]].type)
                if i.opcode == "dynamic-update-slice"
                else _bytes(i.type)
                for i in written
            )
        return total + _bytes(fusion.type)

    def count_iterations(self, condition: str) -> int:
        instructions = self.computations[condition].values()
        numbers = [int(n) for i in instructions for n in _NUMBER.findall(i.text)]
        return max(numbers, default=1)


def _parameter_number(text: str) -> int:
    return int(text.partition("parameter(")[2].partition(")")[0])


def _part_of_operand(
    user: _Instruction, operand: str, inside: dict[str, _Instruction]
) -> int | None:
    """Bytes that a slice takes of an operand; None where the whole is used."""
    if user.opcode in _SLICES:
        return _bytes(user.type, anywhere=True) if user.operands[0] == operand else 0
    if user.opcode == "dynamic-update-slice" and user.operands[0] == operand:
        return 0  # it is written in place
    return None


def _parse(program: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """Instructions by name, by computation; and the name of the entry."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            kind, rest = _split_type(found[3])
            opcode, _, rest = rest.partition("(")
            operands = _OPERAND.findall(rest[: _closing(rest)])
            current[found[2]] = _Instruction(found[2], kind, opcode.strip(), operands, line)
    return computations, entry


def _split_type(text: str) -> tuple[str, str]:
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    end = _closing(text[1:]) + 2
    return text[:end], text[end + 1 :]


def _closing(text: str) -> int:
    """The position where the parenthesis that is open at the beginning is closed."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position
    return len(text)


def _bytes(kind: str, anywhere: bool = False) -> int:
    """The bytes of the arrays of a type that are in main memory, or of all arrays."""
    total = 0
    for name, dimensions, layout in _ARRAY.findall(kind):
        if anywhere or not _OTHER_MEMORY.search(layout):
            bits = 8 if name == "pred" else int(re.sub(r"^\D*(\d+).*", r"\1", name))
            total += math.prod(int(side) for side in dimensions.split(",") if side) * bits // 8
    return total
