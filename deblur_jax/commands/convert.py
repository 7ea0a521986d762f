"""``deblur-jax convert WEIGHTS OUT --model NAME``: official weights into a folder."""

import argparse
from collections.abc import Callable, Sequence

from flax import nnx

from deblur_jax.models import (
    MIMOUNetConfig,
    SVRNNConfig,
    VGG16Config,
    count_params,
    model_config,
)
from deblur_jax.weights.folder import save_weights
from deblur_jax.weights.official import load_caffe, load_torch
from deblur_jax.weights.vgg16 import load_vgg16

_MODELS = ("mimo_unet", "mimo_unet_plus", "svrnn", "vgg16")
_SIZES = ("base_channels", "num_res_blocks", "rnn_channels", "guidance_channels")
_LOADERS: dict[type, Callable[..., nnx.State]] = {
    MIMOUNetConfig: load_torch,
    SVRNNConfig: load_caffe,
    VGG16Config: load_vgg16,
}


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument(
        "weights",
        help="the official .pkl (MIMO-UNet) or .caffemodel (SVRNN); .pth or .caffemodel (VGG-16)",
    )
    parser.add_argument("out", help="the folder to make")
    parser.add_argument("--model", required=True, choices=_MODELS)
    for size in _SIZES:
        parser.add_argument(f"--{size}", type=int, help="of a smaller or larger variant")


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        WeightFileError: if the file isn't exactly this network's weights.
        CheckpointError: if the folder exists or can't be written.
    """
    sizes = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    model = model_config(args.model, **sizes)
    params = _LOADERS[type(model)](args.weights, model)
    save_weights(args.out, params, model, about=f"converted from {args.weights}")
    print(f"{args.model}, {count_params(params):,} parameters: weights in {args.out}")
