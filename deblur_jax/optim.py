"""Learning-rate schedules and optimisers of the papers, as optax transformations."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from deblur_jax.config import OptimizerConfig

_B1, _B2, _EPS = 0.9, 0.999, 1e-8


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    "step" is MIMO-UNet's: the rate falls by ``decay_factor`` after every ``decay_every`` steps.
    "polynomial" is SVRNN's: ``rate (1 - i/num_steps)^2``, the iteration i starting at
    ``first_iteration``, so that the last step of a run that starts at 1 has rate 0.
    """
    if config.schedule == "step":
        return optax.exponential_decay(
            config.learning_rate, config.decay_every, config.decay_factor, staircase=True
        )
    if config.schedule == "polynomial":
        whole = optax.polynomial_schedule(config.learning_rate, 0.0, 2, num_steps)
        return lambda step: whole(step + config.first_iteration)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (config.warmup_steps + 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=num_steps,
    )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, eps 1e-8) and what a configuration puts around it.

    In this order: the gradient is clipped, the weight decay added to it (so it is coupled), the
    update scaled as Adam does, doubled for biases, and multiplied by the learning rate.
    """
    if config.name == "caffe_adam":
        adam = scale_by_caffe_adam(first_iteration=config.first_iteration)
    else:
        adam = optax.scale_by_adam(_B1, _B2, _EPS)
    parts = [
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else None,
        optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None,
        adam,
        scale_biases(config.bias_rate) if config.bias_rate != 1.0 else None,
        optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    ]
    return optax.chain(*(part for part in parts if part is not None))


class CaffeAdamState(NamedTuple):
    """Steps done, and the moments, each a tree like the parameters."""

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_caffe_adam(
    b1: float = _B1, b2: float = _B2, eps: float = _EPS, *, first_iteration: int = 0
) -> optax.GradientTransformation:
    """Adam as Caffe's solver computes it: ``sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``.

    Unlike Kingma and Ba's, eps is added to the uncorrected ``sqrt(v)``.

    Args:
        first_iteration: t is 1 + the iteration. SVRNN's training starts to count at 1, so that its
            first bias correction is that of the second step.
    """

    def init(params):
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return CaffeAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(updates, state, params=None):
        del params
        t = state.count + 1 + first_iteration
        # expm1, since 1 - b2^t in float32 loses three digits at the first steps.
        correction = jnp.sqrt(-jnp.expm1(t * math.log(b2))) / -jnp.expm1(t * math.log(b1))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        scaled = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, CaffeAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_biases(factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of biases, the parameters whose path ends in ``bias``."""

    def update(updates, state, params=None):
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, u: u * factor if _is_bias(path) else u, updates
        )
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_bias(path: tuple) -> bool:
    return any(getattr(key, "key", None) == "bias" for key in path)
