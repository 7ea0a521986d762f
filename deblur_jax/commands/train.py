"""``deblur-jax train --config FILE --workdir DIR``: trains a network, or goes on with a run."""

import argparse
from collections.abc import Sequence

import jax

from deblur_jax.commands.config_file import add_config_arguments, config_from
from deblur_jax.errors import ConfigError
from deblur_jax.planning.plan import expected_step_seconds
from deblur_jax.runtime import cluster, processes
from deblur_jax.runtime.compilation import keep_compiled_programs
from deblur_jax.runtime.devices import require_devices, use_all_cores
from deblur_jax.runtime.memory import keep_freed_memory
from deblur_jax.runtime.signals import exit_status, take_signals_back
from deblur_jax.training.loop import train
from deblur_jax.training.resume import check_accepted


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    parser.usage = (
        "deblur-jax train --config FILE --workdir DIR [--config.FIELD=VALUE ...] [other flags]"
    )
    parser.epilog = "The same command goes on from the newest checkpoint in the workdir."
    parser.add_argument("--workdir", metavar="DIR", help="where checkpoints and logs go")
    parser.add_argument(
        "--accept",
        metavar="FIELD",
        action="append",
        default=[],
        help="go on with a run although this field, as seed, changes its mathematics (repeatable)",
    )
    cluster.add_arguments(parser)
    add_config_arguments(parser, words)


def run(args: argparse.Namespace) -> None:
    """Trains, and says where the weights are.

    A run that a signal stopped ends with status 143, or 130 after Ctrl-C: 0 means that all steps
    were taken.

    Raises:
        ConfigError: if the configuration can't be.
        UserError: as ``train``.
    """
    config = config_from(args)
    if not args.workdir:
        raise ConfigError("--workdir is missing: name a folder for checkpoints and logs")
    config = config.validate()
    check_accepted(args.accept, config)
    keep_compiled_programs()
    if not cluster.has_accelerator():
        keep_freed_memory()
    with processes.joined(args) as is_distributed:
        if is_distributed:
            take_signals_back()
        elif not cluster.has_accelerator():
            use_all_cores()
        require_devices()
        outcome = train(
            config, args.workdir, accept=args.accept, expected_seconds=expected_step_seconds
        )
        if outcome.finished and jax.process_index() == 0:
            best = "" if outcome.best_step is None else f"; best at step {outcome.best_step}"
            print(f"trained {outcome.step} steps{best}: weights in {args.workdir}")
        elif jax.process_index() == 0:
            print(f"stopped at step {outcome.step}: the same command goes on from there")
        if outcome.signal is not None:
            raise SystemExit(exit_status(outcome.signal))
