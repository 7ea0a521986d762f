"""``python -m deblur_jax convert WEIGHTS OUT --model NAME``: official weights into a folder."""

import argparse

from deblur_jax.checkpoint import save_weights
from deblur_jax.config import Config, ModelConfig
from deblur_jax.convert import load_caffe, load_torch, load_vgg16
from deblur_jax.inference import count_params
from deblur_jax.models import MODEL_NAMES, START_NAMES

_SIZES = ("base_channels", "num_res_blocks", "rnn_channels", "guidance_channels")


def add_parser(commands) -> None:
    """Adds the command to ``commands``."""
    parser = commands.add_parser("convert", help="official weights into a weights folder")
    parser.add_argument(
        "weights",
        help="the official .pkl (MIMO-UNet) or .caffemodel (SVRNN); .pth or .caffemodel (VGG-16)",
    )
    parser.add_argument("out", help="the folder to make")
    parser.add_argument("--model", required=True, choices=MODEL_NAMES + START_NAMES)
    for size in _SIZES:
        parser.add_argument(f"--{size}", type=int, help="of a smaller or larger variant")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        WeightFileError: if the file isn't exactly this network's weights.
        CheckpointError: if the folder exists or can't be written.
    """
    sizes = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    if args.model == "svrnn":
        params = load_caffe(args.weights, **sizes)
    elif args.model == "vgg16":
        params = load_vgg16(args.weights, **sizes)
    else:
        params = load_torch(args.weights, args.model, **sizes)
    model = ModelConfig(name=args.model, **sizes)
    save_weights(args.out, params, Config(about=f"converted from {args.weights}", model=model))
    print(f"{args.model}, {count_params(params):,} parameters: weights in {args.out}")
