"""What a GPU wants otherwise: the recurrence as a kernel; XLA does the rest best.

The recurrence has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses

from deblur_jax.ops.gpu.recurrence import make_recurrence
from deblur_jax.ops.operations import PLAIN
from deblur_jax.ops.pooling import max_pool_2x2_by_windows

GPU = dataclasses.replace(
    PLAIN,
    name="gpu",
    max_pool_2x2=max_pool_2x2_by_windows,
    gated_recurrence=make_recurrence(interpret=False),
)
GPU_INTERPRETED = dataclasses.replace(
    GPU, name="gpu_interpreted", gated_recurrence=make_recurrence(interpret=True)
)
"""The same operations on any platform, slowly: for tests."""
