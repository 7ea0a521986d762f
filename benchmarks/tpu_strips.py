"""How many strips of an image suit a TPU: ``python -m benchmarks.tpu_strips --config svrnn_gopro``.

Compiles a network for chips of v5e, with its images cut into several numbers of strips, and prints
the compiler's estimates and the entry that the best one is in the table of
``deblur_jax/ops/tpu/strips.py``. It needs libtpu and no TPU, and minutes for each number.
"""

import argparse
import dataclasses

from deblur_jax import Config
from deblur_jax.commands.config_file import load_config
from deblur_jax.models import abstract_model
from deblur_jax.ops.tpu import strips
from deblur_jax.planning.plan import Plan, plan_inference, plan_training

_TOPOLOGY = "v5e:2x2"
_AS_FAST = 1.02
"""What takes no more times the least is taken as equal; then the least memory counts."""


def main() -> None:
    """Prints a line for each number of strips, and the entry of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a file, or the name of a recipe")
    parser.add_argument("--images", type=int, default=1, help="of one chip")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="restores; else trains"
    )
    parser.add_argument("--strips", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    args = parser.parse_args()
    images = 1 if args.size else args.images
    counts = [count for count in args.strips if images * count % strips.SUBLANES == 0]
    if not counts:
        parser.error(f"--strips: images times strips must be a multiple of {strips.SUBLANES}")
    config = load_config(args.config)
    config = dataclasses.replace(
        config,
        per_device_batch=None if args.size else images,
        compute=dataclasses.replace(config.compute, dtype=args.dtype),
    ).validate()
    key = smallest_map(config, images, args.size), args.dtype
    plans = {}
    for count in counts:
        plans[count] = plan_with(config, key, count, args.size)
        seconds, needed = plans[count].estimated_seconds, plans[count].needed_bytes
        took = "does not fit" if seconds is None else f"{1e3 * seconds:.1f} ms"
        print(f"{count} strips: {took}, {needed / 2**30:.2f} GiB", flush=True)
    print(f'    ({key[0]}, "{key[1]}"): {best_of(plans)},')


def smallest_map(config: Config, images: int, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Images, height and width of the network's smallest map, for patches if no size is given."""
    multiple = abstract_model(config.model).size_multiple
    height, width = size or (config.data.patch_size, config.data.patch_size)
    return images, -(-height // multiple), -(-width // multiple)


def plan_with(
    config: Config,
    key: tuple[tuple[int, int, int], str],
    count: int,
    size: tuple[int, int] | None,
) -> Plan:
    """The program with a number of strips, which the table has from now on."""
    strips.BEST[key] = count
    if size:
        return plan_inference(config, _TOPOLOGY, size)
    return plan_training(config, _TOPOLOGY)


def best_of(plans: dict[int, Plan]) -> int:
    """The number of strips that needs the least memory of those that are as fast as any."""
    seconds = {count: plan.estimated_seconds for count, plan in plans.items()}
    least = min((s for s in seconds.values() if s is not None), default=None)
    if least is None:
        raise SystemExit("no program fits, or this libtpu writes no estimates")
    fast = [count for count, s in seconds.items() if s is not None and s <= _AS_FAST * least]
    return min(fast, key=lambda count: plans[count].needed_bytes)


if __name__ == "__main__":
    main()
