"""A network as ONNX, for onnxruntime, browsers and telephones: its jaxpr, operation by operation.

Nothing is traced twice and nothing guessed: what the jaxpr says is what the file computes. Values
that do not depend on the images are computed here and stored. The recurrence is ONNX's Scan; a loop
over the layers of a stack is written out.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np

import deblur_jax
from deblur_jax.export.function import SYMBOLS, Exportable, ExportError
from deblur_jax.export.onnx_graph import Graph, Value, rank
from deblur_jax.export.onnx_primitives import TRANSLATIONS, Operand

OPSET = 17
_IR_VERSION = 8
"""Of the file: what onnxruntime reads since 1.11."""
INPUT, OUTPUT = "blurred", "restored"
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Calls, and where their body is."""


def to_onnx(network: Exportable) -> bytes:
    """The file, with the parameters inside; its input is "blurred", its output "restored".

    Raises:
        ExportError: without the package onnx, or for an operation that is not known here.
    """
    onnx = _library()
    images = network.input_shape()
    traced = jax.make_jaxpr(functools.partial(network, network.params))(images)
    graph = Graph(onnx, {})
    _name_lengths(graph, network)
    (restored,) = _translated(
        graph,
        traced.jaxpr,
        [np.asarray(constant) for constant in traced.consts],
        [Value(INPUT, (0, 1, 2, 3))],
    )
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.plain(restored)], [OUTPUT]))
    model = _model(onnx, graph, network)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _library() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise ExportError(
            "ONNX is written with the package onnx, which is missing: pip install onnx onnxruntime"
        ) from None
    return onnx


def _name_lengths(graph: Graph, network: Exportable) -> None:
    """Computes the open sizes: batch, and height and width over the multiple."""
    shape = graph.add("Shape", [INPUT])
    for axis, symbol in enumerate(SYMBOLS):
        length = graph.add("Gather", [shape, graph.integers([axis])])
        if axis:
            length = graph.add("Div", [length, graph.integers([network.multiple])])
        graph.lengths[symbol] = length


def _model(onnx: ModuleType, graph: Graph, network: Exportable) -> Any:
    helper, sizes = onnx.helper, network.sizes
    shape = [sizes.batch or "batch", sizes.height or "height", sizes.width or "width", 3]
    tensors = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in (INPUT, OUTPUT)
    ]
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in graph.constants.items()]
    body = helper.make_graph(graph.nodes, "deblur_jax", tensors[:1], tensors[1:], constants)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="deblur_jax",
        producer_version=deblur_jax.__version__,
    )
    helper.set_model_props(model, network.about)
    return model


def _translated(
    graph: Graph, jaxpr: Any, constants: Sequence[Operand], inputs: Sequence[Operand]
) -> list[Operand]:
    """Writes the equations of a jaxpr; returns its outputs."""
    known: dict[Any, Operand] = {
        **dict(zip(jaxpr.constvars, constants, strict=True)),
        **dict(zip(jaxpr.invars, inputs, strict=True)),
    }

    def read(variable: Any) -> Operand:
        if hasattr(variable, "val"):
            return np.asarray(variable.val, variable.aval.dtype)
        return known[variable]

    for equation in jaxpr.eqns:
        operands = [read(variable) for variable in equation.invars]
        outputs = _equation(graph, equation, operands)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, operands: list[Operand]) -> Sequence[Operand]:
    name = equation.primitive.name
    graph.place = _place(equation) or graph.place
    if name in _INLINED:
        body = equation.params[_INLINED[name]]
        inner, constants = getattr(body, "jaxpr", body), getattr(body, "consts", ())
        return _translated(graph, inner, [np.asarray(one) for one in constants], operands)
    if name != "dim_as_value" and _is_constant(equation, operands):
        return _computed(equation, operands)
    if name == "scan":
        return _scan(graph, equation, operands)
    if name not in TRANSLATIONS:
        raise ExportError(
            f"{graph.place}: the operation {name} is not known to the export as ONNX; "
            "a file *.stablehlo takes every operation"
        )
    try:
        return TRANSLATIONS[name](graph, operands, equation)
    except ExportError as error:
        raise ExportError(f"{graph.place}: {error}") from None


def _place(equation: Any) -> str | None:
    """Where an operation was written, outside of the libraries; None if it is not known."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if "/site-packages/" not in frame.file_name:
            return f"{frame.file_name}:{frame.line_num}"
    return None


def _is_constant(equation: Any, operands: Sequence[Operand]) -> bool:
    shapes = [variable.aval.shape for variable in equation.outvars]
    are_known = all(isinstance(length, int) for shape in shapes for length in shape)
    return are_known and all(isinstance(operand, np.ndarray) for operand in operands)


def _computed(equation: Any, operands: Sequence[Operand]) -> list[np.ndarray]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        outputs = equation.primitive.bind(*operands, **equation.params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [np.asarray(output) for output in outputs]


def _scan(graph: Graph, equation: Any, operands: list[Operand]) -> list[Operand]:
    """A loop: written out where it is over constants, such as a stack's layers; else a Scan."""
    params = equation.params
    consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    shared, carry, lines = operands[:consts], operands[consts:carried], operands[carried:]
    if all(isinstance(line, np.ndarray) for line in lines) and isinstance(params["length"], int):
        return _written_out(graph, params, shared, carry, lines)
    return _as_scan(graph, equation, shared, carry, lines)


def _written_out(
    graph: Graph,
    params: dict[str, Any],
    shared: Sequence[Operand],
    carry: Sequence[Operand],
    lines: Sequence[Operand],
) -> list[Operand]:
    body = params["jaxpr"]
    constants = [np.asarray(constant) for constant in body.consts]
    steps = range(params["length"])
    for step in reversed(steps) if params["reverse"] else steps:
        inputs = [*shared, *carry, *(line[step] for line in lines)]  # type: ignore[index]
        outputs = _translated(graph, body.jaxpr, constants, inputs)
        carry = outputs[: len(carry)]
        if len(outputs) > len(carry):
            raise ExportError("ONNX: a loop over layers that collects what each of them computes")
    return list(carry)


def _as_scan(
    graph: Graph,
    equation: Any,
    shared: Sequence[Operand],
    carry: Sequence[Operand],
    lines: Sequence[Operand],
) -> list[Operand]:
    """ONNX's Scan; axis 0 of the lines in the jaxpr is where it lies in memory."""
    params = equation.params
    order = next(line.order for line in lines if isinstance(line, Value))
    axis = order.index(0)
    step_order = tuple(place - 1 for place in order if place)
    if any(rank(line) != len(order) for line in lines):
        raise ExportError("ONNX: a loop over arrays of several ranks")
    inner = graph.inner()
    states = [graph.new_name("state") for _ in carry]
    steps = [graph.new_name("line") for _ in lines]
    outputs = _translated(
        inner,
        params["jaxpr"].jaxpr,
        [np.asarray(constant) for constant in params["jaxpr"].consts],
        [*shared, *(Value(name, step_order) for name in (*states, *steps))],
    )
    kind = graph.onnx.TensorProto.FLOAT
    tensor = graph.onnx.helper.make_tensor_value_info
    # A name may come out once, and not be one that comes in.
    results = [inner.add("Identity", [inner.in_order(output, step_order)]) for output in outputs]
    body = graph.onnx.helper.make_graph(
        inner.nodes,
        graph.new_name("body"),
        [tensor(name, kind, None) for name in (*states, *steps)],
        [tensor(name, kind, None) for name in results],
    )
    reverse = int(params["reverse"])
    collected = len(outputs) - len(carry)
    names = graph.add_several(
        "Scan",
        [
            *(graph.in_order(state, step_order) for state in carry),
            *(graph.in_order(line, order) for line in lines),
        ],
        len(outputs),
        body=body,
        num_scan_inputs=len(lines),
        scan_input_axes=[axis] * len(lines),
        scan_input_directions=[reverse] * len(lines),
        scan_output_axes=[axis] * collected,
        scan_output_directions=[reverse] * collected,
    )
    return [
        *(Value(name, step_order) for name in names[: len(carry)]),
        *(Value(name, order) for name in names[len(carry) :]),
    ]
