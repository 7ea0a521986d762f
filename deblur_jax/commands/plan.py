"""``deblur-jax plan --config FILE --topology v5e:16x16``: a run planned without TPUs."""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence

from etils import epath

from deblur_jax.commands.config_file import load_config
from deblur_jax.errors import ConfigError, UsageError
from deblur_jax.planning.plan import Plan, plan_inference, plan_training
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.files import check_output_folder, write_whole

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
    parser.add_argument(
        "--top", type=int, default=8, help="how many places in the source to name, by cost (8)"
    )
    parser.add_argument("--hlo", metavar="FILE", help="write the optimised program's text to it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Plans, and prints the plan.

    Raises:
        ConfigError: if the config can't be read, or the topology is unknown.
        UsageError: for wrong arguments.
        FolderError, FileError: if the program's text can't be written.
    """
    if args.top < 0:
        raise UsageError(f"--top {args.top}: expected a number from 0 on")
    if args.hlo is not None:
        if epath.Path(args.hlo).is_dir():
            raise UsageError(f"--hlo {args.hlo}: this is a folder; name a file")
        check_output_folder(epath.Path(args.hlo).parent)
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
    if args.hlo is not None and plan.program is not None:
        write_whole(args.hlo, plan.program)
    elif args.hlo is not None:
        print(f"--hlo {args.hlo}: not written, the program does not fit", file=sys.stderr)
    plan = dataclasses.replace(plan, costs=plan.costs[: args.top])
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
        f"a step        {1e3 * plan.step_seconds_bound:.2f} ms at least, by operations and bytes",
    ]
    if plan.days_bound is not None:
        lines.append(f"the recipe    {plan.days_bound:.2f} days at least")
    return "\n".join(lines + _table_of_estimate(plan))


def _table_of_estimate(plan: Plan) -> list[str]:
    """What the compiler estimates of a program that fits."""
    if plan.estimated_seconds is None:
        reason = "this libtpu writes none into its program" if plan.fits else "it was not compiled"
        return [f"the compiler's estimate is not known: {reason}"]
    seconds = plan.estimated_seconds
    lines = [
        "",
        "The compiler's estimate, of the model by which it schedules; not a measurement:",
        f"a step        {1e3 * seconds:.2f} ms, "
        f"{100 * (plan.estimated_peak_share or 0):.1f} % of the chip's published speed",
        f"              {plan.estimated_images_per_second or 0:.4g} images a second, all chips",
    ]
    if plan.estimated_days is not None:
        lines.append(f"the recipe    {plan.estimated_days:.2f} days")
    if plan.estimated_kernel_seconds:
        lines.append(
            f"of which      {1e3 * plan.estimated_kernel_seconds:.2f} ms are Pallas kernels, which "
            "the compiler does not estimate: by their bytes and operations"
        )
    if plan.not_counted:
        counts = ", ".join(f"{count} {what}" for what, count in plan.not_counted.items())
        lines.append(f"not counted   {counts}")
    for cost in plan.costs:
        lines.append(
            f"{100 * cost.seconds / seconds:5.1f} %  {1e3 * cost.seconds:8.3f} ms  "
            f"{cost.place}  {cost.operation}"
        )
    return lines


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
