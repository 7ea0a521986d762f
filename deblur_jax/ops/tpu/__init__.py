"""What a TPU wants otherwise: packed stacks of convolutions, and the recurrence as a Pallas kernel.

The recurrence has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses

import jax

from deblur_jax.ops.convolution import convolution
from deblur_jax.ops.operations import PLAIN, Features
from deblur_jax.ops.pooling import max_pool_2x2_by_windows
from deblur_jax.ops.tpu.packed import Packed, convolve_3x3, pack, unpack
from deblur_jax.ops.tpu.recurrence import make_recurrence


def _convolution(
    features: Features,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    precision: jax.lax.PrecisionLike = None,
) -> Features:
    if isinstance(features, Packed):
        if stride != 1 or kernel.shape[:2] != (3, 3):
            raise ValueError(f"a stack holds 3x3 convolutions of stride 1, not {kernel.shape[:2]}")
        return convolve_3x3(features, kernel, bias, precision=precision)
    return convolution(features, kernel, bias, stride=stride, precision=precision)


def _add(a: Features, b: Features) -> Features:
    return jax.tree.map(jax.lax.add, a, b)


def _relu(features: Features) -> Features:
    return jax.tree.map(jax.nn.relu, features)


TPU = dataclasses.replace(
    PLAIN,
    name="tpu",
    enter_stack=pack,
    leave_stack=unpack,
    convolution=_convolution,
    add=_add,
    relu=_relu,
    max_pool_2x2=max_pool_2x2_by_windows,
    gated_recurrence=make_recurrence(interpret=False),
)
TPU_INTERPRETED = dataclasses.replace(
    TPU, name="tpu_interpreted", gated_recurrence=make_recurrence(interpret=True)
)
"""The same for machines without a TPU: its kernels are run step by step, slowly, to test them."""
