"""The official SVRNN weight file (Caffe) into our parameters."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from deblur_jax.convert.caffe_file import Convolution, Layer, read_caffe_file
from deblur_jax.convert.errors import WeightFileError
from deblur_jax.convert.vgg16 import VGG_CONVOLUTIONS
from deblur_jax.models import build_model
from deblur_jax.models.svrnn import NUM_STAGES
from deblur_jax.ops.recurrence import DIRECTIONS

_GATES = tuple(("stages", stage, "conv_gates") for stage in range(NUM_STAGES))
CONVOLUTIONS = {
    "conve1_1": (("features", "conv_full"),),
    "conve1_2": (("features", "conv_half"),),
    **{f"convg{number}": (("weights", "encoder", f"conv{number}"),) for number in VGG_CONVOLUTIONS},
    "convg4_3": (("weights", "conv_eighth"),),
    "convgd1": (("weights", "merge_quarter"),),
    "convgd1_2": (("weights", "conv_quarter"),),
    "convgd2": (("weights", "merge_half"),),
    "convgd2_2": _GATES,
    **{f"conv_rnn{stage + 1}": (("stages", stage, "merge"),) for stage in range(NUM_STAGES)},
    "convd1_1": (("reconstructor", "conv_half"),),
    "convd1_2": (("reconstructor", "conv_full"),),
}
"""Official layer names, in the order of the network file, and where their outputs go."""

_OFFICIAL_DIRECTIONS = ("top_to_bottom", "left_to_right", "bottom_to_top", "right_to_left")
"""x1, y1, x2, y2: the order of the gates of a stage among the outputs of ``convgd2_2``."""

_UNUSED_TYPE = "GateRecurrent"
"""The recurrent layers carry a matrix, a second one and a bias that this network never uses."""


def load_caffe(path: str | Path, **model_options) -> nnx.State:
    """Reads an official SVRNN weight file.

    Args:
        path: the ``.caffemodel`` file.
        **model_options: ``rnn_channels`` and ``guidance_channels`` of a smaller variant.

    Returns:
        Parameters for ``nnx.merge(graphdef, params)`` of ``build_model("svrnn")``, float32.

    Raises:
        WeightFileError: if the file can't be read, or its arrays are not exactly this network's.
    """
    layers = [layer for layer in read_caffe_file(path) if not _is_unused(layer)]
    _check_names(path, [layer.name for layer in layers])
    try:
        return params_from_convolutions(
            {layer.name: layer.convolution() for layer in layers}, **model_options
        )
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def params_from_convolutions(convolutions: Mapping[str, Convolution], **model_options) -> nnx.State:
    """Our parameters from Caffe's convolutions by their official names, all of ``CONVOLUTIONS``.

    The official code reads pictures column by column, so Caffe's kernels (O, I, h, w) are
    transposed in space on their way to ours, (h, w, I, O).

    Raises:
        WeightFileError: for another shape, or numbers that are not finite.
    """
    expected = nnx.eval_shape(lambda: build_model("svrnn", rngs=nnx.Rngs(0), **model_options))
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(expected))}
    converted = {}
    for name, (kernel, bias) in convolutions.items():
        places = CONVOLUTIONS[name]
        for kind, array in (("kernel", kernel.transpose()), ("bias", bias)):
            *inner, outputs = shapes[*places[0], kind]
            shape = (*inner, outputs * len(places))
            if array.shape != shape:
                raise WeightFileError(
                    f"the {kind} of {name} has shape {array.shape[::-1]}, expected {shape[::-1]}"
                )
            if not np.isfinite(array).all():
                raise WeightFileError(f"{name} holds numbers that are not finite")
            for place, part in zip(places, _parts(array, len(places)), strict=True):
                converted[*place, kind] = nnx.Param(np.ascontiguousarray(part))
    return nnx.from_flat_state(converted)


def convolutions_from_params(params: nnx.State) -> dict[str, Convolution]:
    """The inverse of ``params_from_convolutions``; gradients may take the parameters' place."""
    arrays = {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.as_pure(params))}

    def whole(places, kind):
        return _joined([arrays[*place, kind] for place in places])

    return {
        name: (whole(places, "kernel").transpose(), whole(places, "bias"))
        for name, places in CONVOLUTIONS.items()
    }


def _parts(array: np.ndarray, count: int) -> list[np.ndarray]:
    """The outputs of a layer among its places: gates by stage, each in our order of directions."""
    if count == 1:
        return [array]
    ours = [_OFFICIAL_DIRECTIONS.index(name) for name in DIRECTIONS]
    blocks = array.reshape(*array.shape[:-1], count, len(ours), -1)[..., ours, :]
    return [blocks[..., part, :, :].reshape(*array.shape[:-1], -1) for part in range(count)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The inverse of ``_parts``."""
    if len(parts) == 1:
        return parts[0]
    theirs = [list(DIRECTIONS).index(name) for name in _OFFICIAL_DIRECTIONS]
    leading = parts[0].shape[:-1]
    blocks = [part.reshape(*leading, len(theirs), -1)[..., theirs, :] for part in parts]
    return np.stack(blocks, axis=-3).reshape(*leading, -1)


def _is_unused(layer: Layer) -> bool:
    return layer.type == _UNUSED_TYPE and layer.num_arrays == 3


def _check_names(path: str | Path, names: list[str]) -> None:
    missing = [name for name in CONVOLUTIONS if name not in names]
    unused = [name for name in names if name not in CONVOLUTIONS]
    if missing or unused or len(names) != len(CONVOLUTIONS):
        raise WeightFileError(
            f"{path}: not the weights of svrnn: "
            f"layers missing: {', '.join(missing[:3]) or 'none'}; "
            f"layers that are not its: {', '.join(unused[:3]) or 'none'}"
        )
