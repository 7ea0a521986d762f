"""Measures a network on pairs: ``python evaluate.py --weights runs/quickstart --data PAIRS``."""

import argparse

from etils import epath

from deblur_jax.data import open_pairs
from deblur_jax.errors import one_line_errors
from deblur_jax.evaluation import evaluate
from deblur_jax.inference import Restorer
from deblur_jax.report import table


def main() -> None:
    """Parses, evaluates, prints the table."""
    args = _parse_args()
    with one_line_errors():
        restorer = Restorer.load(args.weights, precision=args.precision)
        pairs = open_pairs(args.data, args.split, length=args.length, size=args.size)
        described = {
            "weights": args.weights,
            "model": restorer.config.model.name,
            "data": args.data,
            "split": args.split,
            "dtype": restorer.config.model.dtype,
            "precision": args.precision,
        }
        out = args.out or epath.Path(args.weights) / "evaluation"
        summary = evaluate(restorer, pairs, out, **described)
    print(table(summary))
    print(f"restored/, sheets/ (before | after | truth) and results.json are in {out}")


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures a network on pairs, in dB.")
    parser.add_argument(
        "--weights", required=True, help="a workdir, a checkpoint, or a converted weights folder"
    )
    parser.add_argument(
        "--data",
        required=True,
        help='a folder of pairs (blur/ and sharp/), a prepared one, or "synthetic:FAMILY"',
    )
    parser.add_argument(
        "--out", help="where results and pictures go (default: evaluation/ in --weights)"
    )
    parser.add_argument(
        "--split", default="test", help="of data that has splits: train, validation, test (default)"
    )
    parser.add_argument(
        "--length", type=int, default=16, help="pictures of the embedded data set (default: 16)"
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
