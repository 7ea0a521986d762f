"""What a GPU wants otherwise: the recurrence with a gradient of its own; XLA does the rest best.

The recurrence has no forward mode of differentiation (``jax.jvp``); ``backend="plain"`` has.
"""

import dataclasses

from deblur_jax.ops.operations import PLAIN
from deblur_jax.ops.pooling import max_pool_2x2_by_windows
from deblur_jax.ops.recurrence_in_place import recurrence_in_place

GPU = dataclasses.replace(
    PLAIN,
    name="gpu",
    max_pool_2x2=max_pool_2x2_by_windows,
    gated_recurrence=recurrence_in_place,
)
