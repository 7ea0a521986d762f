"""``deblur-jax convert WEIGHTS OUT``: weights of any kind into a folder or one file."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax import nnx

import deblur_jax
from deblur_jax.data.sources import is_embedded
from deblur_jax.errors import ConfigError
from deblur_jax.models import (
    MIMOUNetConfig,
    NetworkConfig,
    SVRNNConfig,
    VGG16Config,
    count_params,
    model_config,
)
from deblur_jax.weights.digest import digest_of
from deblur_jax.weights.errors import write_weight_file
from deblur_jax.weights.folder import config_of, save_weights
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.official import load_caffe, load_torch, state_dict_from_params
from deblur_jax.weights.safetensors_file import SUFFIX, is_safetensors, save_safetensors
from deblur_jax.weights.torch_writer import torch_file
from deblur_jax.weights.vgg16 import load_vgg16

_MODELS = ("mimo_unet", "mimo_unet_plus", "svrnn", "vgg16")
_TORCH = (".pkl", ".pth", ".pt")
_UNDER = "model"
"""The official code looks for the state dict there."""
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
        help="a workdir, a checkpoint, a weights folder or file; the official .pkl (MIMO-UNet) or "
        ".caffemodel (SVRNN); .pth or .caffemodel (VGG-16)",
    )
    parser.add_argument(
        "out",
        help=f"the folder to make, or a file named *{SUFFIX}, or MIMO-UNet's official file, named "
        f"{', '.join('*' + suffix for suffix in _TORCH)}",
    )
    parser.add_argument(
        "--model", choices=_MODELS, help="of an official file; needed for VGG-16 and other sizes"
    )
    for size in _SIZES:
        parser.add_argument(f"--{size}", type=int, help="of a smaller or larger variant")
    parser.add_argument(
        "--ema", action="store_true", help="the moving average of a run that kept one"
    )
    parser.add_argument(
        "--half", action="store_true", help=f"store numbers of 16 bits, in a file *{SUFFIX}"
    )
    parser.add_argument(
        "--official",
        action="store_true",
        help=f"give the arrays of a file *{SUFFIX} MIMO-UNet's official names and layout",
    )
    parser.add_argument(
        "--average_with",
        metavar="WEIGHTS=SHARE",
        help="the mean with other weights of the same network, which have this share of it",
    )
    parser.add_argument("--about", help="what a reader should know of these weights")


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        ConfigError: for flags or weights that do not go together.
        WeightFileError: if an official file isn't exactly this network's weights.
        CheckpointError: if there are no weights, or what is to be made exists or can't be written.
    """
    into_file = is_safetensors(args.out)
    into_torch = epath.Path(args.out).suffix.lower() in _TORCH
    if args.half and not into_file:
        kind = "an official file" if into_torch else "a folder"
        raise ConfigError(f"--half: {kind} keeps float32; name a file *{SUFFIX}")
    if args.official and (args.half or not into_file):
        raise ConfigError(f"--official is for files *{SUFFIX}, in float32")
    model, params, written = _read(args)
    if args.average_with is not None:
        params = _averaged(model, params, args)
    about = args.about or written.get("about") or f"converted from {args.weights}"
    data = written.get("data", {}).get("train", "")
    trained_on = data if is_embedded(data) else None  # another name may be a path of this machine
    if into_torch or args.official:
        write_weight_file(args.out, _official_file(model, params, args))
    elif into_file:
        config = config_of(model, about=about, trained_on=trained_on)
        dtype = "float16" if args.half else "float32"
        save_safetensors(args.out, params, config, dtype=dtype)
    else:
        save_weights(args.out, params, model, about=about, trained_on=trained_on)
    print(f"{model.name}, {count_params(params):,} parameters: weights in {args.out}")


def _averaged(model: NetworkConfig, params: nnx.State, args: argparse.Namespace) -> nnx.State:
    """The mean with other weights.

    Between a network and one that was trained on from it, it often does better than either
    (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).
    """
    name, _, text = args.average_with.rpartition("=")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not name or not 0 < share < 1:
        raise ConfigError(
            f"--average_with {args.average_with}: expected WEIGHTS=SHARE, a share between 0 and 1"
        )
    other = load_weights(name)
    if other.model != model:
        raise ConfigError(f"--average_with {name}: of another network than {args.weights}")
    return jax.tree.map(lambda a, b: (1.0 - share) * a + share * b, params, other.params)


def _official_file(model: NetworkConfig, params: nnx.State, args: argparse.Namespace) -> bytes:
    if not isinstance(model, MIMOUNetConfig):
        raise ConfigError(f"{args.out}: MIMO-UNet's official form; the weights are {model.name}'s")
    state_dict = state_dict_from_params(params)
    if not args.official:
        return torch_file(_UNDER, state_dict)
    arrays = {name: np.ascontiguousarray(array) for name, array in state_dict.items()}
    described = {"model": model.name, "version": deblur_jax.__version__}
    digest = digest_of(params).all
    return safetensors.numpy.save(arrays, {"format": "pt", **described, "digest": digest})


def _read(args: argparse.Namespace) -> tuple[NetworkConfig, nnx.State, dict[str, Any]]:
    """The network, its parameters, and the configuration that was written with them."""
    sizes = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    if args.model is None:
        if sizes:
            raise ConfigError(f"--{next(iter(sizes))}: say which network it is with --model")
        weights = load_weights(args.weights, ema=args.ema)
        return weights.model, weights.params, weights.config
    if args.ema:
        raise ConfigError("--ema: an official file keeps no moving average; leave --model out")
    model = model_config(args.model, **sizes)
    return model, _LOADERS[type(model)](args.weights, model), {}
