"""Python files of users, on this machine or in a bucket."""

import importlib.abc
import importlib.machinery
import importlib.util
from pathlib import Path

from etils import epath

from deblur_jax.runtime.files import is_remote


class _BucketLoader(importlib.abc.SourceLoader):
    """Loads a module from an object of a bucket, without a copy on this machine."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get_filename(self, fullname: str) -> str:
        del fullname
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        return epath.Path(str(path)).read_bytes()


def is_there(path: str) -> bool:
    """Whether there is such a file."""
    return epath.Path(path).exists() if is_remote(path) else Path(path).is_file()


def spec_of(name: str, path: str) -> importlib.machinery.ModuleSpec | None:
    """What ``importlib`` needs to load a file as the module of a name; None if it is no Python."""
    if is_remote(path):
        return importlib.util.spec_from_file_location(name, loader=_BucketLoader(path))
    return importlib.util.spec_from_file_location(name, path)
