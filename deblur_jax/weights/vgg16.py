"""VGG-16's first nine convolutions, trained on ImageNet, to start SVRNN's weight generator from.

VGG expects images in other units than RGB in [0, 1]. The difference is folded into the first
convolution, so that it computes the same from our images. Only the outermost pixels differ: VGG
pads with its mean colour, our network with black.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from flax import nnx

from deblur_jax.models import VGG16Config, abstract_model
from deblur_jax.weights.caffe_file import Convolution, read_caffe_file
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.torch_file import is_torch_file, read_torch_file

VGG_CONVOLUTIONS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2")
"""VGG-16's own names of its first nine convolutions, without "conv"."""

_OIHW_TO_HWIO = (2, 3, 1, 0)

_TORCHVISION_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19)
_TORCHVISION_MEAN, _TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORCHVISION_REST = ("features.21.", "features.24.", "features.26.", "features.28.", "classifier.")

_CAFFE_MEAN = (103.939, 116.779, 123.68)
"""The mean of blue, green and red, in 0 to 255."""
_CAFFE_REST = ("conv4_3", "conv5_1", "conv5_2", "conv5_3", "fc6", "fc7", "fc8")


def load_vgg16(path: str | Path, config: VGG16Config) -> nnx.State:
    """Reads the weights of VGG-16.

    Args:
        path: torchvision's ``.pth``, or Caffe's ``.caffemodel``.
        config: the sizes of the network that the file holds.

    Returns:
        Parameters of ``build_model(config)``, for images in RGB and [0, 1].

    Raises:
        WeightFileError: if the file can't be read, or is not VGG-16's.
    """
    is_torch = is_torch_file(path)
    convolutions = _torchvision_convolutions(path) if is_torch else _caffe_convolutions(path)
    params = {}
    for place, leaf in nnx.to_flat_state(nnx.state(abstract_model(config))):
        name, kind = str(place[0]), place[1]
        kernel, bias = convolutions[name]
        array = kernel.transpose(_OIHW_TO_HWIO) if kind == "kernel" else bias
        if array.shape != leaf.shape:
            raise WeightFileError(
                f"{path}: the {kind} of {name} has shape {array.shape}, expected {leaf.shape}"
            )
        if not np.isfinite(array).all():
            raise WeightFileError(f"{path}: {name} holds numbers that are not finite")
        params[place] = nnx.Param(np.ascontiguousarray(array, np.float32))
    return nnx.from_flat_state(params)


def _torchvision_convolutions(path: str | Path) -> dict[str, Convolution]:
    state_dict = read_torch_file(path)
    if not isinstance(state_dict, dict):
        raise WeightFileError(f"{path}: holds no state dict")
    ours = [
        f"features.{number}.{kind}"
        for number in _TORCHVISION_FEATURES
        for kind in ("weight", "bias")
    ]
    rest = [name for name in state_dict if str(name).startswith(_TORCHVISION_REST)]
    _check_names(path, state_dict, ours, rest)
    convolutions = {
        f"conv{name}": (state_dict[f"features.{n}.weight"], state_dict[f"features.{n}.bias"])
        for name, n in zip(VGG_CONVOLUTIONS, _TORCHVISION_FEATURES, strict=True)
    }
    std = np.array(_TORCHVISION_STD)
    _fold(convolutions, scale=1 / std, offset=-np.array(_TORCHVISION_MEAN) / std)
    return convolutions


def _caffe_convolutions(path: str | Path) -> dict[str, Convolution]:
    layers = {layer.name: layer for layer in read_caffe_file(path)}
    ours = [f"conv{name}" for name in VGG_CONVOLUTIONS]
    _check_names(path, layers, ours, _CAFFE_REST)
    try:
        convolutions = {name: layers[name].convolution() for name in ours}
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    kernel, bias = convolutions["conv1_1"]
    convolutions["conv1_1"] = kernel[:, ::-1], bias  # it reads blue, green, red
    _fold(convolutions, scale=np.full(3, 255.0), offset=-np.array(_CAFFE_MEAN[::-1]))
    return convolutions


def _fold(convolutions: dict[str, Convolution], scale: np.ndarray, offset: np.ndarray) -> None:
    """Changes the first convolution so that it takes ``x`` where it took ``scale x + offset``."""
    kernel, bias = (array.astype(np.float64) for array in convolutions["conv1_1"])
    bias = bias + np.einsum("oihw,i->o", kernel, offset)
    kernel = kernel * scale[:, None, None]
    convolutions["conv1_1"] = kernel.astype(np.float32), bias.astype(np.float32)


def _check_names(
    path: str | Path, found: Collection[str], ours: Collection[str], rest: Collection[str]
) -> None:
    missing = [name for name in ours if name not in found]
    strange = [str(name) for name in found if name not in ours and name not in rest]
    if missing or strange:
        raise WeightFileError(
            f"{path}: not the weights of vgg16: arrays missing: {', '.join(missing[:3]) or 'none'};"
            f" arrays that are not its: {', '.join(strange[:3]) or 'none'}"
        )
