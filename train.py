"""Trains a network: ``python train.py --config configs/quickstart.py --workdir runs/quickstart``.

Any field of the config may be replaced: ``--config.optimizer.learning_rate=2e-4``. The same command
goes on from the newest checkpoint in the workdir.

On the hosts of a TPU pod or a Slurm job the same command runs on each, and they find each other;
elsewhere ``--coordinator HOST:PORT --num_processes N --process_id I`` tells them.
"""

import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from deblur_jax import distributed
from deblur_jax.compilation import keep_compiled_programs
from deblur_jax.config import Config, ConfigError, field_names, unknown_field_message
from deblur_jax.cpu import keep_freed_memory, use_all_cores
from deblur_jax.errors import one_line_errors
from deblur_jax.training import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.")
_PROCESSES = [
    flags.DEFINE_string("coordinator", None, distributed.FLAGS["coordinator"][1]),
    flags.DEFINE_integer("num_processes", None, distributed.FLAGS["num_processes"][1]),
    flags.DEFINE_integer("process_id", None, distributed.FLAGS["process_id"][1]),
]


def main(argv: list[str]) -> None:
    """Trains, and says where the weights are."""
    del argv
    keep_compiled_programs()
    keep_freed_memory()
    with one_line_errors():
        config = _CONFIG.value
        if not isinstance(config, Config):
            file = config_flags.get_config_filename(flags.FLAGS["config"])
            raise ConfigError(f"--config {file}: no such file, or it returns no Config")
        if not distributed.initialize(*(flag.value for flag in _PROCESSES)):
            use_all_cores()
        outcome = train(config.validate().freeze(), _WORKDIR.value)
    if jax.process_index() != 0:
        return
    if outcome.finished:
        best = "" if outcome.best_step is None else f"; best at step {outcome.best_step}"
        print(f"trained {outcome.step} steps{best}: weights in {_WORKDIR.value}")
    else:
        print(f"stopped at step {outcome.step}: the same command goes on from there")


def _parse_flags(argv: list[str]) -> list[str]:
    with one_line_errors():
        try:
            for argument in argv[1:]:
                _check_override(argument)
            rest = flags.FLAGS(argv)[1:]
            if rest:
                raise ConfigError(f"{rest[0]}: not understood; a field is set with --config.X=Y")
            if _CONFIG.value is None:
                raise ConfigError("--config is missing: name a file of configs/")
            if not _WORKDIR.value:
                raise ConfigError("--workdir is missing: name a folder for checkpoints and logs")
        except flags.Error as error:
            raise ConfigError(str(error).splitlines()[0]) from None
    return argv[:1]


def _check_override(argument: str) -> None:
    name = argument.lstrip("-").partition("=")[0]
    if name.startswith("config.") and name.removeprefix("config.") not in field_names():
        raise ConfigError(unknown_field_message(name.removeprefix("config.")))


if __name__ == "__main__":
    sys.exit(app.run(main, flags_parser=_parse_flags))
