"""Resizing of NHWC arrays by factors of two, each in the one convention its network needs."""

import jax
import jax.numpy as jnp


def downsample_nearest(images: jax.Array, factor: int) -> jax.Array:
    """Keeps every ``factor``-th row and column: (b, h, w, c) to (b, h/f, w/f, c)."""
    return every_nth(images, factor)


def every_nth(images: jax.Array, step: int, row: int = 0, column: int = 0) -> jax.Array:
    """Every ``step``-th row from ``row`` on, and column from ``column`` on: (b, h, w, c).

    Unlike an index, which becomes a gather there, this stays a slice where h and w are symbols, as
    in exports.
    """
    return jax.lax.slice(images, (0, row, column, 0), images.shape, (1, step, step, 1))


def upsample_nearest(images: jax.Array, factor: int) -> jax.Array:
    """Repeats every pixel ``factor`` times along both axes: (b, h, w, c) to (b, h·f, w·f, c)."""
    b, h, w, c = images.shape
    repeated = jnp.broadcast_to(images[:, :, None, :, None, :], (b, h, factor, w, factor, c))
    return repeated.reshape(b, h * factor, w * factor, c)


def downsample_bilinear(images: jax.Array, factor: int) -> jax.Array:
    """Shrinks by an even ``factor``, bilinear with half-pixel centres and *without* antialiasing.

    Each output is the mean of the centre 2x2 of its ``factor`` x ``factor`` cell. At a factor of 2
    that is the mean of the cell; at 4, twelve of its sixteen pixels do not count. MIMO-UNet's
    targets are made this way (``F.interpolate(mode="bilinear", align_corners=False)``).

    Args:
        images: (b, h, w, c), h and w multiples of ``factor``.

    Raises:
        ValueError: if ``factor`` is odd or does not divide h and w.
    """
    _, h, w, _ = images.shape
    if factor % 2 or h % factor or w % factor:
        raise ValueError(f"cannot shrink {h}x{w} bilinearly by {factor}: even divisors only")
    # Slices, since a sum over the sides of cells takes a TPU 1.6 ms of a training step's 45.
    first = factor // 2 - 1
    rows = images[:, first::factor] + images[:, first + 1 :: factor]
    return 0.25 * (rows[:, :, first::factor] + rows[:, :, first + 1 :: factor])


def depth_to_space(images: jax.Array, factor: int) -> jax.Array:
    """Moves channel blocks into space: (b, h, w, f·f·c) to (b, h·f, w·f, c), row offset first."""
    b, h, w, c = images.shape
    cells = images.reshape(b, h, w, factor, factor, c // factor**2)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def upsample_caffe_bilinear(images: jax.Array) -> jax.Array:
    """Doubles height and width as SVRNN's Caffe layer does: (b, h, w, c) to (b, 2h, 2w, c).

    Per axis ``out[2i] = x[i]`` and ``out[2i+1] = (x[i] + x[i+1]) / 2``, where the neighbour beyond
    the border counts 0: the last row and column are half as bright. Not the half-pixel convention.
    """
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (0, 1)
        following = jax.lax.slice_in_dim(jnp.pad(images, padding), 1, None, axis=axis)
        doubled = jnp.stack([images, 0.5 * (images + following)], axis=axis + 1)
        shape = list(images.shape)
        shape[axis] *= 2
        images = doubled.reshape(shape)
    return images


def upsample_half_pixel_bilinear(images: jax.Array) -> jax.Array:
    """Doubles height and width with half-pixel centres: (b, h, w, c) to (b, 2h, 2w, c).

    Per axis ``out[2i] = x[i-1]/4 + 3x[i]/4`` and ``out[2i+1] = 3x[i]/4 + x[i+1]/4``, where the
    border is repeated.
    """
    for axis in (1, 2):
        length = images.shape[axis]
        first = jax.lax.slice_in_dim(images, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(images, length - 1, length, axis=axis)
        wider = jnp.concatenate([first, images, last], axis=axis)
        before = jax.lax.slice_in_dim(wider, 0, length, axis=axis)
        following = jax.lax.slice_in_dim(wider, 2, length + 2, axis=axis)
        near = 0.75 * images
        doubled = jnp.stack([near + 0.25 * before, near + 0.25 * following], axis=axis + 1)
        shape = list(images.shape)
        shape[axis] *= 2
        images = doubled.reshape(shape)
    return images
