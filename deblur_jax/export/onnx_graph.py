"""An ONNX graph that is being written, and the values in it.

A value may lie in memory with its axes in another order than it has in the jaxpr: convolutions of
ONNX want channels before rows. ``Value.order`` says how; a transposition of the jaxpr changes that
alone, and a Transpose is written only where an operation needs another order.
"""

import ast
import dataclasses
import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from deblur_jax.export.function import ExportError

Lengths = Sequence[Any]
"""The shape of a value in the jaxpr: integers, or expressions in the open sizes."""


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the graph.

    Attributes:
        name: in the graph.
        order: axis i of it in the graph is axis ``order[i]`` of it in the jaxpr.
    """

    name: str
    order: tuple[int, ...]

    def axis(self, axis: int) -> int:
        """Where an axis of the jaxpr is in the graph."""
        return self.order.index(axis)


class Graph:
    """Nodes and constants of a graph, or of the body of a Scan in it.

    Args:
        onnx: the library.
        lengths: the scalars (int64, of shape (1,)) that hold the open sizes, by their symbols.
        outer: the graph around the body of a Scan.

    Attributes:
        place: where in the source the operation was written that is being translated.
    """

    def __init__(
        self, onnx: ModuleType, lengths: dict[str, str], outer: "Graph | None" = None
    ) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.place: str = outer.place if outer else "the network"
        self.lengths = lengths
        self._root: Graph = outer._root if outer else self
        if outer is None:
            self.constants: dict[str, np.ndarray] = {}
            self._numbers = itertools.count()
            self._known: dict[tuple, str] = {}

    def inner(self) -> "Graph":
        """The body of a Scan; it shares the constants of this graph."""
        return Graph(self.onnx, self.lengths, self)

    def add(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Writes a node with one output; returns the name of that."""
        return self.add_several(operation, inputs, 1, **attributes)[0]

    def add_several(
        self, operation: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> list[str]:
        """Writes a node; returns the names of its outputs."""
        outputs = [self.new_name(operation) for _ in range(count)]
        self.nodes.append(
            self.onnx.helper.make_node(operation, list(inputs), outputs, **attributes)
        )
        return outputs

    def new_name(self, beginning: str) -> str:
        """A name that nothing has yet."""
        return f"{beginning.lower()}_{next(self._root._numbers)}"

    def constant(self, array: Any) -> str:
        """The name of a constant; equal small ones are stored once."""
        array = np.asarray(array)
        key = (array.tobytes(), array.shape, array.dtype.str) if array.size < 64 else None
        if key is not None and key in self._root._known:
            return self._root._known[key]
        name = self.new_name("constant")
        self._root.constants[name] = array
        if key is not None:
            self._root._known[key] = name
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self.constant(np.asarray(numbers, np.int64))

    def in_order(self, value: Value | np.ndarray, order: tuple[int, ...]) -> str:
        """The name of a value whose axes lie in an order of the jaxpr's."""
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order))
        if value.order == order:
            return value.name
        return self.add("Transpose", [value.name], perm=[value.axis(axis) for axis in order])

    def plain(self, value: Value | np.ndarray) -> str:
        """The name of a value whose axes lie as in the jaxpr."""
        return self.in_order(value, tuple(range(rank(value))))

    def shape(self, lengths: Lengths) -> str:
        """A vector with a shape, computed where a length is open."""
        if all(isinstance(length, int) for length in lengths):
            return self.integers(lengths)
        parts = [self._length(length) for length in lengths]
        return self.add("Concat", parts, axis=0)

    def _length(self, length: Any) -> str:
        if isinstance(length, int):
            return self.integers([length])
        return self._computed(ast.parse(str(length), mode="eval").body)

    def _computed(self, expression: ast.expr) -> str:
        operations = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        match expression:
            case ast.Constant(value=int(number)):
                return self.integers([number])
            case ast.Name(id=symbol):
                return self.lengths[symbol]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.add("Neg", [self._computed(operand)])
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in operations:
                sides = [self._computed(left), self._computed(right)]
                return self.add(operations[type(operator)], sides)
        raise ExportError(f"ONNX: a length of {ast.unparse(expression)} is not known here")


def rank(value: Value | np.ndarray) -> int:
    """The number of axes."""
    return value.ndim if isinstance(value, np.ndarray) else len(value.order)
