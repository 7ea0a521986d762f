"""``deblur-jax evaluate --weights WEIGHTS --data DATA``: restores pairs and measures them."""

import argparse
import datetime
import re
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

import deblur_jax
from deblur_jax.commands.flags import (
    EXACT,
    add_dtype,
    add_loose_names,
    add_tiles,
    restoring_options,
    say,
)
from deblur_jax.data import PairSource, open_pairs
from deblur_jax.data.benchmarks import BENCHMARKS
from deblur_jax.data.sources import available_splits, is_embedded, what_is_passed_over
from deblur_jax.data.synthetic import SPLITS
from deblur_jax.errors import ConfigError, UserError
from deblur_jax.evaluation.evaluate import evaluate
from deblur_jax.evaluation.metrics import MODES
from deblur_jax.evaluation.protocols import PROTOCOLS
from deblur_jax.evaluation.report import markdown, table, to_json
from deblur_jax.inference.ensemble import ENSEMBLES
from deblur_jax.inference.restorer import Restorer
from deblur_jax.runtime import cluster, processes
from deblur_jax.runtime.compilation import keep_compiled_programs
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.signals import take_signals_back
from deblur_jax.weights.folder import find_weights


class EvaluationError(UserError, RuntimeError):
    """Some images have no result."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument(
        "--weights",
        required=True,
        help="a workdir, a checkpoint, a converted weights folder, or an official file",
    )
    parser.add_argument(
        "--protocol",
        default="folder",
        choices=PROTOCOLS,
        help="a benchmark: sets --data and --mode, and shows what others published",
    )
    parser.add_argument(
        "--data",
        help='a folder of pairs (blur/ and sharp/), a prepared one, or "synthetic:FAMILY"',
    )
    parser.add_argument(
        "--mode", choices=MODES, help="how PSNR and SSIM are defined (default: the protocol's)"
    )
    parser.add_argument(
        "--ensemble", choices=ENSEMBLES, help="average over rotated and reflected copies"
    )
    parser.add_argument(
        "--ema", action="store_true", help="use the moving average of a run that kept one"
    )
    parser.add_argument(
        "--out",
        help="where results and images go (default: in --weights, evaluation/ and a folder named "
        "after data, split, mode and weights)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="delete the results of another evaluation in --out"
    )
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="go on with this evaluation in --out, where it was stopped",
    )
    add_loose_names(parser)
    parser.add_argument(
        "--allow_incomplete",
        action="store_true",
        help="measure a benchmark of which pairs are missing, and say so in every table",
    )
    parser.add_argument("--split", choices=SPLITS, help="of data that has splits (default: test)")
    parser.add_argument(
        "--length", type=int, default=16, help="images of the embedded data set (default: 16)"
    )
    parser.add_argument(
        "--size", type=int, default=256, help="their height and width in pixels (default: 256)"
    )
    parser.add_argument(
        "--precision",
        default="highest",
        choices=("default", "high", "highest"),
        help="of products on TPU and GPU (default: highest, float32 throughout)",
    )
    add_tiles(parser)
    add_dtype(parser)
    parser.add_argument(
        "--num_devices", type=int, help="of this machine, to use (default: all of them)"
    )
    parser.add_argument("--json", action="store_true", help="print results.json, nothing else")
    cluster.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluates, and prints the table.

    Raises:
        ConfigError: if there is nothing to evaluate.
        UserError: as ``evaluate``.
    """
    keep_compiled_programs()
    with processes.joined(args):
        require_devices()
        take_signals_back()
        _evaluate(args)


def _evaluate(args: argparse.Namespace) -> None:
    protocol = PROTOCOLS[args.protocol]
    data, mode = args.data or protocol.data, args.mode or protocol.mode
    if data is None:
        raise ConfigError("--data is missing: a folder of pairs, or give a --protocol")
    if args.data is None and not epath.Path(data).exists():
        raise ConfigError(
            f"{data}: not there; `deblur-jax prepare {args.protocol}` makes it, or --data names "
            "another folder"
        )
    pairs = _pairs(data, args)
    if jax.process_index() == 0:
        say(what_is_passed_over(data, args.split or "test"))
    incomplete = _incomplete(len(pairs), data, args)
    restorer = Restorer.load(args.weights, precision=args.precision, **restoring_options(args))
    overlap = "exact" if args.overlap == EXACT else args.overlap
    flags = {name: value for name, value in vars(args).items() if name != "run"}
    described = {
        "protocol": args.protocol,
        "version": deblur_jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": args.weights,
        "step": _step(args.weights),
        "digest": restorer.digest,
        "model": restorer.model.name,
        "data": data,
        "split": args.split or "test",
        "embedded": [args.length, args.size, args.size] if is_embedded(data) else None,
        "dtype": restorer.compute.dtype,
        "precision": args.precision,
        "ensemble": args.ensemble,
        "ema": args.ema or None,
        "tile": args.tile,
        "overlap": overlap,
        "incomplete": incomplete,
        "flags": {**flags, "overlap": overlap},
    }
    out = _default_out(args.weights, described, mode) if args.out is None else args.out
    summary = evaluate(
        restorer,
        pairs,
        out,
        mode=mode,
        num_devices=args.num_devices,
        replace=args.replace,
        skip_existing=args.skip_existing,
        **described,
    )
    if summary is None:
        return
    if args.json:
        print(to_json(summary), end="")
    else:
        print(table(summary))
        print()
        print(markdown(summary), end="")
        print(f"report.html, results.json, restored/ and more are in {out}")
    if summary["failed"]:
        first = summary["failed"][0]
        count = len(summary["failed"])
        raise EvaluationError(
            f"{count} of {count + summary['count']} images have no result: {first['name']}: "
            f"{first['reason']}" + (f" (and {count - 1} more)" if count > 1 else "")
        )


def _incomplete(count: int, data: str, args: argparse.Namespace) -> str | None:
    """In words, that there are fewer pairs than the benchmark has."""
    benchmark = BENCHMARKS.get(args.protocol)
    expected = 0 if benchmark is None else benchmark.counts.get(args.split or "test", 0)
    if count >= expected:
        return None
    words = f"{count:,} of the {expected:,} pairs of {PROTOCOLS[args.protocol].title}"
    if not args.allow_incomplete:
        raise ConfigError(
            f"{data}: incomplete, {words}: the mean is not the one that papers report; "
            "--allow_incomplete measures it all the same"
        )
    return words


def _pairs(data: str, args: argparse.Namespace) -> PairSource:
    if args.split is not None and not is_embedded(data) and not available_splits(data):
        raise ConfigError(f"--split {args.split}: {data} has no splits; leave --split out")
    pairs = open_pairs(
        data,
        args.split or "test",
        length=args.length,
        size=args.size,
        loose_names=args.loose_names,
    )
    if len(pairs) == 0:
        raise ConfigError(f"{data}: holds no pairs")
    return pairs


def _step(weights: str) -> int | None:
    """The step of a checkpoint of a run; None for other weights."""
    if not epath.Path(weights).is_dir():
        return None
    name = find_weights(weights).name
    return int(name) if name.isdigit() else None


def _default_out(weights: str, described: dict[str, Any], mode: str) -> epath.Path:
    """A folder for these weights, data, split and mode alone, beside the weights."""
    data = re.sub(r"[^A-Za-z0-9._-]+", "-", described["data"].rstrip("/").rpartition("/")[2])
    parts = [data, described["split"], mode, described["ensemble"], "ema" * bool(described["ema"])]
    name = "-".join([*filter(None, parts), described["digest"][:8]])
    path = epath.Path(weights)
    if not path.is_dir():
        return path.parent / f"{path.stem}-evaluation" / name
    package = epath.Path(deblur_jax.__file__).parent
    inside = path.resolve().is_relative_to(package.resolve())
    return (epath.Path() if inside else path) / "evaluation" / name
