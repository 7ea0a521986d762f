"""The configuration of a run: typed sections, read-only once parsed.

A file under ``configs/`` builds a ``Config``; the command line may replace single fields
(``--config.optimizer.learning_rate=2e-4``); a checkpoint carries it as JSON.
"""

import dataclasses
import difflib
import types
import typing
from typing import Any, Self

from deblur_jax.errors import UserError

SCHEMA_VERSION = 1


class ConfigError(UserError, ValueError):
    """A field that is unknown, or a value that can't be: the message names the field."""


class _Section:
    """A dataclass that ``freeze`` makes read-only."""

    __slots__ = ("_frozen",)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_frozen"):
            raise dataclasses.FrozenInstanceError(f"{name}: the configuration is read-only")
        object.__setattr__(self, name, value)

    def freeze(self) -> Self:
        """Makes this section and those inside it read-only; returns it."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, _Section):
                value.freeze()
        object.__setattr__(self, "_frozen", True)
        return self


@dataclasses.dataclass(slots=True)
class ModelConfig(_Section):
    """Which network. None keeps what the named model has in its paper.

    ``base_channels``, ``num_res_blocks`` and ``unroll`` are MIMO-UNet's; ``rnn_channels``,
    ``guidance_channels``, ``resize`` and ``gate_limit`` are SVRNN's.
    """

    name: str = "mimo_unet"
    base_channels: int | None = None
    num_res_blocks: int | None = None
    dtype: str = "float32"
    precision: str | None = None
    unroll: int | None = None
    """Residual blocks per loop iteration; None: all on the CPU, one on TPU and GPU."""
    remat: str | None = None
    """"blocks" keeps, for the gradient, what goes into each residual block (MIMO-UNet) or stage of
    recurrences (SVRNN) and computes the rest again: less memory, a third more arithmetic."""
    rnn_channels: int | None = None
    guidance_channels: int | None = None
    resize: str | None = None
    gate_limit: float | None = None


@dataclasses.dataclass(slots=True)
class DataConfig(_Section):
    """Where pairs come from; ``deblur_jax.data.open_source`` says what a name may be."""

    train: str = "synthetic:dynamic"
    validation: str | None = None
    """A data set of its own for validation; None cuts ``validation_fraction`` off ``train``."""
    validation_fraction: float = 0.1
    validation_limit: int = 16
    """At most so many validation pairs, spread evenly over the split."""
    length: int = 1000
    """Number of training pairs of the embedded data set; other data sets have their own."""
    picture_size: int = 256
    """Height and width of the embedded data set's pictures, in pixels."""
    patch_size: int = 256
    num_workers: int = 0
    """Processes that read and crop; 0: threads of this one."""
    cache_gib: float = 4.0
    """Memory for decoded pictures, over all workers of a process."""


@dataclasses.dataclass(slots=True)
class LossConfig(_Section):
    """Which loss: "mimo_unet", over three scales, or "squared_error", SVRNN's.

    The other fields are of "mimo_unet": ``content + frequency_weight * frequency``.
    """

    name: str = "mimo_unet"
    content_norm: str = "l1"
    frequency_weight: float = 0.1


@dataclasses.dataclass(slots=True)
class OptimizerConfig(_Section):
    """Adam and its learning rate, by step."""

    name: str = "adam"
    """"adam", or "caffe_adam", as Caffe's solver computes it."""
    learning_rate: float = 1e-4
    schedule: str = "step"
    """"step": times ``decay_factor`` every ``decay_every`` steps; "cosine": to 0 at the end, after
    a linear rise over ``warmup_steps``; "polynomial": Caffe's, to 0 with the square of what is
    left."""
    decay_factor: float = 0.5
    decay_every: int = 263_000
    warmup_steps: int = 0
    clip_norm: float | None = None
    """Greatest norm of the whole gradient; a longer one is scaled down."""
    weight_decay: float = 0.0
    """Coupled: times the parameter, added to its gradient."""
    bias_rate: float = 1.0
    """Factor on the learning rate of biases."""
    first_iteration: int = 0
    """Where "caffe_adam" and "polynomial" start to count; SVRNN's training starts at 1."""


@dataclasses.dataclass(slots=True)
class Config(_Section):
    """One experiment."""

    about: str = ""
    """What a reader of the log should know of this run."""
    seed: int = 0
    batch_size: int = 4
    """Global: pictures per step over all devices and processes."""
    per_device_batch: int | None = None
    """Sets ``batch_size``: times all devices, times ``accumulation_steps``."""
    accumulation_steps: int = 1
    """Parts that a device computes its share of a batch in, one after the other: the same step in
    less memory."""
    accept_batch_size: bool = False
    """Go on with a run that another ``batch_size`` began: its data is then cut otherwise."""
    num_steps: int = 1000
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    init_from: str | None = None
    """A weights folder to start from instead of a random network."""
    log_every: int = 50
    checkpoint_every: int = 1000
    """Steps between checkpoints, each with a validation."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the parameters, with this weight of the past."""
    max_skipped_steps: int = 0
    """Steps with a non-finite loss or gradient to pass over before the run stops."""
    profile: bool = False
    """Write a profiler trace of a few steps to ``workdir/profile``."""

    def validate(self) -> Self:
        """Checks what can be checked before anything is built; returns the configuration.

        Raises:
            ConfigError: naming the field.
        """
        positive = ("batch_size", "num_steps", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in positive:
            _require(getattr(self, name) >= 1, name, "must be at least 1")
        parts = self.accumulation_steps
        _require(parts >= 1, "accumulation_steps", "must be at least 1")
        _require(self.batch_size % parts == 0, "accumulation_steps", "must divide batch_size")
        per_device = self.per_device_batch
        _require(per_device is None or per_device >= 1, "per_device_batch", "must be at least 1")
        decay = self.ema_decay
        _require(decay is None or 0 < decay < 1, "ema_decay", "is between 0 and 1")
        _require(self.max_skipped_steps >= 0, "max_skipped_steps", "must not be negative")
        whole = self.model.name != "vgg16"
        _require(whole, "model.name", "vgg16 is a part of svrnn, for config.init_from")
        multiple = 8 if self.model.name == "svrnn" else 4
        aligned = self.data.patch_size > 0 and self.data.patch_size % multiple == 0
        _require(aligned, "data.patch_size", f"must be a multiple of {multiple}")
        _require(0 <= self.data.validation_fraction < 1, "data.validation_fraction", "is in [0, 1)")
        _require(self.data.num_workers >= 0, "data.num_workers", "must not be negative")
        _require(self.loss.name in ("mimo_unet", "squared_error"), "loss.name", "is unknown")
        three_scales = self.model.name != "svrnn" or self.loss.name != "mimo_unet"
        _require(three_scales, "loss.name", 'is "squared_error" for svrnn, which has one scale')
        _require(self.optimizer.name in ("adam", "caffe_adam"), "optimizer.name", "is unknown")
        _require(self.loss.content_norm in ("l1", "l2"), "loss.content_norm", 'is "l1" or "l2"')
        schedules = ("step", "cosine", "polynomial")
        known = self.optimizer.schedule in schedules
        _require(known, "optimizer.schedule", f"is one of {', '.join(schedules)}")
        below = self.optimizer.warmup_steps < self.num_steps
        _require(below, "optimizer.warmup_steps", "must be below num_steps")
        known = self.model.dtype in ("float32", "bfloat16")
        _require(known, "model.dtype", 'is "float32" or "bfloat16"')
        _require(self.model.remat in (None, "blocks"), "model.remat", 'is None or "blocks"')
        return self


def _require(condition: bool, field: str, what: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field} {what}")


def to_dict(config: _Section) -> dict[str, Any]:
    """The configuration as nested dicts of JSON values."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``, read-only. It need not be one that can be trained.

    Raises:
        ConfigError: for an unknown field or a value of another type.
    """
    return _section_from_dict(Config, values, "").freeze()


def _section_from_dict(section: type, values: dict[str, Any], prefix: str):
    hints = typing.get_type_hints(section)
    parsed = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(unknown_field_message(prefix + name))
        if dataclasses.is_dataclass(hints[name]):
            value = _section_from_dict(hints[name], value, f"{prefix}{name}.")
        elif not _fits(value, hints[name]):
            raise ConfigError(f"config.{prefix}{name} can't be {value!r}")
        parsed[name] = value
    return section(**parsed)


def _fits(value: Any, hint: Any) -> bool:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, bool):
        return bool in options
    return isinstance(value, options) or (isinstance(value, int) and float in options)


def field_names(section: type = Config, prefix: str = "") -> list[str]:
    """Every field by its dotted name, sections left out."""
    names = []
    for name, hint in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(hint):
            names += field_names(hint, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def unknown_field_message(name: str) -> str:
    """One line for a field that does not exist, with the nearest that do."""
    known = field_names()
    near = difflib.get_close_matches(name, known, n=1)
    last = name.rpartition(".")[2]
    near += [k for k in known if k.rpartition(".")[2] == last and k not in near]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"config.{name} does not exist; {hint}"
