"""The official weights in our parameters: names there to names here, and back.

MIMO-UNet's are PyTorch files, SVRNN's is a Caffe file. Every array must be used exactly once on
both sides.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax import nnx

from deblur_jax.models import MIMOUNetConfig, SVRNNConfig, abstract_model
from deblur_jax.models.svrnn import NUM_STAGES
from deblur_jax.ops.recurrence import DIRECTIONS
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.caffe_file import Convolution, Layer, read_caffe_file
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.safetensors_file import array_names, is_safetensors, read_arrays
from deblur_jax.weights.torch_file import read_torch_file
from deblur_jax.weights.vgg16 import VGG_CONVOLUTIONS

# -------------------------------------------------------------------------- MIMO-UNet, PyTorch

_OIHW_TO_HWIO = (2, 3, 1, 0)
_IOHW_TO_HWIO = (2, 3, 0, 1)

_CONVOLUTIONS = {
    "feat_extract.0.main.0": ("conv_full",),
    "feat_extract.1.main.0": ("conv_half",),
    "feat_extract.2.main.0": ("conv_quarter",),
    "feat_extract.3.main.0": ("upsample_half",),
    "feat_extract.4.main.0": ("upsample_full",),
    "feat_extract.5.main.0": ("output_full",),
    "Convs.0.main.0": ("merge_half",),
    "Convs.1.main.0": ("merge_full",),
    "ConvsOut.0.main.0": ("output_quarter",),
    "ConvsOut.1.main.0": ("output_half",),
    "AFFs.0.conv.0.main.0": ("aff_full", "fuse"),
    "AFFs.0.conv.1.main.0": ("aff_full", "conv"),
    "AFFs.1.conv.0.main.0": ("aff_half", "fuse"),
    "AFFs.1.conv.1.main.0": ("aff_half", "conv"),
    "FAM1.merge.main.0": ("fam_quarter", "merge"),
    "FAM2.merge.main.0": ("fam_half", "merge"),
    **{
        f"{scm}.main.{i}.main.0": (ours, f"conv_{i + 1}")
        for scm, ours in (("SCM1", "scm_quarter"), ("SCM2", "scm_half"))
        for i in range(4)
    },
    "SCM1.conv.main.0": ("scm_quarter", "merge"),
    "SCM2.conv.main.0": ("scm_half", "merge"),
}
_WRAPPERS = ("model", "params_ema", "params", "state_dict", "model_state_dict")
"""Under these names training programs keep a state dict, the most wanted first."""
_PARALLEL = "module."
"""Before every name where the network was trained on several GPUs."""
_COUNTERS = ("total_ops", "total_params")
"""Buffers that profilers add to every layer."""
_FIRST_NAME = "feat_extract.0.main.0.weight"
_FIRST_STACK, _OF_A_BLOCK = "Encoder.0.layers.", ".main.0.main.0.weight"
_TRANSPOSED_CONVOLUTIONS = ("feat_extract.3.main.0", "feat_extract.4.main.0")
_BLOCK_STACKS = {
    "Encoder.0": "encoder_full",
    "Encoder.1": "encoder_half",
    "Encoder.2": "encoder_quarter",
    "Decoder.0": "decoder_quarter",
    "Decoder.1": "decoder_half",
    "Decoder.2": "decoder_full",
}


class _Target(NamedTuple):
    """Where one official array goes: a parameter of ours, and its block in a stack, if any."""

    path: tuple[str, ...]
    axes: tuple[int, ...]
    block: int | None = None


def load_torch(path: PathLike, config: MIMOUNetConfig) -> nnx.State:
    """Reads an official MIMO-UNet weight file, ``{"model": state_dict, ...}`` or a bare state dict.

    The checkpoints that the official training writes are read too, and files that wrap a state dict
    otherwise. Neither PyTorch nor the pickle's own code is needed: see ``torch_file.py``.

    Args:
        path: the ``.pkl`` or ``.pth`` file, in PyTorch's zip or legacy format; or a safetensors
            file with the same names.
        config: the sizes of the network that the file holds.

    Returns:
        Parameters for ``nnx.merge(graphdef, params)`` of ``build_model(config)``, float32.

    Raises:
        WeightFileError: if the file can't be read, or its arrays are not exactly this network's.
    """
    try:
        return params_from_state_dict(_state_dict(path), config)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def torch_config(path: PathLike) -> MIMOUNetConfig:
    """Which network an official file holds, by its names and the channels of its first layer.

    Raises:
        WeightFileError: if the file can't be read, or holds something else.
    """
    state_dict = _state_dict(path)
    of_blocks = [name for name in state_dict if name.startswith(_FIRST_STACK)]
    blocks = sum(name.endswith(_OF_A_BLOCK) for name in of_blocks)
    if {name for name, _ in _official_names(blocks)} == set(state_dict):
        plus = MIMOUNetConfig.plus()
        config = plus if blocks == plus.num_res_blocks else MIMOUNetConfig(num_res_blocks=blocks)
        return dataclasses.replace(config, base_channels=len(state_dict[_FIRST_NAME]))
    raise WeightFileError(f"{path}: neither MIMO-UNet's weights nor MIMO-UNet+'s")


def has_official_names(path: PathLike) -> bool:
    """Whether a safetensors file holds MIMO-UNet's arrays by their official names."""
    return any(name.removeprefix(_PARALLEL) == _FIRST_NAME for name in array_names(path))


def _state_dict(path: PathLike) -> dict[str, np.ndarray]:
    content: Any
    if is_safetensors(path):
        content, _ = read_arrays(epath.Path(path))
    else:
        content = read_torch_file(path)
    wrapped = content if isinstance(content, dict) else {}
    named = [wrapped[name] for name in _WRAPPERS if isinstance(wrapped.get(name), dict)]
    state_dict = named[0] if named else content
    if not isinstance(state_dict, dict) or not state_dict:
        raise WeightFileError(
            f"{path}: holds no state dict, neither bare nor under {', '.join(_WRAPPERS)}"
        )
    return {
        str(name).removeprefix(_PARALLEL): array
        for name, array in state_dict.items()
        if str(name).rpartition(".")[2] not in _COUNTERS
    }


def params_from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: MIMOUNetConfig
) -> nnx.State:
    """Our parameters from arrays by their official names: see ``load_torch``.

    Raises:
        WeightFileError: if the arrays are not exactly this network's.
    """
    shapes = _shapes(config)
    targets = dict(_official_names(config.num_res_blocks))
    _check_state_dict(state_dict, targets, config.name)

    converted = {path: np.full(shape, np.nan, np.float32) for path, shape in shapes.items()}
    for name, target in targets.items():
        stack_or_whole = converted[target.path]
        place = stack_or_whole if target.block is None else stack_or_whole[target.block]
        array = state_dict[name]
        if array.ndim != len(target.axes) or array.transpose(target.axes).shape != place.shape:
            raise WeightFileError(
                f"{name} has shape {array.shape}, which does not fit {config.name} "
                f"({'.'.join(target.path)}: {place.shape}); give base_channels if it is narrower"
            )
        place[...] = array.transpose(target.axes)
    _check_finite(converted)
    return nnx.from_flat_state({path: nnx.Param(array) for path, array in converted.items()})


def state_dict_from_params(params: nnx.State) -> dict[str, np.ndarray]:
    """Arrays by their official names, in PyTorch's layouts, for ``load_state_dict`` there.

    The inverse of ``params_from_state_dict``; a tree of gradients may take the parameters' place.
    """
    arrays = {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.as_pure(params))}
    state_dict = {}
    num_res_blocks = len(arrays["encoder_full", "blocks", "conv_in", "bias"])
    for name, target in _official_names(num_res_blocks):
        array = arrays[target.path]
        array = array if target.block is None else array[target.block]
        state_dict[name] = array.transpose(np.argsort(target.axes))
    return state_dict


def _official_names(num_res_blocks: int) -> Iterator[tuple[str, _Target]]:
    for name, path in _CONVOLUTIONS.items():
        transposed = name in _TRANSPOSED_CONVOLUTIONS
        yield (
            f"{name}.weight",
            _Target((*path, "kernel"), _IOHW_TO_HWIO if transposed else _OIHW_TO_HWIO),
        )
        yield f"{name}.bias", _Target((*path, "bias"), (0,))
    for name, stack in _BLOCK_STACKS.items():
        for block in range(num_res_blocks):
            for i, conv in enumerate(("conv_in", "conv_out")):
                prefix = f"{name}.layers.{block}.main.{i}.main.0"
                path = (stack, "blocks", conv)
                yield f"{prefix}.weight", _Target((*path, "kernel"), _OIHW_TO_HWIO, block)
                yield f"{prefix}.bias", _Target((*path, "bias"), (0,), block)


def _check_state_dict(
    state_dict: Mapping[str, np.ndarray], targets: dict[str, _Target], model_name: str
) -> None:
    missing = [name for name in targets if name not in state_dict]
    unused = [name for name in state_dict if name not in targets]
    if missing or unused:
        raise WeightFileError(
            f"not the weights of {model_name}: {len(missing)} of its arrays are missing"
            f"{_examples(missing)}, {len(unused)} in the file are not its{_examples(unused)}; "
            "is it the other model, or one with another num_res_blocks?"
        )
    others = [n for n, a in state_dict.items() if not isinstance(a, np.ndarray) or a.ndim == 0]
    if others:
        raise WeightFileError(f"{others[0]} is not an array of weights")


def _examples(names: list[str]) -> str:
    return f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""


def _check_finite(converted: dict[tuple[str, ...], np.ndarray]) -> None:
    for path, array in converted.items():
        if not np.isfinite(array).all():
            raise WeightFileError(f"{'.'.join(path)} would hold numbers that are not finite")


# -------------------------------------------------------------------------------- SVRNN, Caffe

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


def load_caffe(path: str | Path, config: SVRNNConfig) -> nnx.State:
    """Reads an official SVRNN weight file.

    Args:
        path: the ``.caffemodel`` file.
        config: the sizes of the network that the file holds.

    Returns:
        Parameters for ``nnx.merge(graphdef, params)`` of ``build_model(config)``, float32.

    Raises:
        WeightFileError: if the file can't be read, or its arrays are not exactly this network's.
    """
    layers = [layer for layer in read_caffe_file(path) if not _is_unused(layer)]
    _check_layers(path, [layer.name for layer in layers])
    try:
        return params_from_convolutions(
            {layer.name: layer.convolution() for layer in layers}, config
        )
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def params_from_convolutions(
    convolutions: Mapping[str, Convolution], config: SVRNNConfig
) -> nnx.State:
    """Our parameters from Caffe's convolutions by their official names, all of ``CONVOLUTIONS``.

    The official code reads images column by column, so Caffe's kernels (O, I, h, w) are
    transposed in space on their way to ours, (h, w, I, O).

    Raises:
        WeightFileError: for another shape, or numbers that are not finite.
    """
    shapes = _shapes(config)
    converted: dict[Any, nnx.Param] = {}
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

    def whole(places: tuple[tuple, ...], kind: str) -> np.ndarray:
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


def _check_layers(path: str | Path, names: list[str]) -> None:
    missing = [name for name in CONVOLUTIONS if name not in names]
    unused = [name for name in names if name not in CONVOLUTIONS]
    if missing or unused or len(names) != len(CONVOLUTIONS):
        raise WeightFileError(
            f"{path}: not the weights of svrnn: "
            f"layers missing: {', '.join(missing[:3]) or 'none'}; "
            f"layers that are not its: {', '.join(unused[:3]) or 'none'}"
        )


def _shapes(config: MIMOUNetConfig | SVRNNConfig) -> dict[tuple, tuple[int, ...]]:
    """The shapes of a network's parameters, by their place."""
    params = nnx.state(abstract_model(config))
    return {path: leaf.shape for path, leaf in nnx.to_flat_state(params)}
