"""``python -m deblur_jax analyse --out DIR [--weights DIR ...]``: why recurrences undo a blur."""

import argparse
import json

import numpy as np
from etils import epath
from flax import nnx

from deblur_jax.analysis import figures
from deblur_jax.analysis.gates import gate_maps
from deblur_jax.analysis.inverse_filter import KernelError, run_experiment
from deblur_jax.analysis.receptive_field import (
    effective_receptive_field,
    extent,
    without_recurrences,
)
from deblur_jax.config import Config, ConfigError
from deblur_jax.data import open_pairs
from deblur_jax.images import make_folder, read_rgb
from deblur_jax.models import START_NAMES
from deblur_jax.weights import load_weights

_KERNEL = "5,4,4,3,3,2,1"
_FIRST_ORDER = np.array([0.55, 0.45])
_FIRST_ORDER_LENGTH = 64
_MULTIPLE = 8
"""Of the sides of pictures, for every network."""


def add_parser(commands) -> None:
    """Adds the command to ``commands``."""
    parser = commands.add_parser("analyse", help="inverse filters, receptive fields, gates")
    parser.add_argument("--out", required=True, help="the folder for figures and numbers")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        help="networks whose receptive fields, and gates, to look at",
    )
    parser.add_argument("--picture", help="for them (default: one of the embedded data set)")
    parser.add_argument(
        "--size", type=int, default=256, help="of its middle to use, in pixels (default: 256)"
    )
    parser.add_argument(
        "--kernel", default=_KERNEL, help=f"a blur in one dimension (default: {_KERNEL})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Makes the figures, and ``analysis.json`` with their numbers.

    Raises:
        KernelError: if the kernel has no stable inverse.
        CheckpointError, ImageError, ConfigError: if weights or picture can't be used.
    """
    kernel = _parse_kernel(args.kernel)
    networks = _networks(args.weights)
    picture = _picture(args.picture, args.size) if networks else None
    out = epath.Path(args.out)
    make_folder(out)
    numbers = {"inverse_filter": _inverse_filter(kernel, out)}
    if networks:
        numbers["receptive_field"] = _receptive_fields(networks, picture, out)
        _gates(networks, picture, out)
    (out / "analysis.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(json.dumps(numbers, indent=2))
    print(f"the figures, and these numbers, are in {out}")
    if not networks:
        print("--weights adds receptive fields and gates")


def _inverse_filter(kernel: np.ndarray, out: epath.Path) -> dict[str, float]:
    general = run_experiment(kernel)
    first_order = run_experiment(_FIRST_ORDER, _FIRST_ORDER_LENGTH)
    figure = figures.inverse_filter_figure(general, first_order)
    figures.save(figure, out / "inverse_filter.png")
    return {
        "kernel_support": len(general.kernel),
        "inverse_support": general.inverse_support,
        "iir_error": general.iir_error,
        "fir_error_with_as_many_coefficients": float(
            np.interp(len(general.kernel), general.fir_lengths, general.fir_errors)
        ),
        "gated_recurrence_error": first_order.iir_error,
    }


def _receptive_fields(networks, picture, out) -> dict[str, dict[str, float]]:
    fields = {}
    for name, (config, params) in networks.items():
        fields[name] = effective_receptive_field(config, params, picture)
        if config.model.name == "svrnn":
            alone = f"{name}, without recurrences"
            fields[alone] = effective_receptive_field(without_recurrences(config), params, picture)
    figures.save(figures.receptive_field_figure(fields), out / "receptive_field.png")
    return {name: extent(influence) for name, influence in fields.items()}


def _gates(networks, picture, out) -> None:
    for name, (config, params) in networks.items():
        if config.model.name == "svrnn":
            figure = figures.gates_figure(gate_maps(config, params, picture), picture)
            figures.save(figure, out / f"gates_{name.replace(' ', '_')}.png")


def _networks(paths: list[str]) -> dict[str, tuple[Config, nnx.State]]:
    networks = {}
    for path in paths:
        config, params = load_weights(path)
        if config.model.name in START_NAMES:
            raise ConfigError(f"{path}: holds the weights of {config.model.name}, not a network's")
        name = config.model.name
        if name in networks:
            name = f"{name} {epath.Path(path).name}"
        if name in networks:
            raise ConfigError(f"{path}: given twice")
        networks[name] = config, params
    return networks


def _picture(path: str | None, size: int) -> np.ndarray:
    """The middle of a picture, float32, its sides at most ``size``."""
    if size < _MULTIPLE:
        raise ConfigError(f"--size must be at least {_MULTIPLE}, not {size}")
    if path is None:
        side = size // _MULTIPLE * _MULTIPLE
        picture = open_pairs("synthetic:dynamic", "test", length=1, size=side)[0]["blurred"]
    else:
        picture = read_rgb(path)
    window = []
    for length in picture.shape[:2]:
        kept = min(length, size) // _MULTIPLE * _MULTIPLE
        if kept == 0:
            raise ConfigError(f"{path}: is smaller than {_MULTIPLE} pixels")
        window.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
    return picture[tuple(window)].astype(np.float32) / 255.0


def _parse_kernel(text: str) -> np.ndarray:
    try:
        return np.array([float(number) for number in text.split(",")])
    except ValueError:
        raise KernelError(f"--kernel {text}: expected numbers, as in {_KERNEL}") from None
