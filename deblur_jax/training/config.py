"""The configuration of a run: all sections, and the checks that need several of them.

A file under ``configs/`` builds a ``Config``; the command line may replace single fields
(``--config.optimizer.learning_rate=2e-4``); a checkpoint carries it as JSON.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from deblur_jax.config import Section, setting, subsection
from deblur_jax.data.config import DataConfig
from deblur_jax.errors import ConfigError
from deblur_jax.extensions import named_extensions
from deblur_jax.models import (
    ComputeConfig,
    MIMOUNetConfig,
    NetworkConfig,
    abstract_model,
    restores_images,
)
from deblur_jax.training.losses import LossConfig
from deblur_jax.training.optimizer import OptimizerConfig

_THREE_SCALES = 3
_IMPORTED = "imported"
FINGERPRINT = "data_fingerprint"
"""Key beside the sections in a checkpoint; see ``data.sources.fingerprint``."""


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """One experiment."""

    about: str = setting("", "what a reader of the log should know of this run")
    seed: int = setting(0, "of parameters, data order and dropout", at_least=0, below=2**32)
    batch_size: int = setting(4, "images per step over all devices and processes", at_least=1)
    per_device_batch: int | None = setting(
        None, "sets batch_size: times all devices, times accumulation_steps", at_least=1
    )
    accumulation_steps: int = setting(
        1, "parts in which a device computes its share of a batch, in less memory", at_least=1
    )
    accept_batch_size: bool = setting(
        False, "go on with a run that another batch_size began; its data is then cut otherwise"
    )
    num_steps: int = setting(1000, "of the whole run", at_least=1)
    init_from: str | None = setting(None, "weights to start from instead of random parameters")
    log_every: int = setting(50, "steps between lines of the log", at_least=1)
    checkpoint_every: int = setting(
        1000, "steps between checkpoints, each with a validation", at_least=1
    )
    keep_checkpoints: int = setting(2, "newest checkpoints to keep, besides the best", at_least=1)
    ema_decay: float | None = setting(
        None,
        "keep a moving average of the parameters, with this weight of the past",
        above=0,
        below=1,
    )
    max_skipped_steps: int = setting(
        0, "steps with a non-finite loss or gradient to pass over before the run stops", at_least=0
    )
    profile: bool = setting(False, "write a profiler trace of a few steps to WORKDIR/profile")
    model: NetworkConfig = subsection(MIMOUNetConfig)
    compute: ComputeConfig = subsection(ComputeConfig)
    data: DataConfig = subsection(DataConfig)
    loss: LossConfig = subsection(LossConfig)
    optimizer: OptimizerConfig = subsection(OptimizerConfig)

    def validate(self) -> Self:
        """Checks what several sections decide together; returns the configuration.

        Raises:
            ConfigError: naming the field.
        """
        _require(
            restores_images(self.model),
            "model",
            f"can't be {self.model.name}, which is a part of svrnn: name it with config.init_from",
        )
        _require(
            self.batch_size % self.accumulation_steps == 0,
            "accumulation_steps",
            f"must divide batch_size, {self.batch_size}",
        )
        _require(
            self.optimizer.warmup_steps < self.num_steps,
            "optimizer.warmup_steps",
            f"must be below num_steps, {self.num_steps}",
        )
        network = _abstract(self.model)
        _require(
            self.data.patch_size % network.size_multiple == 0,
            "data.patch_size",
            f"must be a multiple of {network.size_multiple} for {self.model.name}",
        )
        three_scales = self.loss.name != "mimo_unet" or _count_scales(self) == _THREE_SCALES
        _require(
            three_scales,
            "loss.name",
            f'can\'t be "mimo_unet" for {self.model.name}, which does not restore three scales: '
            '"squared_error" takes the first',
        )
        return self

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps: the configuration, and the user's modules for messages."""
        return {**self.to_dict(), _IMPORTED: named_extensions()}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of ``stored``.

        Raises:
            ConfigError: for an unknown field or a value that can't be.
        """
        return cls.from_dict({k: v for k, v in stored.items() if k not in (_IMPORTED, FINGERPRINT)})


def _count_scales(config: Config) -> int:
    size = config.data.patch_size
    graphdef, params = nnx.split(_abstract(config.model))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return len(jax.eval_shape(lambda p, x: nnx.merge(graphdef, p)(x), params, images))


def _abstract(model: NetworkConfig) -> Any:
    """The network without numbers; the platform plays no part, and no device is looked for."""
    return abstract_model(model, platform="cpu")


def _require(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field} {what}")
