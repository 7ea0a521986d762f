"""Weights in one file, in the safetensors format: under our names, with the network beside them.

The metadata hold the network's config and the digests of the float32 values, as a weights folder
does; arrays may be stored in half precision.
"""

import json
import os
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import nnx

from deblur_jax.errors import ConfigError
from deblur_jax.models import ComputeConfig, NetworkConfig, abstract_model
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.digest import digest_of, digest_of_config, name_of
from deblur_jax.weights.errors import CheckpointError, write_weight_file
from deblur_jax.weights.folder import (
    CONFIG,
    PARAMS,
    Weights,
    check_finite,
    check_same_digest,
    describe,
    network_of,
    sections_of,
)

SUFFIX = ".safetensors"
DTYPES = ("float32", "float16")
_DIGEST = "digest"
_FORMAT = "deblur_jax"
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
"""Of the format: safetensors refuses longer ones."""


def is_safetensors(path: PathLike) -> bool:
    """Whether a path is named as such a file."""
    return os.fspath(path).lower().endswith(SUFFIX)


def save_safetensors(
    path: PathLike,
    params: nnx.State,
    config: dict[str, Any],
    *,
    dtype: str = "float32",
) -> None:
    """Writes weights into one file.

    Args:
        path: to make, local or remote.
        params: of the network.
        config: with ``model`` and ``compute`` at least, as of ``weights.folder.config_of``.
        dtype: that arrays are stored in, of ``DTYPES``.

    Raises:
        CheckpointError: if the file exists, or a value does not fit the dtype.
        FolderError, FileError: if it can't be written.
    """
    file = epath.Path(path)
    if file.exists():
        raise CheckpointError(f"{file}: exists; nothing was overwritten")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused below
        arrays = {name: np.asarray(leaf).astype(dtype) for name, leaf in _named(params).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{file}: {name} has values that are too large for {dtype}")
    widened = {name: array.astype(np.float32) for name, array in arrays.items()}
    described = {
        **describe(config),
        _DIGEST: {PARAMS: digest_of(widened).to_dict(), CONFIG: digest_of_config(config)},
    }
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in described.items()}
    write_weight_file(file, safetensors.numpy.save(arrays, {"format": _FORMAT, **metadata}))


def read_safetensors(path: PathLike, device: jax.Device | None = None) -> Weights:
    """Reads weights from one file.

    Args:
        path: local or remote.
        device: where the parameters go; the first one by default.

    Raises:
        CheckpointError: if it is missing, damaged, or made by another program.
    """
    file = epath.Path(path)
    arrays, metadata = read_arrays(file)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file}: a safetensors file without a network of this package beside its arrays, and "
            f"without MIMO-UNet's official names (its first array is {min(arrays, default='none')})"
            f"; expected one that `deblur-jax convert WEIGHTS OUT{SUFFIX}` made"
        )
    try:
        stored = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        digests = stored.pop(_DIGEST)
        if digests[CONFIG] != digest_of_config(stored["config"]):
            raise ValueError("it is not what was written")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: its configuration is damaged ({error})") from error
    config = sections_of(file, stored)
    model, compute = network_of(file, config)
    params = _params(file, model, arrays)
    digest = check_same_digest(file, PARAMS, digests.get(PARAMS, {}), params)
    check_finite(file, params)
    placed = jax.device_put(params, device or jax.local_devices()[0])
    return Weights(model, compute, placed, digest, config)


def array_names(path: PathLike) -> list[str]:
    """The names of the arrays of a safetensors file, of its header alone; none if it is damaged."""
    try:
        with epath.Path(path).open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
    except (OSError, ValueError):
        return []
    return [name for name in header if name != _METADATA] if isinstance(header, dict) else []


def read_arrays(file: epath.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of any safetensors file by name, and its metadata.

    Raises:
        CheckpointError: if it can't be read.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{file}: can't be read ({error.strerror or error})") from error
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: is damaged or no safetensors file ({error})") from error
    metadata = header.get(_METADATA, {})
    return arrays, metadata if isinstance(metadata, dict) else {}


def _params(file: epath.Path, model: NetworkConfig, arrays: dict[str, np.ndarray]) -> nnx.State:
    """The arrays in the network's places, float32."""
    try:
        shapes = nnx.state(abstract_model(model, compute=ComputeConfig()))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    expected = {name: leaf.shape for name, leaf in _named(shapes).items()}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found:
        wrong = next(n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{file}: {wrong} is {found.get(wrong, 'missing')}, not {expected.get(wrong, 'there')}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[name_of(path)].astype(np.float32), shapes
    )


def _named(tree: Any) -> dict[str, Any]:
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
