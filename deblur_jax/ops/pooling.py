"""Pooling of NHWC arrays: the plain mathematics."""

import jax
import jax.numpy as jnp
from flax import nnx

from deblur_jax.ops.resize import every_nth


def max_pool_2x2(features: jax.Array) -> jax.Array:
    """The largest of every cell of 2x2 pixels: (b, h, w, c) to (b, h/2, w/2, c), h and w even.

    The gradient goes to the first of equal ones, by rows.
    """
    largest, *others = corners(features)
    for corner in others:
        largest = jnp.where(largest >= corner, largest, corner)
    return largest


def max_pool_2x2_by_windows(features: jax.Array) -> jax.Array:
    """``max_pool_2x2`` by XLA's own operation, which GPUs and TPUs have a gradient for.

    It can't be differentiated twice; ``max_pool_2x2`` can.
    """
    return nnx.max_pool(features, window_shape=(2, 2), strides=(2, 2))


def corners(features: jax.Array) -> list[jax.Array]:
    """The upper left pixels of all cells, the upper right ones, the lower left, the lower right."""
    return [every_nth(features, 2, row, column) for row in (0, 1) for column in (0, 1)]
