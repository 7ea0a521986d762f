"""``deblur-jax export --out FILE``: a network for programs without this package."""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from deblur_jax.errors import UsageError
from deblur_jax.export.function import Exportable, ExportError, Sizes, exportable
from deblur_jax.export.onnx_file import to_onnx
from deblur_jax.export.stablehlo import PLATFORMS, params_file, to_stablehlo
from deblur_jax.export.verify import (
    LARGEST_DIFFERENCE,
    difference_of_onnx,
    difference_of_stablehlo,
)
from deblur_jax.runtime.devices import require_devices
from deblur_jax.runtime.files import check_output_folder, write_whole
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS

_STABLEHLO, _ONNX = ".stablehlo", ".onnx"
_INSIDE, _BESIDE = "inside", "beside"


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help="as of restore (default: %(default)s)"
    )
    parser.add_argument(
        "--ema", action="store_true", help="use the moving average of a run that kept one"
    )
    parser.add_argument(
        "--out",
        required=True,
        help=f"the file to write: *{_STABLEHLO} for JAX without this package, *{_ONNX} for "
        "onnxruntime, browsers and telephones",
    )
    parser.add_argument(
        "--size", help="WIDTHxHEIGHT, the one size of images it takes (default: any)"
    )
    parser.add_argument("--batch", type=int, help="the one number of images (default: any)")
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help=f"of a file *{_STABLEHLO}, that it can run on (default: %(default)s)",
    )
    parser.add_argument(
        "--parameters",
        choices=[_INSIDE, _BESIDE],
        default=_INSIDE,
        help=f"of a file *{_STABLEHLO}: keep them in it, or in a file *.safetensors beside it "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Exports, and verifies what was exported before it gets its name.

    Raises:
        UsageError: for wrong arguments.
        ExportError: if the network can't be exported, or the file computes something else.
        CheckpointError, WeightFileError, FolderError, FileError: as their messages say.
    """
    suffix = epath.Path(args.out).suffix.lower()
    if suffix not in (_STABLEHLO, _ONNX):
        raise UsageError(f"--out {args.out}: name a file *{_STABLEHLO} or *{_ONNX}")
    platforms = args.platforms.split(",")
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown:
        raise UsageError(f"--platforms: {unknown[0]} is not of {', '.join(PLATFORMS)}")
    if suffix == _ONNX and (args.parameters != _INSIDE or platforms != list(PLATFORMS)):
        raise UsageError(f"--parameters and --platforms are for files *{_STABLEHLO}")
    require_devices()
    check_output_folder(epath.Path(args.out).parent)
    network = exportable(args.weights, ema=args.ema, sizes=_sizes(args))
    if suffix == _ONNX:
        _export_onnx(network, args)
    else:
        _export_stablehlo(network, args, platforms)


def _export_onnx(network: Exportable, args: argparse.Namespace) -> None:
    model = to_onnx(network)
    difference = difference_of_onnx(network, model)
    _refuse_above(difference, args.out)
    write_whole(args.out, model)
    _say(args.out, len(model), "onnxruntime", difference, network)


def _export_stablehlo(
    network: Exportable, args: argparse.Namespace, platforms: Sequence[str]
) -> None:
    inside = args.parameters == _INSIDE
    artefact = to_stablehlo(network, platforms, with_params=inside)
    params = None if inside else params_file(network)
    runs_here = "cpu" in platforms
    difference = 0.0
    if runs_here:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "artefact", Path(folder) / "params"]
            for file, content in zip(files, (artefact, params), strict=True):
                if content is not None:
                    file.write_bytes(content)
            difference = difference_of_stablehlo(network, files[0], None if inside else files[1])
        _refuse_above(difference, args.out)
    if params is not None:
        beside = epath.Path(args.out).with_suffix(".safetensors")
        write_whole(beside, params)
        print(f"the parameters are in {beside}")
    write_whole(args.out, artefact)
    if runs_here:
        _say(args.out, len(artefact), "JAX, in a process of its own", difference, network)
    others = [name for name in platforms if name != "cpu"]
    if others:
        print(f"for {' and '.join(others)} it was lowered, and not run")


def _sizes(args: argparse.Namespace) -> Sizes:
    if args.size is None:
        return Sizes(args.batch)
    found = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if found is None:
        raise UsageError(f"--size {args.size}: expected WIDTHxHEIGHT, as in 1280x720")
    return Sizes(args.batch, height=int(found[2]), width=int(found[1]))


def _refuse_above(difference: float, out: str) -> None:
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"{out}: not written: what was exported differs from the network by {difference:.2g} "
            f"on random images, more than {LARGEST_DIFFERENCE:g}"
        )


def _say(out: str, size: int, runtime: str, difference: float, network: Exportable) -> None:
    shape = ", ".join(map(str, network.input_shape().shape))
    print(f"{out}: {size / 1e6:.1f} MB, for images ({shape}) of float32 in 0 to 1")
    print(f"run in {runtime}: it differs from the network by {difference:.1e} at most")
