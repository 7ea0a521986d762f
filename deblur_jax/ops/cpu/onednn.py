"""Convolutions and matrix products by oneDNN, which jaxlib for x86-64 contains.

They take 0.5 to 0.95 of the time of those that XLA chooses by itself. JAX has no function for them,
but XLA runs them where a program calls ``__onednn$convolution`` or ``__onednn$matmul``
(``xla/backends/cpu/runtime/onednn`` in the source of XLA). That is no stable interface: a call that
another version of jaxlib understands otherwise ends the process. So ``may_run`` knows the versions
that were tried.

The functions here are primitives of JAX without a gradient: ``ops/cpu/convolution.py`` has the
rules. What they become is decided where a program is compiled, and it is XLA's own operations where
oneDNN does not run, for other platforms, in what is exported, and where XLA divides a program among
devices.
"""

import contextvars
import functools
import json
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from deblur_jax.ops.convolution import LAYOUT
from deblur_jax.runtime.compilation import shall_keep_every_program

_TRIED_VERSIONS = ("0.10.2",)
"""Of jaxlib: with them the tests of this module pass."""

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Of the processor; without one of them XLA's own convolution of bfloat16 is the faster one."""

_in_trial = contextvars.ContextVar("_in_trial", default=False)
"""Whether the program that is compiled is the one that finds out whether oneDNN runs."""

Padding = tuple[int, int]
"""Zeros before and after rows and columns."""


def may_run() -> bool:
    """Whether this is a jaxlib with which oneDNN was tried; it starts no device."""
    return (
        jaxlib.version.__version__ in _TRIED_VERSIONS
        and platform.system() == "Linux"
        and platform.machine() == "x86_64"
    )


def takes(inputs: jax.Array, kernel: jax.Array) -> bool:
    """Whether ``convolve`` may compute a convolution of these arrays here."""
    dtype = inputs.dtype
    known = dtype == jnp.float32 or (dtype == jnp.bfloat16 and _multiplies_bfloat16())
    has_values = 0 not in (*inputs.shape, *kernel.shape)
    return known and kernel.dtype == dtype and has_values and may_run()


def convolve(
    inputs: jax.Array, kernel: jax.Array, padding: Padding, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """A convolution with stride 1.

    Args:
        inputs: (b, h, w, i) float32 or bfloat16.
        kernel: (k, k, i, o) of the same dtype.
        padding: of both axes.
        precision: of products, where XLA computes it for another platform.

    Returns:
        (b, h', w', o), summed in float32; h' is h and both paddings, less k - 1.
    """
    return _convolve.bind(inputs, kernel, padding=padding, precision=precision)


def convolve_rectified(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    padding: Padding,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """``convolve``, a bias (o,) and a ReLU, in one pass over the result; the ReLU of NaN is 0."""
    operands = inputs, kernel, bias.astype(inputs.dtype)
    return _convolve_rectified.bind(*operands, padding=padding, precision=precision)


def product_over_rows(
    a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """The transposed ``a`` times ``b``, both float32: (n, i) and (n, o) to (i, o)."""
    return _product.bind(a, b, precision=precision)


def is_available() -> bool:
    """Whether to use oneDNN here, in this process."""
    return not shall_keep_every_program() and _runs()


@functools.cache
def _runs() -> bool:
    """Whether this jaxlib runs oneDNN, found by a small convolution and a small product."""
    if not may_run() or jax.default_backend() != "cpu":
        return False
    rng = np.random.default_rng(0)
    image, kernel = rng.random((1, 8, 8, 8), np.float32), rng.random((3, 3, 8, 8), np.float32)
    rows = rng.random((64, 8), np.float32)
    convolve_padded = functools.partial(convolve, padding=(1, 1))
    plain = functools.partial(_plain_convolution, padding=(1, 1), precision=None)
    rectified = functools.partial(convolve_rectified, padding=(1, 1))
    plain_rectified = functools.partial(_plain_rectified, padding=(1, 1), precision=None)
    plain_product = functools.partial(_plain_product, precision=None)
    return (
        _agree(convolve_padded, plain, image, kernel)
        and _agree(rectified, plain_rectified, image, kernel, -15 * rows[0])
        and _agree(product_over_rows, plain_product, rows, rows)
    )


def _agree(function: Callable, plain: Callable, *arguments: np.ndarray) -> bool:
    token = _in_trial.set(True)
    try:
        with jax.ensure_compile_time_eval():
            found, expected = (
                np.asarray(jax.jit(f).lower(*arguments).compile()(*arguments))
                for f in (function, plain)
            )
    except jax.errors.JaxRuntimeError:
        return False
    finally:
        _in_trial.reset(token)
    return np.allclose(found, expected, rtol=1e-4)


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor does, found in what Linux says of it."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in _BFLOAT16_FLAGS)


def _plain_convolution(
    inputs: jax.Array, kernel: jax.Array, *, padding: Padding, precision: jax.lax.PrecisionLike
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), [padding] * 2, dimension_numbers=LAYOUT, precision=precision
    )


def _plain_rectified(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    padding: Padding,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    linear = _plain_convolution(inputs, kernel, padding=padding, precision=precision) + bias
    return jax.nn.relu(linear)


def _plain_product(a: jax.Array, b: jax.Array, *, precision: jax.lax.PrecisionLike) -> jax.Array:
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=precision)


def _convolution_config(*, padding: Padding, **_: Any) -> dict[str, Any]:
    """What XLA's ``OneDnnConvolutionConfig`` calls a convolution of this layout."""
    before, after = padding
    images = {"data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    kernel = {"input_feature_dim": 2, "output_feature_dim": 3, "spatial_dims": [0, 1]}
    window = {
        "pad_left": [before] * 2,
        "pad_right": [after] * 2,
        "strides": [1, 1],
        "window_dilations": [1, 1],
    }
    return {
        "onednn_conv_config": {
            "dims": 4,
            "feature_groups": 1,
            "input": images,
            "kernel": {"filter": kernel},
            "output": images,
            "window": window,
        }
    }


def _rectified_config(*, padding: Padding, **_: Any) -> dict[str, Any]:
    config = _convolution_config(padding=padding)
    config["onednn_conv_config"]["fusions"] = {"ops": ["BIAS", "RELU"]}
    return config


def _product_config(**_: Any) -> dict[str, Any]:
    return {"onednn_matmul_config": {"transpose_a": True, "transpose_b": False}}


def _primitive(
    name: str, target: str, plain: Callable[..., jax.Array], config: Callable[..., dict[str, Any]]
) -> Primitive:
    """A primitive that calls a target of XLA on the CPU, and else is a plain function."""
    primitive = Primitive(name)
    as_plain = mlir.lower_fun(plain, multiple_results=False)

    def lower(context: mlir.LoweringRuleContext, *operands: Any, **parameters: Any) -> Any:
        module = context.module_context
        # Only this jaxlib understands the call: what is exported shall run with others too.
        if (
            module.lowering_parameters.for_export
            or _leaves_devices_to_xla(module.axis_context)
            or not (_in_trial.get() or is_available())
        ):
            return as_plain(context, *operands, **parameters)
        if _no_callback not in module.host_callbacks:
            module.add_host_callback(_no_callback)
        rule = jax.ffi.ffi_lowering(
            target, api_version=2, backend_config=json.dumps(config(**parameters))
        )
        return rule(context, *operands)

    def abstract(*operands: Any, **parameters: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
        result = jax.eval_shape(functools.partial(plain, **parameters), *shapes)
        return operands[0].update(shape=result.shape, dtype=result.dtype)

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("padding", "precision")))
    mlir.register_lowering(primitive, as_plain)
    mlir.register_lowering(primitive, lower, platform="cpu")
    return primitive


def _no_callback() -> None:
    """Stands among the callbacks of programs that call oneDNN, and is never called.

    JAX keeps no program with callbacks in its cache on disk. XLA can't write these: it takes the
    call for one of another class and reads beyond it.
    """


def _leaves_devices_to_xla(axes: Any) -> bool:
    """Whether XLA shall divide the program among devices: it can't divide a call."""
    if hasattr(axes, "manual_axes"):  # inside a shard_map
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return (getattr(axes, "num_devices", None) or 1) > 1


_convolve = _primitive(
    "onednn_convolution", "__onednn$convolution", _plain_convolution, _convolution_config
)
_convolve_rectified = _primitive(
    "onednn_convolution_relu", "__onednn$convolution", _plain_rectified, _rectified_config
)
_product = _primitive("onednn_product", "__onednn$matmul", _plain_product, _product_config)


def _joining_batches(primitive: Primitive, plain: Callable[..., jax.Array]) -> Callable:
    """``vmap`` over images joins the batches; one over kernels or biases is left to XLA."""

    def batch(
        arguments: Sequence[jax.Array], axes: Sequence[Any], **parameters: Any
    ) -> tuple[jax.Array, int]:
        if any(axis is not None for axis in axes[1:]):
            mapped = jax.vmap(functools.partial(plain, **parameters), tuple(axes))
            return mapped(*arguments), 0
        images = jnp.moveaxis(arguments[0], axes[0], 0)
        joined = images.reshape(-1, *images.shape[2:])
        convolved = primitive.bind(joined, *arguments[1:], **parameters)
        return convolved.reshape(*images.shape[:2], *convolved.shape[1:]), 0

    return batch


def _product_batch(
    arguments: Sequence[jax.Array], axes: Sequence[Any], **parameters: Any
) -> tuple[jax.Array, int]:
    mapped = jax.vmap(functools.partial(_plain_product, **parameters), tuple(axes))
    return mapped(*arguments), 0


batching.primitive_batchers[_convolve] = _joining_batches(_convolve, _plain_convolution)
batching.primitive_batchers[_convolve_rectified] = _joining_batches(
    _convolve_rectified, _plain_rectified
)
batching.primitive_batchers[_product] = _product_batch
