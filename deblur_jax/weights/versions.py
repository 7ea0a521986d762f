"""Stored configurations of earlier versions, brought to the present one.

Version 1 (deblur_jax 0.1): one section ``model`` held the sizes of all networks, None for the named
network's own, and how to compute them; ``data.image_size`` was called ``data.picture_size``.
"""

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 2

_COMPUTE_FIELDS = ("dtype", "precision", "remat", "unroll")
_RENAMED_DATA_FIELDS = {"picture_size": "image_size"}


def migrated(described: Mapping[str, Any]) -> dict[str, Any]:
    """A stored description in the present schema.

    Args:
        described: with ``schema_version`` and ``config``, as it was stored.

    Raises:
        KeyError, TypeError: if it is none.
    """
    version, config = described["schema_version"], dict(described["config"])
    if version == 1:
        config = _from_version_1(config)
    return {**described, "schema_version": max(version, SCHEMA_VERSION), "config": config}


def _from_version_1(config: dict[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in config.get("model", {}).items() if value is not None}
    model.setdefault("name", "mimo_unet")
    compute = {name: model.pop(name) for name in _COMPUTE_FIELDS if name in model}
    data = {
        _RENAMED_DATA_FIELDS.get(name, name): value
        for name, value in config.get("data", {}).items()
    }
    moved = {"model": model, "compute": compute}
    return {**config, **moved, **({"data": data} if "data" in config else {})}
