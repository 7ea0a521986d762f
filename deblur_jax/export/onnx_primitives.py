"""What each primitive of a jaxpr is in ONNX."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deblur_jax.export.function import ExportError
from deblur_jax.export.onnx_graph import Graph, Value, rank

Operand = Value | np.ndarray
Translation = Callable[..., list[Value]]
"""``(graph, operands, equation) -> values``."""

TO_THE_END = np.iinfo(np.int64).max
_CHANNELS_FIRST = (0, 3, 1, 2)
_KERNEL_ORDER = (3, 2, 0, 1)

ELEMENTWISE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"},
    **{"neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid"},
    **{"sqrt": "Sqrt", "abs": "Abs", "pow": "Pow", "erf": "Erf", "floor": "Floor", "sign": "Sign"},
    **{"ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal"},
    **{"and": "And", "or": "Or", "not": "Not", "sin": "Sin", "cos": "Cos", "ceil": "Ceil"},
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def elementwise(graph: Graph, operation: str, operands: Sequence[Operand]) -> list[Value]:
    """An operation on every element; all operands in the order of the first that is computed."""
    order = _common_order(operands)
    names = [graph.in_order(operand, order if rank(operand) else ()) for operand in operands]
    return [Value(graph.add(operation, names), order)]


def _common_order(operands: Sequence[Operand]) -> tuple[int, ...]:
    return max(
        (operand.order for operand in operands if isinstance(operand, Value)),
        key=len,  # a scalar has none
    )


def _elementwise(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    name = equation.primitive.name
    zero = operands[-1]
    if name == "max" and isinstance(zero, np.ndarray) and zero.ndim == 0 and zero == 0:
        return elementwise(graph, "Relu", operands[:1])  # which runtimes fuse with a convolution
    return elementwise(graph, ELEMENTWISE[name], operands)


def _complementary_error(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del equation
    one = np.ones((), np.float32)
    return elementwise(graph, "Sub", [one, *elementwise(graph, "Erf", operands)])


def _length(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    """The length of an axis as a number."""
    del operands
    kind = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.outvars[0].aval.dtype))
    number = graph.add("Squeeze", [graph.shape([equation.params["dim"]])])
    return [Value(graph.add("Cast", [number], to=kind), ())]


def _select(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del equation
    condition, where_false, where_true = operands
    return elementwise(graph, "Where", [condition, where_true, where_false])


def _integer_power(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    power = np.asarray(equation.params["y"], np.float32)
    return elementwise(graph, "Pow", [*operands, power])


def _square(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del equation
    return elementwise(graph, "Mul", [operands[0], operands[0]])


def _reciprocal_root(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del equation
    return elementwise(graph, "Reciprocal", elementwise(graph, "Sqrt", operands))


def _convert(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    kind = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return [Value(graph.add("Cast", [value.name], to=kind), value.order)]


def _same(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del graph, equation
    return [operand for operand in operands if isinstance(operand, Value)]


def _convolution(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    params = equation.params
    layout = params["dimension_numbers"]
    known = (_CHANNELS_FIRST, _KERNEL_ORDER, _CHANNELS_FIRST)
    if (tuple(layout.lhs_spec), tuple(layout.rhs_spec), tuple(layout.out_spec)) != known:
        raise ExportError("ONNX: a convolution that is not NHWC with an HWIO kernel")
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise ExportError("ONNX: a transposed convolution, or one with groups of a batch")
    images, kernel = operands
    before, after = zip(*params["padding"], strict=True)
    name = graph.add(
        "Conv",
        [graph.in_order(images, _CHANNELS_FIRST), graph.in_order(kernel, _KERNEL_ORDER)],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        pads=[*before, *after],
    )
    return [Value(name, _CHANNELS_FIRST)]


def _transpose(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    del graph
    (value,) = operands
    assert isinstance(value, Value)
    moved = equation.params["permutation"]
    return [Value(value.name, tuple(moved.index(axis) for axis in value.order))]


def _slice(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    shape, params = equation.invars[0].aval.shape, equation.params
    starts, ends, axes, steps = [], [], [], []
    strides = params["strides"] or (1,) * len(shape)
    limits = zip(shape, params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (length, start, end, step) in enumerate(limits):
        first, last = _from_an_end(start, length), _from_an_end(end, length, is_end=True)
        if (first, last, step) != (0, TO_THE_END, 1):
            starts.append(first)
            ends.append(last)
            axes.append(value.axis(axis))
            steps.append(step)
    if not axes:
        return [value]
    parts = [graph.integers(numbers) for numbers in (starts, ends, axes, steps)]
    return [Value(graph.add("Slice", [value.name, *parts]), value.order)]


def _gather(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    """An index or a slice at a constant place, which is a gather where lengths are open."""
    value, places = operands
    params, shape = equation.params, equation.invars[0].aval.shape
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if (
        not (isinstance(value, Value) and isinstance(places, np.ndarray) and places.ndim == 1)
        or numbers.operand_batching_dims
    ):
        raise ExportError("ONNX: an index that is no constant place; jax.lax.slice can have a step")
    starts, ends, axes = [], [], []
    for axis, place in zip(numbers.start_index_map, places.tolist(), strict=True):
        if sizes[axis] != shape[axis]:
            starts.append(place)
            ends.append(_from_an_end(place + sizes[axis], shape[axis], is_end=True))
            axes.append(value.axis(axis))
    parts = [graph.integers(part) for part in (starts, ends, axes)]
    name = graph.add("Slice", [value.name, *parts]) if axes else value.name
    return _without_axes(graph, Value(name, value.order), numbers.collapsed_slice_dims)


def _counting(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    raise ExportError(
        "ONNX: an index with a step of an axis of any length: use jax.lax.slice, which takes a "
        "step, or jnp.flip"
    )


def _from_an_end(place: Any, length: Any, *, is_end: bool = False) -> int:
    """A place on an axis, counted from its end where the axis is open and the place near that."""
    from_end = place - length
    if isinstance(from_end, int) and (is_end or not isinstance(place, int)):
        return TO_THE_END if from_end == 0 else from_end
    if isinstance(place, int):
        return place
    raise ExportError(f"ONNX: a slice at {place} of an axis of {length}")


def _concatenate(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    order = _common_order(operands)
    names = [graph.in_order(operand, order) for operand in operands]
    axis = order.index(equation.params["dimension"])
    return [Value(graph.add("Concat", names, axis=axis), order)]


def _stack(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    axis = equation.params["axis"]
    order = _common_order(operands)
    # A new axis in front in memory, which is axis ``axis`` of the jaxpr.
    front = graph.integers([0])
    names = [
        graph.add("Unsqueeze", [graph.in_order(operand, order), front]) for operand in operands
    ]
    lifted = tuple(other + (other >= axis) for other in order)
    return [Value(graph.add("Concat", names, axis=0), (axis, *lifted))]


def _split(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    sizes, axis = equation.params["sizes"], value.axis(equation.params["axis"])
    inputs = [value.name, graph.integers(sizes)]
    return [
        Value(name, value.order)
        for name in graph.add_several("Split", inputs, len(sizes), axis=axis)
    ]


def _pad(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    value, filling = operands
    assert isinstance(value, Value)
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        raise ExportError("ONNX: padding that is negative or between elements")
    pads = [config[axis][end] for end in (0, 1) for axis in value.order]
    name = graph.add("Pad", [value.name, graph.integers(pads), graph.plain(filling)])
    return [Value(name, value.order)]


def _reshape(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    shape = equation.params["new_sizes"]
    name = graph.add("Reshape", [graph.plain(operands[0]), graph.shape(shape)])
    return [Value(name, tuple(range(len(shape))))]


def _squeeze(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    return _without_axes(graph, value, equation.params["dimensions"])


def _without_axes(graph: Graph, value: Value, dimensions: Sequence[int]) -> list[Value]:
    """Drops axes of length 1."""
    gone = sorted(dimensions)
    if not gone:
        return [value]
    axes = graph.integers([value.axis(axis) for axis in gone])
    order = tuple(
        axis - sum(other < axis for other in gone) for axis in value.order if axis not in gone
    )
    return [Value(graph.add("Squeeze", [value.name, axes]), order)]


def _expand_dims(graph: Graph, value: Operand, shape: Sequence[Any], places: Sequence[int]) -> str:
    """A value with axes of length 1 put in, so that its own lie at ``places``."""
    missing = [axis for axis in range(len(shape)) if axis not in places]
    name = graph.plain(value)
    return graph.add("Unsqueeze", [name, graph.integers(missing)]) if missing else name


def _broadcast(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    name = _expand_dims(graph, operands[0], shape, places)
    before = equation.invars[0].aval.shape
    grows = len(before) == 0 or any(
        shape[axis] != (before[places.index(axis)] if axis in places else 1)
        for axis in range(len(shape))
    )
    if grows:
        name = graph.add("Expand", [name, graph.shape(shape)])
    return [Value(name, tuple(range(len(shape))))]


def _reverse(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    axes = [value.axis(axis) for axis in equation.params["dimensions"]]
    ones = [1] * len(axes)
    numbers = [[-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-one for one in ones]]
    parts = [graph.integers(part) for part in numbers]
    return [Value(graph.add("Slice", [value.name, *parts]), value.order)]


def _reduction(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (value,) = operands
    assert isinstance(value, Value)
    gone = sorted(equation.params["axes"])
    axes = [value.axis(axis) for axis in gone]
    operation = _REDUCTIONS[equation.primitive.name]
    if operation == "ReduceSum":
        name = graph.add(operation, [value.name, graph.integers(axes)], keepdims=0)
    else:
        name = graph.add(operation, [value.name], axes=axes, keepdims=0)
    order = tuple(
        axis - sum(other < axis for other in gone) for axis in value.order if axis not in gone
    )
    return [Value(name, order)]


def _matrix_product(graph: Graph, operands: Sequence[Operand], equation: Any) -> list[Value]:
    (left, right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    if batch_left or batch_right or len(left) != 1 or len(right) != 1:
        raise ExportError("ONNX: a product over several axes, or of batches of matrices")
    if rank(operands[1]) != 2:
        raise ExportError("ONNX: a product with an array that is no matrix")
    first = tuple(axis for axis in range(rank(operands[0])) if axis != left[0])
    names = [
        graph.in_order(operands[0], (*first, left[0])),
        graph.in_order(operands[1], (right[0], 1 - right[0])),
    ]
    return [Value(graph.add("MatMul", names), tuple(range(rank(operands[0]))))]


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "select_n": _select,
    "erfc": _complementary_error,
    "dim_as_value": _length,
    "integer_pow": _integer_power,
    "square": _square,
    "rsqrt": _reciprocal_root,
    "convert_element_type": _convert,
    "copy": _same,
    "stop_gradient": _same,
    "conv_general_dilated": _convolution,
    "dot_general": _matrix_product,
    "transpose": _transpose,
    "slice": _slice,
    "gather": _gather,
    "iota": _counting,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "pad": _pad,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "rev": _reverse,
}
"""By the name of the primitive."""
