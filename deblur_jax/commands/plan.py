"""``deblur-jax plan --config FILE --topology v5e:16x16``: a run planned without TPUs."""

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence

from deblur_jax.commands.config_file import load_config
from deblur_jax.config import ConfigError
from deblur_jax.planning.plan import Plan, plan_inference, plan_training
from deblur_jax.runtime.devices import require_devices

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument("--config", required=True, help="the experiment: a file of configs/")
    parser.add_argument("--topology", required=True, help='the TPUs, as "v5e:16x16"')
    parser.add_argument("--what", choices=("training", "inference"), default="training")
    parser.add_argument("--size", default="1280x720", help="of an image to restore (1280x720)")
    parser.add_argument("--per_device_batch", type=int, help="replaces the config's batch_size")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="replaces compute.dtype")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Plans, and prints the plan.

    Raises:
        ConfigError: if the config can't be read, or the topology is unknown.
    """
    config = load_config(args.config)
    require_devices()
    if args.per_device_batch is not None:
        config = dataclasses.replace(config, per_device_batch=args.per_device_batch)
    if args.dtype is not None:
        config = dataclasses.replace(
            config, compute=dataclasses.replace(config.compute, dtype=args.dtype)
        )
    config = config.validate()
    if args.what == "training":
        plan = plan_training(config, args.topology)
    else:
        plan = plan_inference(config, args.topology, _size(args.size))
    print(json.dumps(plan.to_dict(), indent=2) if args.json else _table(plan))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise ConfigError(f"--size {text}: expected width x height, as in 1280x720")
    return int(match[2]), int(match[1])


def _unused(plan: Plan) -> list[str]:
    if plan.used_devices == plan.devices or plan.days_bound is None:
        return []
    return [
        f"              the batch does not divide over {plan.devices}: rent {plan.used_devices}, "
        "or give --per_device_batch"
    ]


def _table(plan: Plan) -> str:
    share = 100 * plan.needed_bytes / plan.hbm_bytes
    lines = [
        f"{plan.topology}: {plan.used_devices} of {plan.devices} chips, batch {plan.batch_size}; "
        "compiled, not run",
        *_unused(plan),
        f"memory        {plan.needed_bytes / _GIB:.2f} of {plan.hbm_bytes / _GIB:.4g} GiB per chip "
        f"({share:.0f} %)",
    ]
    if plan.fits:
        lines += _table_of_program(plan)
    else:
        excess = (plan.needed_bytes - plan.hbm_bytes) / _GIB
        lines.append(
            f"DOES NOT FIT: {excess:.2f} GiB too much per chip. Less is needed by a smaller batch "
            "per chip (more chips, or accumulation_steps), and by compute.dtype bfloat16"
        )
    lines += [
        f"operations    {plan.flops_per_step / 1e12:.2f} T per step, all chips",
        f"compiled in   {plan.compile_seconds:.0f} s",
        f"a step        {1e3 * plan.step_seconds_bound:.2f} ms at least",
    ]
    if plan.days_bound is not None:
        lines.append(f"the recipe    {plan.days_bound:.2f} days at least")
    return "\n".join(lines)


def _table_of_program(plan: Plan) -> list[str]:
    """What is known of a program that fits."""
    return [
        f"  arguments   {(plan.argument_bytes or 0) / _GIB:.2f} GiB",
        f"  temporaries {(plan.temp_bytes or 0) / _GIB:.2f} GiB",
        f"bytes         {(plan.bytes_per_step or 0) / 1e9:.1f} GB per step to and from memory, "
        "all chips",
        *(
            f"{name:<13} {found['count']} of {found['bytes'] / 1e6:.1f} MB in all"
            for name, found in (plan.collectives or {}).items()
        ),
    ]
