"""The official SVRNN weight file (Caffe) into our parameters."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from deblur_jax.convert.caffe_file import Layer, read_caffe_file
from deblur_jax.convert.errors import WeightFileError
from deblur_jax.models import build_model

CONVOLUTIONS = {
    "conve1_1": ("features", "conv_full"),
    "conve1_2": ("features", "conv_half"),
    **{
        f"convg{scale}_{i}": ("weights", f"conv{scale}_{i}")
        for scale, count in ((1, 2), (2, 2), (3, 3), (4, 3))
        for i in range(1, count + 1)
    },
    "convgd1": ("weights", "merge_quarter"),
    "convgd1_2": ("weights", "conv_quarter"),
    "convgd2": ("weights", "merge_half"),
    "convgd2_2": ("weights", "conv_gates"),
    **{f"conv_rnn{stage + 1}": ("stages", stage, "merge") for stage in range(4)},
    "convd1_1": ("reconstructor", "conv_half"),
    "convd1_2": ("reconstructor", "conv_full"),
}
"""Official layer names, in the order of the network file, and where their weights go."""

_UNUSED_TYPE = "GateRecurrent"
"""The recurrent layers carry a matrix, a second one and a bias that this network never uses."""


def load_caffe(path: str | Path, **model_options) -> nnx.State:
    """Reads an official SVRNN weight file.

    The official code reads pictures column by column, so Caffe's kernels (O, I, h, w) are
    transposed in space on their way to ours, (h, w, I, O).

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
    params = jax.eval_shape(
        lambda: nnx.state(build_model("svrnn", rngs=nnx.Rngs(0), **model_options))
    )
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(params)}
    converted = {}
    for layer in layers:
        place = CONVOLUTIONS[layer.name]
        if len(layer.blobs) != 2:
            raise WeightFileError(f"{path}: {layer.name} has {len(layer.blobs)} arrays, expected 2")
        kernel, bias = layer.blobs
        for name, array in (("kernel", kernel.transpose()), ("bias", bias.reshape(-1))):
            if array.shape != shapes[*place, name]:
                raise WeightFileError(
                    f"{path}: the {name} of {layer.name} has shape {array.shape[::-1]}, expected "
                    f"{shapes[*place, name][::-1]}"
                )
            if not np.isfinite(array).all():
                raise WeightFileError(f"{path}: {layer.name} holds numbers that are not finite")
            converted[*place, name] = nnx.Param(np.ascontiguousarray(array))
    return nnx.from_flat_state(converted)


def _is_unused(layer: Layer) -> bool:
    return layer.type == _UNUSED_TYPE and len(layer.blobs) == 3


def _check_names(path: str | Path, names: list[str]) -> None:
    missing = [name for name in CONVOLUTIONS if name not in names]
    unused = [name for name in names if name not in CONVOLUTIONS]
    if missing or unused or len(names) != len(CONVOLUTIONS):
        raise WeightFileError(
            f"{path}: not the weights of svrnn: "
            f"layers missing: {', '.join(missing[:3]) or 'none'}; "
            f"layers that are not its: {', '.join(unused[:3]) or 'none'}"
        )
