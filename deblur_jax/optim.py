"""Learning-rate schedules and optimisers of the papers, as optax transformations."""

import optax

from deblur_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    "step" is MIMO-UNet's: the rate falls by ``decay_factor`` after every ``decay_every`` steps.
    """
    if config.schedule == "step":
        return optax.exponential_decay(
            config.learning_rate, config.decay_every, config.decay_factor, staircase=True
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (config.warmup_steps + 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=num_steps,
    )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, eps 1e-8) without weight decay, as MIMO-UNet is trained."""
    return optax.adam(make_schedule(config, num_steps), b1=0.9, b2=0.999, eps=1e-8)
