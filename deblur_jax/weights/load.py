"""The one way to weights, wherever they are: our folders and files, or the official files."""

import jax
from etils import epath

from deblur_jax.models import ComputeConfig, NetworkConfig, SVRNNConfig
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.digest import digest_of
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import Weights, read_weights
from deblur_jax.weights.official import (
    has_official_names,
    load_caffe,
    load_torch,
    torch_config,
)
from deblur_jax.weights.safetensors_file import is_safetensors, read_safetensors
from deblur_jax.weights.shipped import resolve_weights
from deblur_jax.weights.torch_file import is_torch_file


def load_weights(path: PathLike, *, device: jax.Device | None = None, ema: bool = False) -> Weights:
    """Reads a network's parameters.

    Args:
        path: local or remote: a weights folder, a checkpoint, the workdir of a training run, a
            ``.safetensors`` file that ``deblur-jax convert`` made, or an official file, SVRNN's
            ``.caffemodel`` or MIMO-UNet's ``.pkl`` (or a ``.safetensors`` file with its names),
            converted on the fly; or the name of weights
            that come with the package.
        device: where the parameters go; the first one by default.
        ema: their moving average instead, of a run that kept one.

    Raises:
        CheckpointError: if there are no weights, or they are damaged.
        WeightFileError: if an official file is not exactly a network's weights.
    """
    file = epath.Path(resolve_weights(path))
    if not file.is_file() and not is_safetensors(file):
        return read_weights(file, device, ema=ema)
    if ema:
        raise CheckpointError(f"{path}: a single file keeps no moving average")
    official = is_safetensors(file) and has_official_names(file)
    if is_safetensors(file) and not official:
        return read_safetensors(file, device)
    model: NetworkConfig
    if official or is_torch_file(file):
        model = torch_config(file)
        params = load_torch(file, model)
    else:
        model = SVRNNConfig()
        params = load_caffe(file, model)
    placed = jax.device_put(params, device or jax.local_devices()[0])
    return Weights(model, ComputeConfig(), placed, digest_of(params), {})
