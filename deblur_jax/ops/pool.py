"""Pooling in the form in which it costs least."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

_pool = functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))


@jax.custom_vjp
def max_pool_2x2(features: jax.Array) -> jax.Array:
    """The largest of every cell of 2x2 pixels: (b, h, w, c) to (b, h/2, w/2, c), h and w even.

    The gradient goes to the first of equal ones, by rows. On the CPU it is found by comparing the
    four corners of all cells, in a sixth of the time of XLA's or less; others get that.
    """
    return _pool(features)


def _corners(features):
    """The upper left pixels of all cells, the upper right ones, the lower left, the lower right."""
    return [features[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _forward(features):
    largest = max_pool_2x2(features)
    return largest, (features, largest)


def _backward(saved, cotangents):
    def to_corners(features, largest, cotangents):
        free = jnp.ones(largest.shape, bool)
        gradients = []
        for corner in _corners(features):
            is_largest = corner == largest
            gradients.append(jnp.where(is_largest & free, cotangents, 0))
            free &= ~is_largest
        rows = [jnp.stack(gradients[:2], 3), jnp.stack(gradients[2:], 3)]
        return jnp.stack(rows, 2).reshape(features.shape)

    def by_xla(features, _, cotangents):
        return jax.vjp(_pool, features)[1](cotangents)[0]

    return (jax.lax.platform_dependent(*saved, cotangents, cpu=to_corners, default=by_xla),)


max_pool_2x2.defvjp(_forward, _backward)
