"""Learning-rate schedules and optimisers of the papers, as optax transformations."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deblur_jax.config import Section, Table, setting

_B1, _B2, _EPS = 0.9, 0.999, 1e-8


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """Adam, its learning rate by step, and what is done to the gradient before."""

    section: ClassVar[str] = "optimizer"

    name: str = setting(
        "adam",
        '"adam"; "caffe_adam", as Caffe\'s solver computes it; or one of your own',
        choices=lambda: OPTIMIZERS.names(),
    )
    learning_rate: float = setting(1e-4, "at its highest", above=0)
    schedule: str = setting(
        "step",
        '"step": times decay_factor every decay_every steps; "cosine": to 0 as half a cosine; '
        '"polynomial": to 0 with the square of what is left',
        choices=lambda: SCHEDULES.names(),
    )
    decay_factor: float = setting(0.5, 'of the schedule "step"', above=0, at_most=1)
    decay_every: int = setting(263_000, 'steps, of the schedule "step"', at_least=1)
    warmup_steps: int = setting(0, "of a linear rise to the rate of the schedule", at_least=0)
    clip_norm: float | None = setting(
        None, "greatest norm of the whole gradient; a longer one is scaled down", above=0
    )
    weight_decay: float = setting(
        0.0, "coupled: times the parameter, added to its gradient", at_least=0
    )
    bias_rate: float = setting(1.0, "factor on the learning rate of biases", at_least=0)
    first_iteration: int = setting(
        0, 'where "caffe_adam" and "polynomial" start to count; 1 in SVRNN\'s training', at_least=0
    )


MakeSchedule = Callable[[OptimizerConfig, int], optax.Schedule]
"""``(config, num_steps) -> schedule``: the learning rate of each step, counted from 0."""
MakeOptimizer = Callable[[OptimizerConfig], optax.GradientTransformation]
"""``config -> transformation``: of the gradient to the update that the learning rate scales."""
SCHEDULES: Table[MakeSchedule] = Table("schedule")
OPTIMIZERS: Table[MakeOptimizer] = Table("optimizer")


def register_schedule(name: str) -> Callable[[MakeSchedule], MakeSchedule]:
    """Registers the decorated function as a schedule; see ``MakeSchedule``.

    Args:
        name: for ``config.optimizer.schedule``.

    Raises:
        ConfigError: if the name is taken.
    """

    def register(make: MakeSchedule) -> MakeSchedule:
        SCHEDULES.add(name, make)
        return make

    return register


def register_optimizer(name: str) -> Callable[[MakeOptimizer], MakeOptimizer]:
    """Registers the decorated function as an optimiser; see ``MakeOptimizer``.

    Clipping, weight decay, the rate of biases and the learning rate are put around it.

    Args:
        name: for ``config.optimizer.name``.

    Raises:
        ConfigError: if the name is taken.
    """

    def register(make: MakeOptimizer) -> MakeOptimizer:
        OPTIMIZERS.add(name, make)
        return make

    return register


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    Args:
        config: names the schedule.
        num_steps: of the whole run.
    """
    schedule = SCHEDULES[config.schedule](config, num_steps)
    if config.warmup_steps == 0 or config.schedule == "cosine":  # which has its own rise
        return schedule
    rise = optax.linear_schedule(
        1.0 / (config.warmup_steps + 1), 1.0, config.warmup_steps, transition_begin=0
    )
    return lambda step: rise(step) * schedule(step)


@register_schedule("step")
def _step_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """MIMO-UNet's: the rate falls by ``decay_factor`` after every ``decay_every`` steps."""
    del num_steps
    return optax.exponential_decay(
        config.learning_rate, config.decay_every, config.decay_factor, staircase=True
    )


@register_schedule("polynomial")
def _polynomial_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """SVRNN's: ``rate (1 - i/num_steps)^2``, the iteration i counted from ``first_iteration``.

    So the last step of a run that starts at 1 has the rate 0.
    """
    whole = optax.polynomial_schedule(config.learning_rate, 0.0, 2, num_steps)
    return lambda step: whole(step + config.first_iteration)


@register_schedule("cosine")
def _cosine_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """A linear rise over ``warmup_steps``, then half a cosine to 0."""
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (config.warmup_steps + 1),
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=num_steps,
    )


@register_optimizer("adam")
def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    del config
    return optax.scale_by_adam(_B1, _B2, _EPS)


@register_optimizer("caffe_adam")
def _caffe_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return scale_by_caffe_adam(first_iteration=config.first_iteration)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The optimiser, Adam(0.9, 0.999, eps 1e-8) unless named otherwise, and what is around it.

    In this order: the gradient is clipped, the weight decay added to it (so it is coupled), the
    update scaled as the optimiser does, multiplied by ``bias_rate`` for biases, and by the learning
    rate.
    """
    parts = [
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else None,
        optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None,
        OPTIMIZERS[config.name](config),
        scale_biases(config.bias_rate) if config.bias_rate != 1.0 else None,
        optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    ]
    return optax.chain(*(part for part in parts if part is not None))


class CaffeAdamState(NamedTuple):
    """Steps done, and the moments, each a tree like the parameters."""

    count: jax.Array  # type: ignore[assignment]  # a tuple's method has this name
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

    def init(params: Any) -> CaffeAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return CaffeAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, Any]:
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

    def update(updates: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, Any]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, u: u * factor if _is_bias(path) else u, updates
        )
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_bias(path: tuple) -> bool:
    return any(getattr(key, "key", None) == "bias" for key in path)
