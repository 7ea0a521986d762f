"""Weights that come with the package, by name."""

import os
from importlib import resources
from pathlib import Path

from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.safetensors_file import SUFFIX

DEFAULT_WEIGHTS = "mimo_unet_photographs"
"""What ``restore`` and ``Restorer.load`` take if no weights are named."""


def shipped_weights() -> list[str]:
    """The names of all weights that come with the package."""
    return sorted(path.name.removesuffix(SUFFIX) for path in _folder().glob(f"*{SUFFIX}"))


def resolve_weights(path: PathLike) -> str:
    """The path of weights that are named; what lies at a path comes before a name.

    Args:
        path: a path, or a name of ``shipped_weights``; ``~`` is the user's folder.
    """
    name = os.path.expanduser(os.fspath(path))
    if name in shipped_weights() and not os.path.exists(name):
        return str(_folder() / f"{name}{SUFFIX}")
    return name


def _folder() -> Path:
    return Path(str(resources.files("deblur_jax.weights"))) / "files"
