"""Convolutions of NHWC arrays with HWIO kernels: the plain mathematics."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from deblur_jax.ops.resize import depth_to_space, downsample_nearest, upsample_nearest

LAYOUT = ("NHWC", "HWIO", "NHWC")
"""Of inputs, kernels and outputs."""

SameConvolution = Callable[..., jax.Array]
"""``(inputs, kernel, *, precision) -> outputs``, as ``convolve_same``."""


def convolve_same(
    inputs: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """A convolution with stride 1, padded with zeros to the size of its input.

    Args:
        inputs: (b, h, w, i).
        kernel: (k, k, i, o); output y reads inputs from y - (k - 1)//2 to y + k//2.
        precision: of products, as ``jax.lax`` names it.

    Returns:
        (b, h, w, o).

    Raises:
        ValueError: for a kernel that is not square.
    """
    check_square(kernel)
    padding = [same_padding(kernel)] * 2
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), padding, dimension_numbers=LAYOUT, precision=precision
    )


def convolution(
    features: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    relu: bool = False,
    precision: jax.lax.PrecisionLike = None,
    convolve: SameConvolution = convolve_same,
) -> jax.Array:
    """A convolution with a bias, padded with zeros by half the kernel size.

    Args:
        features: (b, h, w, i).
        kernel: (k, k, i, o), k odd.
        bias: (o,).
        stride: of rows and columns; it divides h and w.
        relu: whether a ReLU follows.
        precision: of products, as ``jax.lax`` names it.
        convolve: computes the convolution where the stride is 1.

    Returns:
        (b, h/stride, w/stride, o).
    """
    if stride == 1:
        convolved = convolve(features, kernel, precision=precision)
    else:
        convolved = jax.lax.conv_general_dilated(
            features,
            kernel,
            (stride, stride),
            [same_padding(kernel)] * 2,
            dimension_numbers=LAYOUT,
            precision=precision,
        )
    linear = add_bias(convolved, bias)
    return jax.nn.relu(linear) if relu else linear


def convolve_same_each(
    inputs: jax.Array,
    kernels: Sequence[jax.Array],
    *,
    precision: jax.lax.PrecisionLike = None,
    convolve: SameConvolution = convolve_same,
) -> tuple[jax.Array, ...]:
    """``convolve_same`` with several kernels of one kernel size.

    Args:
        inputs: (b, h, w, i).
        kernels: of shapes (k, k, i, o_k).
        precision: of products.
        convolve: computes one of them.

    Returns:
        For each kernel (b, h, w, o_k).
    """
    return tuple(convolve(inputs, kernel, precision=precision) for kernel in kernels)


def concat_conv_1x1(
    maps: Sequence[jax.Array],
    kernel: jax.Array,
    bias: jax.Array,
    *,
    scales: Sequence[int | float],
    precision: jax.lax.PrecisionLike = None,
    convolve: SameConvolution = convolve_same,
) -> jax.Array:
    """A 1x1 convolution of feature maps resized (nearest) to one size and concatenated.

    A 1x1 convolution commutes with nearest resizing. So each map is convolved with its rows of the
    kernel at the smaller of the two sizes, and the partial sums are added. The concatenated map,
    MIMO-UNet's largest, never exists; the result is the same up to rounding.

    Args:
        maps: arrays (b, h_k, w_k, c_k).
        kernel: (1, 1, sum of c_k, o), its rows in the order of the maps.
        bias: (o,).
        scales: for each map the factor that brings it to the output size: 1, 2, 4, or 0.5.
        precision: of products.
        convolve: computes a convolution of 1x1.

    Returns:
        (b, h, w, o).

    Raises:
        ValueError: if the maps do not have the kernel's number of channels.
    """
    total = None
    first_row = 0
    for feature, scale in zip(maps, scales, strict=True):
        rows = kernel[:, :, first_row : first_row + feature.shape[-1], :]
        first_row += feature.shape[-1]
        if scale < 1:
            feature = downsample_nearest(feature, round(1 / scale))
        partial_sum = convolve(feature, rows, precision=precision)
        if scale > 1:
            partial_sum = upsample_nearest(partial_sum, int(scale))
        total = partial_sum if total is None else total + partial_sum
    if total is None or first_row != kernel.shape[2]:
        raise ValueError(f"maps have {first_row} channels, the kernel {kernel.shape[2]}")
    return add_bias(total, bias)


def upsampling_conv_4x4(
    features: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    precision: jax.lax.PrecisionLike = None,
    convolve: SameConvolution = convolve_same,
) -> jax.Array:
    """A transposed convolution with kernel size 4, stride 2, padding 1, as PyTorch defines it.

    Each of the four output phases reads a 2x2 neighbourhood of the input. So the whole is one 2x2
    convolution to four times the channels, followed by depth-to-space: nothing is multiplied with
    an inserted zero.

    Args:
        features: (b, h, w, i).
        kernel: (4, 4, i, o); tap k of an axis contributes to output 2·t + k - 1 from input t.
        bias: (o,).
        precision: of products.
        convolve: computes the 2x2 convolution.

    Returns:
        (b, 2h, 2w, o).
    """
    _, _, i, o = kernel.shape
    # Output 2t+p-1 reads inputs t-1 and t through taps p+2 and p, for phase p in (0, 1).
    taps = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1, :]
    phases = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, i, 4 * o)
    features = jnp.pad(features, ((0, 0), (1, 0), (1, 0), (0, 0)))
    padded = convolve(features, phases, precision=precision)
    doubled = depth_to_space(padded, 2)
    b, h, w, c = doubled.shape
    return add_bias(jax.lax.slice(doubled, (0, 1, 1, 0), (b, h - 1, w - 1, c)), bias)


def add_bias(features: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds one number per channel: (b, h, w, c) + (c,), in the dtype of the features."""
    return features + jnp.asarray(bias, features.dtype)


def same_padding(kernel: jax.Array) -> tuple[int, int]:
    """Zeros before and after an axis that keep its length under a convolution with stride 1."""
    return (len(kernel) - 1) // 2, len(kernel) // 2


def check_square(kernel: jax.Array) -> None:
    """Checks that a kernel is as high as it is wide.

    Raises:
        ValueError: if it is not.
    """
    if kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"expected a square kernel, got {kernel.shape[:2]}")
