"""``deblur-jax analyse --out DIR [--weights DIR ...]``: why recurrences undo a blur."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from deblur_jax.analysis import figures
from deblur_jax.analysis.gates import gate_maps
from deblur_jax.analysis.inverse_filter import KernelError, run_experiment
from deblur_jax.analysis.receptive_field import (
    effective_receptive_field,
    extent,
    without_recurrences,
)
from deblur_jax.data import open_pairs
from deblur_jax.errors import ConfigError
from deblur_jax.images.files import as_float
from deblur_jax.images.reading import read_rgb
from deblur_jax.models import SVRNNConfig, restores_images
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.files import check_output_folder, write_whole
from deblur_jax.weights.folder import Weights
from deblur_jax.weights.load import load_weights

_KERNEL = "5,4,4,3,3,2,1"
_FIRST_ORDER = np.array([0.55, 0.45])
_FIRST_ORDER_LENGTH = 64
_MULTIPLE = 8
"""The sides of images must be multiples of this, for every network."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument("--out", required=True, help="the folder for figures and numbers")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        help="networks whose receptive fields, and gates, to look at",
    )
    parser.add_argument("--image", help="for them (default: one of the embedded data set)")
    parser.add_argument(
        "--size", type=int, default=256, help="of its middle to use, in pixels (default: 256)"
    )
    parser.add_argument(
        "--kernel", default=_KERNEL, help=f"a blur in one dimension (default: {_KERNEL})"
    )


def run(args: argparse.Namespace) -> None:
    """Makes the figures, and ``analysis.json`` with their numbers.

    Raises:
        KernelError: if the kernel has no stable inverse.
        CheckpointError, ImageError, ConfigError: if weights or image can't be used.
    """
    kernel = _parse_kernel(args.kernel)
    require_devices()
    networks = _networks(args.weights)
    image = _image(args.image, args.size) if networks else None
    out = epath.Path(args.out)
    check_output_folder(args.out)
    numbers: dict[str, Any] = {"inverse_filter": _inverse_filter(kernel, out)}
    if image is not None:
        numbers["receptive_field"] = _receptive_fields(networks, image, out)
        _gates(networks, image, out)
    write_whole(out / "analysis.json", json.dumps(numbers, indent=2) + "\n")
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


def _receptive_fields(
    networks: dict[str, Weights], image: np.ndarray, out: epath.Path
) -> dict[str, dict[str, float]]:
    fields = {}
    for name, weights in networks.items():
        model, params = weights.model, weights.params
        fields[name] = effective_receptive_field(model, params, image)
        if isinstance(model, SVRNNConfig):
            alone = f"{name}, without recurrences"
            fields[alone] = effective_receptive_field(without_recurrences(model), params, image)
    figures.save(figures.receptive_field_figure(fields), out / "receptive_field.png")
    return {name: extent(influence) for name, influence in fields.items()}


def _gates(networks: dict[str, Weights], image: np.ndarray, out: epath.Path) -> None:
    for name, weights in networks.items():
        model, params = weights.model, weights.params
        if isinstance(model, SVRNNConfig):
            figure = figures.gates_figure(gate_maps(model, params, image), image)
            figures.save(figure, out / f"gates_{name.replace(' ', '_')}.png")


def _networks(paths: list[str]) -> dict[str, Weights]:
    networks = {}
    for path in paths:
        weights = load_weights(path)
        name = weights.model.name
        if not restores_images(weights.model):
            raise ConfigError(f"{path}: holds the weights of {name}, not a whole network's")
        if name in networks:
            name = f"{name} {epath.Path(path).name}"
        if name in networks:
            raise ConfigError(f"{path}: given twice")
        networks[name] = weights
    return networks


def _image(path: str | None, size: int) -> np.ndarray:
    """The middle of an image, float32, its sides at most ``size``."""
    if size < _MULTIPLE:
        raise ConfigError(f"--size must be at least {_MULTIPLE}, not {size}")
    if path is None:
        side = size // _MULTIPLE * _MULTIPLE
        image = open_pairs("synthetic:dynamic", "test", length=1, size=side)[0]["blurred"]
    else:
        image = read_rgb(path)
    window = []
    for length in image.shape[:2]:
        kept = min(length, size) // _MULTIPLE * _MULTIPLE
        if kept == 0:
            raise ConfigError(f"{path}: is smaller than {_MULTIPLE} pixels")
        window.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
    return as_float(image[tuple(window)])


def _parse_kernel(text: str) -> np.ndarray:
    try:
        return np.array([float(number) for number in text.split(",")])
    except ValueError:
        raise KernelError(f"--kernel {text}: expected numbers, as in {_KERNEL}") from None
