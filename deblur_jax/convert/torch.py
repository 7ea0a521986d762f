"""The official MIMO-UNet weight files (PyTorch) into our parameters."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from deblur_jax.convert.errors import WeightFileError
from deblur_jax.convert.torch_file import read_torch_file
from deblur_jax.models import build_model

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


def load_torch(path: str | Path, model_name: str, **model_options) -> nnx.State:
    """Reads an official MIMO-UNet weight file, ``{"model": state_dict, ...}`` or a bare state dict.

    Neither PyTorch nor the pickle's own code is needed: see ``convert.torch_file``.

    Args:
        path: the ``.pkl`` or ``.pth`` file, in PyTorch's zip or legacy format.
        model_name: "mimo_unet" or "mimo_unet_plus".
        **model_options: ``base_channels`` and ``num_res_blocks`` of a smaller variant.

    Returns:
        Parameters for ``nnx.merge(graphdef, params)`` of ``build_model(model_name)``, float32.

    Raises:
        WeightFileError: if the file can't be read, or its arrays are not exactly this network's.
    """
    try:
        return params_from_state_dict(_state_dict(path), model_name, **model_options)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def torch_model_name(path: str | Path) -> str:
    """Which network an official file holds, by its number of residual blocks.

    Raises:
        WeightFileError: if the file can't be read, or holds neither.
    """
    state_dict = _state_dict(path)
    for name in ("mimo_unet", "mimo_unet_plus"):
        params = nnx.eval_shape(lambda n=name: nnx.state(build_model(n, rngs=nnx.Rngs(0))))
        shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(params)}
        if {name for name, _ in _official_names(_num_res_blocks(shapes))} == set(state_dict):
            return name
    raise WeightFileError(
        f"{path}: neither MIMO-UNet's weights nor MIMO-UNet+'s; `python -m deblur_jax convert` "
        "reads smaller variants"
    )


def _state_dict(path: str | Path) -> dict[str, np.ndarray]:
    content = read_torch_file(path)
    state_dict = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state_dict, dict):
        raise WeightFileError(f"{path}: holds no state dict, neither bare nor under 'model'")
    return state_dict


def params_from_state_dict(
    state_dict: dict[str, np.ndarray], model_name: str, **model_options
) -> nnx.State:
    """Our parameters from arrays by their official names: see ``load_torch``.

    Raises:
        WeightFileError: if the arrays are not exactly this network's.
    """
    params = jax.eval_shape(
        lambda: nnx.state(build_model(model_name, rngs=nnx.Rngs(0), **model_options))
    )
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(params)}
    targets = dict(_official_names(_num_res_blocks(shapes)))
    _check_names(state_dict, targets, model_name)

    converted = {path: np.full(shape, np.nan, np.float32) for path, shape in shapes.items()}
    for name, target in targets.items():
        stack_or_whole = converted[target.path]
        place = stack_or_whole if target.block is None else stack_or_whole[target.block]
        array = state_dict[name]
        if array.ndim != len(target.axes) or array.transpose(target.axes).shape != place.shape:
            raise WeightFileError(
                f"{name} has shape {array.shape}, which does not fit {model_name} "
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
    for name, target in _official_names(_num_res_blocks({p: a.shape for p, a in arrays.items()})):
        array = arrays[target.path]
        array = array if target.block is None else array[target.block]
        state_dict[name] = array.transpose(np.argsort(target.axes))
    return state_dict


def _num_res_blocks(shapes: dict[tuple[str, ...], tuple[int, ...]]) -> int:
    return shapes["encoder_full", "blocks", "conv_in", "bias"][0]


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


def _check_names(state_dict: dict, targets: dict[str, _Target], model_name: str) -> None:
    missing = [name for name in targets if name not in state_dict]
    unused = [name for name in state_dict if name not in targets]
    if missing or unused:
        raise WeightFileError(
            f"not the weights of {model_name}: {len(missing)} of its arrays are missing"
            f"{_examples(missing)}, {len(unused)} in the file are not its{_examples(unused)}; "
            "is it the other model, or one with another num_res_blocks?"
        )
    strangers = [n for n, a in state_dict.items() if not isinstance(a, np.ndarray) or a.ndim == 0]
    if strangers:
        raise WeightFileError(f"{strangers[0]} is not an array of weights")


def _examples(names: list[str]) -> str:
    return f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""


def _check_finite(converted: dict[tuple[str, ...], np.ndarray]) -> None:
    for path, array in converted.items():
        if not np.isfinite(array).all():
            raise WeightFileError(f"{'.'.join(path)} would hold numbers that are not finite")
