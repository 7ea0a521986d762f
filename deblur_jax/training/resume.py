"""Whether a run may go on with another configuration than the one it was started with.

What changes the mathematics of the run is refused unless it is accepted by name; what changes how
it is computed goes on with a line; what changes neither goes on in silence.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deblur_jax.config import settings, unknown_field
from deblur_jax.errors import ConfigError
from deblur_jax.models import abstract_model
from deblur_jax.training.config import Config
from deblur_jax.training.optimizer import make_schedule
from deblur_jax.weights.errors import CheckpointError

SILENT = frozenset(
    {
        "about",
        "per_device_batch",
        "accept_batch_size",
        "init_from",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "max_skipped_steps",
        "profile",
        "data.num_workers",
        "data.cache_gib",
    }
)
"""Fields that change neither the parameters nor how they are computed."""
NOTED = frozenset(
    {
        "accumulation_steps",
        "ema_decay",
        "compute.precision",
        "compute.remat",
        "compute.unroll",
        "compute.backend",
        "compute.deterministic",
        "data.validation_limit",
    }
)
"""Fields that change rounding, or what is measured beside the run."""
_SCHEDULE_SAMPLES = 64


class Started(NamedTuple):
    """How a run was started, and how far it has come."""

    config: Config
    fingerprint: str | None
    step: int


def check_accepted(names: Iterable[str], config: Config) -> None:
    """Checks that accepted fields exist.

    Raises:
        ConfigError: naming the nearest that do.
    """
    known = [name for name, *_ in settings(config)]
    for name in names:
        if name not in known:
            raise ConfigError(f"--accept {name}: {unknown_field(name, known)}")


def check_resumable(
    config: Config,
    fingerprint: str | None,
    started: Started,
    *,
    accept: Collection[str],
    workdir: object,
) -> list[str]:
    """Compares a configuration with that of a run which it is to go on with.

    Args:
        config: wanted now.
        fingerprint: of its training data, see ``data.sources.fingerprint``.
        started: what the newest checkpoint stores.
        accept: fields that may differ although they change the mathematics.
        workdir: of the run, for messages.

    Returns:
        A line for each change that the log should name.

    Raises:
        CheckpointError: naming the first field that differs, both values, and what to do.
    """
    if config.num_steps < started.step:
        raise CheckpointError(
            f"{workdir}: has done {started.step} steps, more than config.num_steps "
            f"{config.num_steps}: ask for more, or choose another --workdir"
        )
    notes = []
    for name, theirs, ours in _changes(config, started.config):
        if name in SILENT or (name == "num_steps" and _same_schedule(config, started.config)):
            continue
        if name == "data.train" and fingerprint is not None and fingerprint == started.fingerprint:
            notes.append(f"config.data.train is {ours} now: the same data as {theirs}")
        elif name in accept and name.startswith("model.") and not _same_shapes(config, started):
            raise CheckpointError(
                f"{workdir}: --accept {name}: with {_shown(ours)} instead of {_shown(theirs)} the "
                "parameters have other shapes: choose another --workdir"
            )
        elif name in NOTED or name in accept:
            notes.append(f"config.{name} is {_shown(ours)} now, not {_shown(theirs)}")
        else:
            raise CheckpointError(
                f"{workdir}: was started with config.{name} {_shown(theirs)}, not {_shown(ours)}: "
                "go on with that, choose another --workdir, or, if the difference is meant, give "
                f"--accept {name}"
            )
    known = fingerprint is not None and started.fingerprint is not None
    unchanged = config.data.train == started.config.data.train
    if known and unchanged and fingerprint != started.fingerprint:
        if "data.train" not in accept:
            raise CheckpointError(
                f"{workdir}: the images in config.data.train {config.data.train} are not those "
                "that the run was started with (names or sizes of files differ): bring them back, "
                "choose another --workdir, or give --accept data.train"
            )
        notes.append(f"the images in {config.data.train} are others now")
    return notes


def carried_over(stored: Any, fresh: Any) -> tuple[Any, list[str]]:
    """The optimiser's state for another optimiser: what fits is kept, the rest starts anew.

    Args:
        stored: the state of the run so far, as ``optax.chain`` keeps it.
        fresh: that of the optimiser now, before its first step.

    Returns:
        The state, and the names of the parts that start anew.
    """
    unused = list(stored) if isinstance(stored, Sequence) else [stored]
    parts, anew = [], []
    for part in fresh if isinstance(fresh, Sequence) else [fresh]:
        match = next((other for other in unused if _fits(other, part)), None)
        if match is None:
            parts.append(part)
            if jax.tree.leaves(part):
                anew.append(type(part).__name__)
            continue
        unused = [other for other in unused if other is not match]
        leaves = jax.tree.leaves(match)
        parts.append(jax.tree.unflatten(jax.tree.structure(part), leaves))
    return type(fresh)(parts) if type(fresh) is tuple else parts[0], anew


def _changes(config: Config, stored: Config) -> list[tuple[str, Any, Any]]:
    """Fields that differ: name, stored value, wanted value; the network's name first."""
    ours, theirs = _flat(config.to_dict()), _flat(stored.to_dict())
    names = sorted({**theirs, **ours}, key=lambda name: name != "model.name")
    return [(n, theirs.get(n), ours.get(n)) for n in names if ours.get(n) != theirs.get(n)]


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat


def _same_shapes(config: Config, started: Started) -> bool:
    ours, theirs = (
        jax.tree.map(lambda leaf: leaf.shape, nnx.to_pure_dict(nnx.state(abstract_model(model))))
        for model in (config.model, started.config.model)
    )
    return bool(ours == theirs)


def _same_schedule(config: Config, stored: Config) -> bool:
    """Whether the number of steps changes no learning rate of the steps that both have."""
    steps = np.linspace(0, min(config.num_steps, stored.num_steps) - 1, _SCHEDULE_SAMPLES)
    ours, theirs = (make_schedule(config.optimizer, c.num_steps) for c in (config, stored))
    numbers = [jnp.int32(step) for step in steps.round()]
    return all(float(ours(step)) == float(theirs(step)) for step in numbers)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _fits(stored: Any, fresh: Any) -> bool:
    """Whether two parts of a state have the same fields, of the same shapes."""
    if getattr(stored, "_fields", None) != getattr(fresh, "_fields", None):
        return False
    ours, theirs = jax.tree.leaves(fresh), jax.tree.leaves(stored)
    return [(x.shape, x.dtype) for x in ours] == [(x.shape, x.dtype) for x in theirs]
