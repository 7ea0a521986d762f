"""A recipe for another batch than its own, at the same number of samples.

What a rule can say: the noise of the mean gradient falls with the root of the batch, and Adam
divides by the size of the gradient; so its rate grows with the root (Malladi et al., On the SDEs
and scaling rules for adaptive gradient algorithms, NeurIPS 2022). A moving average keeps the
number of samples that it remembers (Busbridge et al., How to scale your EMA, NeurIPS 2023).
"""

import dataclasses
import math

from deblur_jax.config import ConfigError
from deblur_jax.training.config import Config

_WARMUP_SHARE = 0.05
_EMA_DECAY = 0.999
"""At the recipe's own batch, where a recipe keeps no average itself."""


def scaled_to_batch(recipe: Config, batch_size: int) -> Config:
    """The recipe with another batch.

    With k times the batch: steps, and all that is counted in steps, divided by k; the learning
    rate times the root of k; the first 5 % of the steps a linear rise, where k is above 1; the
    parameters' moving average, kept from k = 1 on, with its decay to the power k (0.999 at k = 1,
    where the recipe has none).

    Args:
        recipe: as published.
        batch_size: the same as the recipe's gives the recipe itself.

    Raises:
        ConfigError: if ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch must be at least 1, not {batch_size}")
    factor = batch_size / recipe.batch_size
    if factor == 1:
        return recipe

    def scaled(steps: int) -> int:
        return max(1, math.ceil(steps / factor))

    num_steps = scaled(recipe.num_steps)
    rise = round(_WARMUP_SHARE * num_steps) if factor > 1 else 0
    optimizer = dataclasses.replace(
        recipe.optimizer,
        learning_rate=recipe.optimizer.learning_rate * math.sqrt(factor),
        decay_every=scaled(recipe.optimizer.decay_every),
        warmup_steps=max(rise, round(recipe.optimizer.warmup_steps / factor)),
    )
    decay = _EMA_DECAY if recipe.ema_decay is None else recipe.ema_decay
    return dataclasses.replace(
        recipe,
        about=f"{recipe.about}; scaled from batches of {recipe.batch_size} to {batch_size}",
        batch_size=batch_size,
        num_steps=num_steps,
        ema_decay=decay**factor,
        log_every=scaled(recipe.log_every),
        checkpoint_every=scaled(recipe.checkpoint_every),
        optimizer=optimizer,
    )
