"""Convolutions in the form in which they cost least, on NHWC arrays with HWIO kernels."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from deblur_jax.ops.resize import depth_to_space, downsample_nearest, upsample_nearest

_LAYOUT = ("NHWC", "HWIO", "NHWC")

_PIXELS_A_PRODUCT = 256
"""At least so many terms are summed by one product of the kernel's gradient: fewer would spend the
time on adding up the products."""

_MIN_WIDTH = 24
"""The least width of a kernel times its inputs. Below, products of rows are so thin that XLA's own
gradient is faster; few outputs are no reason, there XLA's is many times slower."""

_OUTPUTS_AT_ONCE = 48
"""So many a pixel take the CPU hardly longer than three."""

_MIN_TERMS_AN_OUTPUT = 32
"""Shorter sums cost less than adding up the parts of more outputs."""


def conv_same(
    inputs: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """A convolution with stride 1, padded with zeros to the size of its input.

    Its gradients are the ones that the CPU computes fast, in loops too; every other backend gets
    XLA's own. Differentiable in reverse, any number of times, not forward (``jax.jvp``).

    Args:
        inputs: (b, h, w, i).
        kernel: (k, k, i, o); output y sees inputs from y - (k - 1)//2 to y + k//2.
        precision: of products, as ``jax.lax`` names it.

    Returns:
        (b, h, w, o).

    Raises:
        ValueError: for a kernel that is not square.
    """
    if kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"expected a square kernel, got {kernel.shape[:2]}")
    return _conv(inputs, kernel, _same_padding(kernel), precision)


def conv_same_each(
    inputs: jax.Array, kernels: Sequence[jax.Array], *, precision: jax.lax.PrecisionLike = None
) -> tuple[jax.Array, ...]:
    """``conv_same`` with some kernels of one size; the CPU does them as one, which takes less time.

    Args:
        inputs: (b, h, w, i).
        kernels: of shapes (k, k, i, o_k).
        precision: of products.

    Returns:
        For each kernel (b, h, w, o_k).
    """
    return _conv_each(inputs, tuple(kernels), precision)


def conv_general_dilated(
    inputs: jax.Array, kernel: jax.Array, strides, padding, *, precision=None, **options
) -> jax.Array:
    """``jax.lax.conv_general_dilated`` for ``nnx.Conv``: ``conv_same`` wherever it is that."""
    if set(strides) == {1} and list(padding) == [_same_padding(kernel)] * 2:
        return conv_same(inputs, kernel, precision=precision)
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, precision=precision, **options
    )


def _same_padding(kernel):
    return (len(kernel) - 1) // 2, len(kernel) // 2


def _plain_conv(inputs, kernel, padding, precision):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), [padding] * 2, dimension_numbers=_LAYOUT, precision=precision
    )


def _groups_of_rows(kernel) -> int:
    """Into how many parts to take apart a kernel with few outputs, all done at once; 1 for none."""
    size, _, i, o = kernel.shape
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    groups = next((n for n in divisors if n * o >= _OUTPUTS_AT_ONCE), size)
    terms = size // groups * size * i
    return groups if terms >= _MIN_TERMS_AN_OUTPUT * o else 1


def _conv_in_rows(inputs, kernel, padding, precision):
    """The outputs of groups of the kernel's rows side by side, and then their sum."""
    size, _, i, o = kernel.shape
    groups = _groups_of_rows(kernel)
    rows = size // groups
    grouped = kernel.reshape(groups, rows, size, i, o).transpose(1, 2, 3, 0, 4)
    parts = jax.lax.conv_general_dilated(
        inputs,
        grouped.reshape(rows, size, i, groups * o),
        (1, 1),
        [padding] * 2,
        dimension_numbers=_LAYOUT,
        precision=precision,
    )
    h = inputs.shape[1]
    return sum(parts[:, n * rows : n * rows + h, :, n * o : (n + 1) * o] for n in range(groups))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(inputs, kernel, padding, precision):
    plain = functools.partial(_plain_conv, padding=padding, precision=precision)
    if _groups_of_rows(kernel) == 1 or inputs.dtype != jnp.float32:
        return plain(inputs, kernel)
    in_rows = functools.partial(_conv_in_rows, padding=padding, precision=precision)
    return jax.lax.platform_dependent(inputs, kernel, cpu=in_rows, default=plain)


def _conv_forward(inputs, kernel, padding, precision):
    return _conv(inputs, kernel, padding, precision), (inputs, kernel)


def _conv_backward(padding, precision, saved, cotangents):
    inputs, kernel = saved

    def by_flipped_kernel(kernel, cotangents):
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _conv(cotangents, flipped, padding[::-1], precision)

    def by_rows(inputs, cotangents):
        return _kernel_gradient(inputs, cotangents, padding, precision).astype(kernel.dtype)

    def inputs_by_xla(kernel, cotangents):
        conv = functools.partial(_plain_conv, kernel=kernel, padding=padding, precision=precision)
        return jax.linear_transpose(conv, inputs)(cotangents)[0]

    def kernel_by_xla(inputs, cotangents):
        conv = functools.partial(_plain_conv, inputs, padding=padding, precision=precision)
        return jax.linear_transpose(conv, kernel)(cotangents)[0]

    wide = kernel.shape[1] * kernel.shape[2] >= _MIN_WIDTH
    suits_rows = wide and inputs.shape[1] >= padding[0]
    # Two choices, not one, so that a gradient that nobody asks for is left out.
    return (
        jax.lax.platform_dependent(
            kernel, cotangents, cpu=by_flipped_kernel, default=inputs_by_xla
        ),
        jax.lax.platform_dependent(
            inputs, cotangents, cpu=by_rows if suits_rows else kernel_by_xla, default=kernel_by_xla
        ),
    )


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_each(inputs, kernels, precision):
    def at_once(inputs, kernels):
        outputs = conv_same(inputs, jnp.concatenate(kernels, -1), precision=precision)
        return _split_like(outputs, kernels)

    def one_by_one(inputs, kernels):
        return tuple(conv_same(inputs, kernel, precision=precision) for kernel in kernels)

    return jax.lax.platform_dependent(inputs, kernels, cpu=at_once, default=one_by_one)


def _conv_each_forward(inputs, kernels, precision):
    return _conv_each(inputs, kernels, precision), (inputs, kernels)


def _conv_each_backward(precision, saved, cotangents):
    inputs, kernels = saved
    backward = functools.partial(_conv_backward, _same_padding(kernels[0]), precision)

    def at_once(inputs, kernels, cotangents):
        kernel, of_outputs = jnp.concatenate(kernels, -1), jnp.concatenate(cotangents, -1)
        d_inputs, d_kernel = backward((inputs, kernel), of_outputs)
        return d_inputs, _split_like(d_kernel, kernels)

    def one_by_one(inputs, kernels, cotangents):
        gradients = [
            backward((inputs, kernel), of_output)
            for kernel, of_output in zip(kernels, cotangents, strict=True)
        ]
        d_inputs, d_kernels = zip(*gradients, strict=True)
        return sum(d_inputs), d_kernels

    return jax.lax.platform_dependent(inputs, kernels, cotangents, cpu=at_once, default=one_by_one)


def _split_like(joined, kernels):
    ends = list(itertools.accumulate(kernel.shape[-1] for kernel in kernels))
    return tuple(jnp.split(joined, ends[:-1], -1))


_conv_each.defvjp(_conv_each_forward, _conv_each_backward)


def _kernel_gradient(inputs, cotangents, padding, precision):
    """The gradient of a kernel as a sum of matrix products over rows of the picture.

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
    below, above = padding  # of an input, the outputs that it reaches
    lines = _lines_a_product(b * w, h, at_least=max(below, 1))

    def add_product(carry, start):
        gradient, seen = carry
        after = start + lines
        following = jax.lax.dynamic_slice_in_dim(cotangents, after, lines, 1)
        known = jnp.concatenate([seen, jnp.where(after < h, following, 0)], 1)
        rows = jax.lax.dynamic_slice_in_dim(inputs, start, lines, 1)
        rows = jnp.pad(rows, ((0, 0), (0, 0), padding, (0, 0)))
        beside = jnp.concatenate([rows[:, :, k : k + w] for k in range(size)], -1)
        in_column = jnp.concatenate([known[:, k : k + lines] for k in reversed(range(size))], -1)
        product = jax.lax.dot_general(
            beside.reshape(-1, size * i),
            in_column.reshape(-1, size * o),
            (((0,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        return (gradient + product, known[:, lines:]), None

    gradient = jnp.zeros((size * i, size * o), jnp.float32)
    nothing_above = jnp.zeros((b, above, w, o), cotangents.dtype)
    seen = jnp.concatenate([nothing_above, cotangents[:, :lines]], 1)
    (gradient, _), _ = jax.lax.scan(add_product, (gradient, seen), jnp.arange(0, h, lines))
    return gradient.reshape(size, i, size, o).transpose(2, 0, 1, 3)


def _lines_a_product(pixels_a_line: int, height: int, at_least: int) -> int:
    """The fewest lines that divide the height and make a product of enough pixels."""
    enough = max(at_least, -(-_PIXELS_A_PRODUCT // pixels_a_line))
    return next((n for n in range(enough, height) if height % n == 0), height)


def concat_conv_1x1(
    maps: Sequence[jax.Array],
    kernel: jax.Array,
    *,
    scales: Sequence[int | float],
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """A 1x1 convolution of feature maps resized (nearest) to one size and concatenated.

    A 1x1 convolution commutes with nearest resizing, so each map is convolved with its rows of the
    kernel at the smaller of the two sizes, and the products are summed. The concatenated tensor,
    MIMO-UNet's largest, never exists; the result is the same up to rounding.

    Args:
        maps: arrays (b, h_k, w_k, c_k).
        kernel: (1, 1, sum of c_k, o), its rows in the order of the maps.
        scales: for each map the factor that brings it to the output size: 1, 2, 4, or 0.5.

    Returns:
        (b, h, w, o), without bias.
    """
    total = None
    first_row = 0
    for feature, scale in zip(maps, scales, strict=True):
        rows = kernel[:, :, first_row : first_row + feature.shape[-1], :]
        first_row += feature.shape[-1]
        if scale < 1:
            feature = downsample_nearest(feature, round(1 / scale))
        product = conv_same(feature, rows, precision=precision)
        if scale > 1:
            product = upsample_nearest(product, int(scale))
        total = product if total is None else total + product
    if first_row != kernel.shape[2]:
        raise ValueError(f"maps have {first_row} channels, the kernel {kernel.shape[2]}")
    return total


def upsampling_conv_4x4(
    features: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """A transposed convolution with kernel 4, stride 2, padding 1, as PyTorch defines it.

    Each of the four output phases sees a 2x2 neighbourhood of the input, so the whole is one 2x2
    convolution to four times the channels, followed by depth-to-space: no product with an inserted
    zero, and no wasted one.

    Args:
        features: (b, h, w, i).
        kernel: (4, 4, i, o); tap k of an axis contributes to output 2·t + k - 1 from input t.

    Returns:
        (b, 2h, 2w, o), without bias.
    """
    _, _, i, o = kernel.shape
    # Output 2t+p-1 reads inputs t-1 and t through taps p+2 and p, for phase p in (0, 1).
    taps = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1, :]
    phases = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, i, 4 * o)
    features = jnp.pad(features, ((0, 0), (1, 0), (1, 0), (0, 0)))
    padded = conv_same(features, phases, precision=precision)
    return depth_to_space(padded, 2)[:, 1:-1, 1:-1, :]


def add_bias(features: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds one number a channel: (b, h, w, c) + (c,), in the dtype of the features."""
    return features + jnp.asarray(bias, features.dtype)
