"""What a TPU wants otherwise: the recurrence as a Pallas kernel.

The recurrence has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses

from deblur_jax.ops.operations import PLAIN
from deblur_jax.ops.pooling import max_pool_2x2_by_windows
from deblur_jax.ops.tpu.recurrence import make_recurrence

TPU = dataclasses.replace(
    PLAIN,
    name="tpu",
    max_pool_2x2=max_pool_2x2_by_windows,
    gated_recurrence=make_recurrence(interpret=False),
)
TPU_INTERPRETED = dataclasses.replace(
    TPU, name="tpu_interpreted", gated_recurrence=make_recurrence(interpret=True)
)
"""The same for machines without a TPU: its kernels are run step by step, slowly, to test them."""
