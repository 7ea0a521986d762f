"""An optimised program of XLA, read from its text."""

import dataclasses
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"(pred|[a-z]+\d+(?:e\w+)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:true|false)_computation=(%[\w.\-]+)|branch_computations=\{([^}]*)\}")
_OPERAND = re.compile(r"%([\w.\-]+)")
_NUMBER = re.compile(r"s32\[\]\S* constant\((\d+)\)")

_OTHER_MEMORY = re.compile(r"S\([1-9]\)")
"""The mark in a layout of the memory on the chip, which is not HBM."""
_TABLE = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)$")
_ROW = re.compile(r"^(\d+) (.*)$")
_FIELD = re.compile(r"(\w+)=(\d+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    type: str
    opcode: str
    operands: list[str]
    text: str

    @property
    def called(self) -> dict[str, str]:
        """The computations that it names, by their part in it: calls, to_apply, body, condition."""
        return dict(_CALLED.findall(self.text))

    @property
    def computation(self) -> str:
        """The one that a call, a fusion or an asynchronous start runs."""
        return self.called.get("to_apply") or self.called["calls"]

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        return _OPERAND.findall(str(_BRANCHES.findall(self.text)))

    def bytes(self, anywhere: bool = False) -> int:
        """Of its result in main memory, or in all memories."""
        return _type_bytes(self.type, anywhere)


class Line(NamedTuple):
    """A place in a source."""

    file: str
    number: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
        computations: instructions by name, by computation.
        entry: the name of the computation that runs.
        frames: by number, a place in the source, and the number of the frame that called it.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    frames: dict[int, tuple[Line, int]]

    def iterations(self, loop: Instruction) -> int:
        """How often a ``while`` runs; 1 where its condition does not hold the number."""
        instructions = self.computations[loop.called["condition"]].values()
        return max((int(n) for i in instructions for n in _NUMBER.findall(i.text)), default=1)

    def places(self, instruction: Instruction) -> list[Line]:
        """Where in the source an instruction comes from, the innermost call first.

        Empty where the compiler made it.
        """
        found = _FRAME.search(instruction.text)
        number, places = int(found[1]) if found else 0, []
        while number in self.frames:
            line, number = self.frames[number]
            places.append(line)
        return places


def parse_program(text: str) -> Program:
    """Reads ``compiled.as_text()``."""
    computations: dict[str, dict[str, Instruction]] = {}
    tables: dict[str, dict[int, str]] = {}
    current: dict[str, Instruction] = {}
    entry, rows = "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            kind, rest = _split_type(found[3])
            opcode, _, rest = rest.partition("(")
            operands = _OPERAND.findall(rest[: _closing(rest)])
            current[found[2]] = Instruction(found[2], kind, opcode.strip(), operands, line)
        elif table := _TABLE.match(line):
            rows = tables.setdefault(table[1], {})
        elif row := _ROW.match(line):
            rows[int(row[1])] = row[2]
    return Program(computations, entry, _frames(tables))


def _type_bytes(kind: str, anywhere: bool = False) -> int:
    """The bytes of the arrays of a type that are in main memory, or of all arrays."""
    total = 0
    for name, dimensions, layout in _ARRAY.findall(kind):
        if anywhere or not _OTHER_MEMORY.search(layout):
            bits = 8 if name == "pred" else int(re.sub(r"^\D*(\d+).*", r"\1", name))
            total += math.prod(int(side) for side in dimensions.split(",") if side) * bits // 8
    return total


def _frames(tables: dict[str, dict[int, str]]) -> dict[int, tuple[Line, int]]:
    """A frame is a row of numbers: of its place, and one more than that of its caller's frame."""
    frames = {}
    for number, row in tables.get("StackFrames", {}).items():
        fields = {name: int(value) for name, value in _FIELD.findall(row)}
        place = dict(_FIELD.findall(tables["FileLocations"][fields["file_location_id"]]))
        file = tables["FileNames"][int(place["file_name_id"])].strip('"')
        frames[number] = Line(file, int(place["line"])), fields["parent_frame_id"] - 1
    return frames


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
