"""Digests: one damaged bit of stored weights is found, and the same weights have the same digest.

There are three: a SHA-256 of each array, which names the damaged one; one over all arrays, which
identifies the weights; and one of the configuration. They are of the float32 values under our names
and in our layout, so the second is the same for a folder, a checkpoint and an official file,
whatever the layout on disk and the devices.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

_SHOWN = 8
"""So many digits of a digest are enough to tell weights apart."""


class Digest(NamedTuple):
    """The digest of a tree of arrays.

    Attributes:
        all: over all arrays.
        arrays: of each array, by its name.
    """

    all: str
    arrays: dict[str, str]

    @property
    def short(self) -> str:
        """The first digits of ``all``."""
        return self.all[:_SHOWN]

    def to_dict(self) -> dict[str, Any]:
        """The digest as JSON values."""
        return self._asdict()


def digest_of(tree: Any) -> Digest:
    """The digest of parameters, or of another tree of arrays.

    Args:
        tree: arrays of numpy or JAX; one that is replicated over devices counts once.
    """
    arrays = {
        name_of(path): _of_array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    lines = "".join(f"{name} {value}\n" for name, value in sorted(arrays.items()))
    return Digest(hashlib.sha256(lines.encode()).hexdigest(), arrays)


def digest_of_config(config: Mapping[str, Any]) -> str:
    """The digest of a configuration, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def name_of(path: tuple[Any, ...]) -> str:
    """The name of an array by its path in a tree: "encoder_full.blocks.conv_in.kernel"."""
    parts = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return ".".join(str(part) for part in parts if part != "value")


def differing(stored: Mapping[str, str], read: Mapping[str, str]) -> list[str]:
    """The names of arrays that differ, or are in only one of two digests."""
    return [name for name in sorted({*stored, *read}) if stored.get(name) != read.get(name)]


def _of_array(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)  # every process holds a whole copy
    values = np.asarray(leaf)
    if np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16":
        values = values.astype("<f4")
    header = f"{values.dtype.str} {values.shape}\n".encode()
    return hashlib.sha256(header + np.ascontiguousarray(values).tobytes()).hexdigest()
