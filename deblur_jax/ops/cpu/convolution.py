"""Convolutions as the CPU computes them fast, forward and backward, in loops too.

XLA's own gradients of convolutions are slow on the CPU, and ten to a hundred times slower inside a
loop. The functions here have the signatures and results of ``ops/convolution.py``. They can be
differentiated in reverse, any number of times, but have no forward mode (``jax.jvp``);
``backend="plain"`` has.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deblur_jax.ops import convolution as plain
from deblur_jax.ops.convolution import LAYOUT, check_square, same_padding
from deblur_jax.ops.cpu import onednn
from deblur_jax.runtime.differentiation import naming_the_plain_backend

_PIXELS_PER_PRODUCT = 256
"""At least so many terms are summed by one product of the kernel's gradient: fewer would spend the
time on adding up the partial sums."""

_VALUES_PER_PRODUCT = 2**17
"""So many pixels times channels, of inputs and outputs, one product by oneDNN takes at least. More
pass less time between products; but many more leave the processor's cache."""

_MIN_WIDTH = 24
"""The least width of a kernel times its inputs. Below, products of rows are so thin that XLA's own
gradient is faster. Few outputs are no reason for XLA's: there it is many times slower."""

_OUTPUTS_AT_ONCE = 48
"""So many outputs per pixel take the CPU hardly longer than three."""

_MIN_TERMS_PER_OUTPUT = 32
"""Shorter sums cost less than adding up the parts of more outputs."""


def convolve_same(
    inputs: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """As ``ops.convolution.convolve_same``."""
    check_square(kernel)
    with naming_the_plain_backend():
        return _conv(inputs, kernel, same_padding(kernel), precision)


def convolve_same_each(
    inputs: jax.Array,
    kernels: Sequence[jax.Array],
    *,
    precision: jax.lax.PrecisionLike = None,
) -> tuple[jax.Array, ...]:
    """As ``ops.convolution.convolve_same_each``, computed as one convolution."""
    with naming_the_plain_backend():
        return _conv_each(inputs, tuple(kernels), precision)


def convolution(
    features: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    relu: bool = False,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """As ``ops.convolution.convolution``."""
    if relu and stride == 1 and onednn.takes(features, kernel) and _groups_of_rows(kernel) == 1:
        with naming_the_plain_backend():
            return _conv_rectified(features, kernel, bias, precision)
    return _convolution(features, kernel, bias, stride=stride, relu=relu, precision=precision)


_convolution = functools.partial(plain.convolution, convolve=convolve_same)
concat_conv_1x1 = functools.partial(plain.concat_conv_1x1, convolve=convolve_same)
upsampling_conv_4x4 = functools.partial(plain.upsampling_conv_4x4, convolve=convolve_same)


def conv_general_dilated(
    inputs: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: jax.lax.PrecisionLike = None,
    preferred_element_type: jax.typing.DTypeLike | None = None,
    out_sharding: Any = None,
) -> jax.Array:
    """As ``jax.lax.conv_general_dilated``; ``convolve_same`` wherever it is that.

    For networks that are built of ``nnx.Conv(..., conv_general_dilated=...)``.
    """
    is_plain = (
        set(window_strides) == {1}
        and set(lhs_dilation or (1,)) == {1}
        and set(rhs_dilation or (1,)) == {1}
        and feature_group_count == batch_group_count == 1
        and _is_nhwc(dimension_numbers, inputs.ndim)
        and kernel.ndim == 4
        and kernel.shape[0] == kernel.shape[1]
        and _pads_same(padding, kernel)
        and preferred_element_type in (None, inputs.dtype)
        and out_sharding is None
    )
    if is_plain:
        return convolve_same(inputs, kernel, precision=precision)
    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        out_sharding=out_sharding,
    )


def _is_nhwc(dimension_numbers: Any, dimensions: int) -> bool:
    if dimensions != 4 or dimension_numbers is None:
        return False
    shape = (1, 1, 1, 1)
    asked = jax.lax.conv_dimension_numbers(shape, shape, dimension_numbers)
    return asked == jax.lax.conv_dimension_numbers(shape, shape, LAYOUT)


def _pads_same(padding: str | Sequence[tuple[int, int]], kernel: jax.Array) -> bool:
    if isinstance(padding, str):
        return padding.upper() == "SAME"
    return [tuple(pair) for pair in padding] == [same_padding(kernel)] * 2


def _plain_conv(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int], precision: jax.lax.PrecisionLike
) -> jax.Array:
    if onednn.takes(inputs, kernel):
        return onednn.convolve(inputs, kernel, padding, precision)
    return _xla_conv(inputs, kernel, padding, precision)


def _xla_conv(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int], precision: jax.lax.PrecisionLike
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), [padding] * 2, dimension_numbers=LAYOUT, precision=precision
    )


def _groups_of_rows(kernel: jax.Array) -> int:
    """How many groups of rows to split a kernel with few outputs into; 1 to leave it whole."""
    size, _, i, o = kernel.shape
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    groups = next((n for n in divisors if n * o >= _OUTPUTS_AT_ONCE), size)
    terms = size // groups * size * i
    return groups if terms >= _MIN_TERMS_PER_OUTPUT * o else 1


def _conv_in_rows(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int], precision: jax.lax.PrecisionLike
) -> jax.Array:
    """Computes the groups of the kernel's rows as outputs of one convolution, and adds them."""
    size, _, i, o = kernel.shape
    groups = _groups_of_rows(kernel)
    rows = size // groups
    grouped = kernel.reshape(groups, rows, size, i, o).transpose(1, 2, 3, 0, 4)
    parts = _plain_conv(inputs, grouped.reshape(rows, size, i, groups * o), padding, precision)
    h = inputs.shape[1]
    shifted = [parts[:, n * rows : n * rows + h, :, n * o : (n + 1) * o] for n in range(groups)]
    return functools.reduce(jnp.add, shifted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int], precision: jax.lax.PrecisionLike
) -> jax.Array:
    if _groups_of_rows(kernel) == 1 or inputs.dtype != jnp.float32:
        return _plain_conv(inputs, kernel, padding, precision)
    return _conv_in_rows(inputs, kernel, padding, precision)


def _conv_forward(
    inputs: jax.Array, kernel: jax.Array, padding: tuple[int, int], precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(inputs, kernel, padding, precision), (inputs, kernel)


def _conv_backward(
    padding: tuple[int, int],
    precision: jax.lax.PrecisionLike,
    saved: tuple[Any, Any],
    cotangents: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    d_inputs = _conv(cotangents, flipped, padding[::-1], precision)
    is_wide = kernel.shape[1] * kernel.shape[2] >= _MIN_WIDTH
    if is_wide and inputs.shape[1] >= padding[0]:
        d_kernel = _kernel_gradient(inputs, cotangents, padding, precision)
    else:
        conv = functools.partial(_xla_conv, inputs, padding=padding, precision=precision)
        (d_kernel,) = jax.linear_transpose(conv, kernel)(cotangents)
    return d_inputs, d_kernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv_rectified(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array, precision: jax.lax.PrecisionLike
) -> jax.Array:
    return _convolution(inputs, kernel, bias, relu=True, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv_rectified_in_one_call(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """What a gradient begins with: XLA can't keep what was there before the ReLU for its mask."""
    padding = same_padding(kernel)
    return onednn.convolve_rectified(inputs, kernel, bias, padding, precision)


def _rectified_forward(
    inputs: jax.Array, kernel: jax.Array, bias: jax.Array, precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, tuple[Any, ...]]:
    outputs = _conv_rectified_in_one_call(inputs, kernel, bias, precision)
    return outputs, (inputs, kernel, bias, outputs)


def _rectified_backward(
    precision: jax.lax.PrecisionLike, saved: tuple[Any, ...], cotangents: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    inputs, kernel, bias, outputs = saved
    d_linear = jnp.where(outputs > 0, cotangents, 0)
    d_inputs, d_kernel = _conv_backward(same_padding(kernel), precision, (inputs, kernel), d_linear)
    d_bias = d_linear.sum((0, 1, 2), dtype=jnp.float32)
    # oneDNN's ReLU makes 0 of NaN. Those of the inputs are in the kernel's gradient all the same;
    # those of the parameters are added to the bias's, so that no step takes them for numbers.
    zero_or_nan = 0 * (kernel.sum() + bias.sum())
    return d_inputs, d_kernel, (d_bias + zero_or_nan).astype(bias.dtype)


_conv_rectified.defvjp(_rectified_forward, _rectified_backward)
_conv_rectified_in_one_call.defvjp(_rectified_forward, _rectified_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_each(
    inputs: jax.Array, kernels: Sequence[jax.Array], precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, ...]:
    outputs = convolve_same(inputs, jnp.concatenate(kernels, -1), precision=precision)
    return _split_like(outputs, kernels)


def _conv_each_forward(
    inputs: jax.Array, kernels: Sequence[jax.Array], precision: jax.lax.PrecisionLike
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, Sequence[jax.Array]]]:
    return _conv_each(inputs, kernels, precision), (inputs, kernels)


def _conv_each_backward(
    precision: jax.lax.PrecisionLike, saved: tuple[Any, Any], cotangents: Sequence[jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    inputs, kernels = saved
    joined = inputs, jnp.concatenate(kernels, -1)
    d_inputs, d_kernel = _conv_backward(
        same_padding(kernels[0]), precision, joined, jnp.concatenate(cotangents, -1)
    )
    return d_inputs, _split_like(d_kernel, kernels)


def _split_like(joined: jax.Array, kernels: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    ends = list(itertools.accumulate(kernel.shape[-1] for kernel in kernels))
    return tuple(jnp.split(joined, ends[:-1], -1))


_conv_each.defvjp(_conv_each_forward, _conv_each_backward)


def _kernel_gradient(
    inputs: jax.Array,
    cotangents: jax.Array,
    padding: tuple[int, int],
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """The gradient of a kernel as a sum of matrix products over rows of the image.

    Input pixels with their neighbours in the row, (pixels, k·i), times cotangents with their
    neighbours in the column, (pixels, k·o), is the whole kernel's gradient in one product of good
    shape. Only a few rows are ever copied.

    Args:
        inputs: (b, h, w, i).
        cotangents: (b, h, w, o).
        padding: before and after, k - 1 in all.
        precision: of products.

    Returns:
        (k, k, i, o) float32.
    """
    b, h, w, i = inputs.shape
    o = cotangents.shape[-1]
    size = sum(padding) + 1
    below, above = padding  # how far the outputs lie that one input reaches
    pixels = _PIXELS_PER_PRODUCT
    if onednn.may_run():
        pixels = max(pixels, _VALUES_PER_PRODUCT // (i + o))
    enough = max(below, 1, -(-pixels // (b * w)))
    # The fewest lines that are enough and divide the height.
    lines = next((n for n in range(enough, h) if h % n == 0), h)

    def add_product(
        carry: tuple[jax.Array, jax.Array], start: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        gradient, seen = carry
        after = start + lines
        following = jax.lax.dynamic_slice_in_dim(cotangents, after, lines, 1)
        known = jnp.concatenate([seen, jnp.where(after < h, following, 0)], 1)
        rows = jax.lax.dynamic_slice_in_dim(inputs, start, lines, 1)
        rows = jnp.pad(rows, ((0, 0), (0, 0), padding, (0, 0)))
        beside = jnp.concatenate([rows[:, :, k : k + w] for k in range(size)], -1)
        in_column = jnp.concatenate([known[:, k : k + lines] for k in reversed(range(size))], -1)
        product = _product_over_rows(
            beside.reshape(-1, size * i), in_column.reshape(-1, size * o), precision
        )
        return (gradient + product, known[:, lines:]), None

    gradient = jnp.zeros((size * i, size * o), jnp.float32)
    nothing_above = jnp.zeros((b, above, w, o), cotangents.dtype)
    seen = jnp.concatenate([nothing_above, cotangents[:, :lines]], 1)
    (gradient, _), _ = jax.lax.scan(add_product, (gradient, seen), jnp.arange(0, h, lines))
    return gradient.reshape(size, i, size, o).transpose(2, 0, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product_over_rows(a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """(n, i) and (n, o) to (i, o) float32: the transposed ``a`` times ``b``."""
    if onednn.may_run():
        return onednn.product_over_rows(a.astype(jnp.float32), b.astype(jnp.float32), precision)
    return jax.lax.dot_general(
        a, b, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def _product_forward(
    a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product_over_rows(a, b, precision), (a, b)


def _product_backward(
    precision: jax.lax.PrecisionLike, saved: tuple[jax.Array, jax.Array], d_product: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    d_a = jnp.matmul(b, d_product.T, precision=precision)
    d_b = jnp.matmul(a, d_product, precision=precision)
    return d_a.astype(a.dtype), d_b.astype(b.dtype)


_product_over_rows.defvjp(_product_forward, _product_backward)
