"""What a CPU wants otherwise: convolutions, pooling and the recurrence with gradients of our own.

This backend has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses

from deblur_jax.ops.cpu import convolution, pooling
from deblur_jax.ops.cpu.recurrence import recurrence_in_place
from deblur_jax.ops.operations import PLAIN

CPU = dataclasses.replace(
    PLAIN,
    name="cpu",
    convolution=convolution.convolution,
    convolve_same_each=convolution.convolve_same_each,
    concat_conv_1x1=convolution.concat_conv_1x1,
    upsampling_conv_4x4=convolution.upsampling_conv_4x4,
    conv_general_dilated=convolution.conv_general_dilated,
    max_pool_2x2=pooling.max_pool_2x2,
    gated_recurrence=recurrence_in_place,
)
