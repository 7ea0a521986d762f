"""Parameter initialisers that the papers' recipes depend on."""

import math
from collections.abc import Sequence
from typing import Any

import jax


def pytorch_default(fan_in: float) -> jax.nn.initializers.Initializer:
    """PyTorch's default for convolution kernels and biases: uniform within ±1/sqrt(fan_in).

    It is ``kaiming_uniform(a=sqrt(5))`` for the kernel and its companion for the bias, which share
    one bound. For a transposed convolution PyTorch counts ``fan_in`` over the *output* channels.

    Args:
        fan_in: number of products summed into one output value, ``channels * height * width``.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def initialize(
        key: jax.Array,
        shape: Sequence[int],
        dtype: Any = jax.numpy.float32,
        out_sharding: Any = None,
    ) -> jax.Array:
        del out_sharding
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return initialize


def caffe_xavier(fan_in: int) -> jax.nn.initializers.Initializer:
    """Caffe's "xavier" filler for kernels: uniform within ±sqrt(3/fan_in); biases are 0.

    Args:
        fan_in: number of products summed into one output value, ``channels * height * width``.
    """
    return pytorch_default(fan_in / 3)
