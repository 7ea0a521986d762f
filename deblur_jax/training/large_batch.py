"""A recipe for another batch than its own, at the same number of samples.

What a rule can say: the noise of the mean gradient falls with the root of the batch, and Adam
divides by the size of the gradient; so its rate grows with the root (Malladi et al., On the SDEs
and scaling rules for adaptive gradient algorithms, NeurIPS 2022). A moving average keeps the
number of samples that it remembers (Busbridge et al., How to scale your EMA, NeurIPS 2023).
"""

import dataclasses
import math

from deblur_jax.errors import ConfigError
from deblur_jax.training.config import Config

_WARMUP_SHARE = 0.05
_EMA_DECAY = 0.999
"""At the recipe's own batch, where a recipe keeps no average itself."""


def scaled_to_batch(recipe: Config, batch_size: int | str) -> Config:
    """The recipe with another batch.

    With k times the batch: steps, and all that is counted in steps, divided by k; the learning
    rate times the root of k; the first 5 % of the steps a linear rise, where k is above 1; the
    parameters' moving average, kept from k = 1 on, with its decay to the power k (0.999 at k = 1,
    where the recipe has none).

    Args:
        recipe: as published.
        batch_size: images per step, a number or its digits; the recipe's own gives the recipe.

    Raises:
        ConfigError: if ``batch_size`` is no whole number from 1 on.
    """
    digits = str(batch_size)
    if not digits.isdecimal() or int(digits) < 1:
        raise ConfigError(
            "the batch of a recipe, as in --config NAME:256, is a whole number from 1 on, not "
            f"{digits}"
        )
    batch_size = int(digits)
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
