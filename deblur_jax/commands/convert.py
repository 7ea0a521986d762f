"""``python -m deblur_jax convert WEIGHTS OUT --model NAME``: official weights into a folder."""

import argparse

from deblur_jax.checkpoint import save_weights
from deblur_jax.config import Config, ModelConfig
from deblur_jax.convert import load_torch
from deblur_jax.inference import count_params
from deblur_jax.models import MODEL_NAMES


def add_parser(commands) -> None:
    """Adds the command to ``commands``."""
    parser = commands.add_parser("convert", help="official PyTorch weights into a weights folder")
    parser.add_argument("weights", help="the official .pkl file, zip or legacy")
    parser.add_argument("out", help="the folder to make")
    parser.add_argument("--model", required=True, choices=MODEL_NAMES)
    parser.add_argument("--base_channels", type=int, help="of a narrower or wider variant")
    parser.add_argument("--num_res_blocks", type=int, help="of a shallower or deeper variant")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        WeightFileError: if the file isn't exactly this network's weights.
        CheckpointError: if the folder exists or can't be written.
    """
    model = ModelConfig(
        name=args.model, base_channels=args.base_channels, num_res_blocks=args.num_res_blocks
    )
    sizes = {"base_channels": args.base_channels, "num_res_blocks": args.num_res_blocks}
    params = load_torch(args.weights, args.model, **{k: v for k, v in sizes.items() if v})
    save_weights(args.out, params, Config(about=f"converted from {args.weights}", model=model))
    print(f"{args.model}, {count_params(params):,} parameters: weights in {args.out}")
