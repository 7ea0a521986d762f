"""Weights from wherever they are: our folders, or the official files."""

from pathlib import Path

import jax
from flax import nnx

from deblur_jax.checkpoint import CheckpointError
from deblur_jax.checkpoint import load_weights as load_folder
from deblur_jax.config import Config, ModelConfig
from deblur_jax.convert import load_caffe, load_torch, torch_model_name
from deblur_jax.images import PathLike


def load_weights(
    path: PathLike, device: jax.Device | None = None, *, ema: bool = False
) -> tuple[Config, nnx.State]:
    """Reads a network's parameters.

    Args:
        path: a weights folder, a checkpoint or a workdir, see ``checkpoint.weights_folder``; or an
            official file, SVRNN's ``.caffemodel`` or MIMO-UNet's ``.pkl``, converted on the fly.
        device: where the parameters go; the first one by default.
        ema: their moving average instead, of a run that kept one.

    Raises:
        CheckpointError: if there are no weights, or they are damaged.
        WeightFileError: if an official file is not exactly a network's weights.
    """
    path = Path(path)
    if not path.is_file():
        return load_folder(path, device, ema=ema)
    if ema:
        raise CheckpointError(f"{path}: an official file keeps no moving average")
    if path.suffix == ".caffemodel":
        name, params = "svrnn", load_caffe(path)
    else:
        name = torch_model_name(path)
        params = load_torch(path, name)
    config = Config(about=f"read from {path}", model=ModelConfig(name=name)).freeze()
    return config, jax.device_put(params, device or jax.local_devices()[0])
