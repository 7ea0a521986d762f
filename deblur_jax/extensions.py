"""Modules of users that register networks, losses, optimisers or schedules of their own.

They are named by the user alone: with ``--import FILE_OR_MODULE`` on a command, in the environment
variable ``DEBLUR_JAX_IMPORT`` (several are separated by the system's path separator), or by an
installed package in the entry point group ``deblur_jax.networks``. A file of weights never causes
an import.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import real_place
from deblur_jax.runtime.python_files import is_there, spec_of

VARIABLE = "DEBLUR_JAX_IMPORT"
ENTRY_POINTS = "deblur_jax.networks"

_loaded: set[str] = set()


class ExtensionError(UserError, ImportError):
    """A module of a user that can't be imported."""


def name_extensions(names: Iterable[str]) -> None:
    """Has modules imported by this process and by those that it starts.

    Args:
        names: paths of Python files, also in a bucket, or names of modules.

    Raises:
        ExtensionError: if one can't be imported.
    """
    named = [real_place(name) if _is_file(name) else name for name in names]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*named_extensions(), *named]))
    load_extensions()


def named_extensions() -> list[str]:
    """What ``--import`` and the environment variable name: files and modules."""
    # The colon of gs:// separates nothing.
    names = re.split(rf"{re.escape(os.pathsep)}(?!//)", os.environ.get(VARIABLE, ""))
    return [name for name in names if name]


def load_extensions() -> None:
    """Imports what is named and not imported yet, and the installed entry points.

    Raises:
        ExtensionError: if one can't be imported.
    """
    for name in named_extensions():
        if name not in _loaded:
            _loaded.add(name)
            _import(name)
    if ENTRY_POINTS not in _loaded:
        _loaded.add(ENTRY_POINTS)
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            try:
                point.load()
            except Exception as error:
                raise ExtensionError(
                    f"entry point {point.name} = {point.value}: can't be imported: {error}"
                ) from error


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _import(name: str) -> None:
    if not _is_file(name):
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ExtensionError(f"--import {name}: can't be imported: {_line(error)}") from error
        return
    if not is_there(name):
        raise ExtensionError(f"--import {name}: no such file")
    # Under the name of the file, so that input workers find the classes in it again.
    stem = Path(name).stem
    spec = spec_of(stem, name)
    if spec is None or spec.loader is None:
        raise ExtensionError(f"--import {name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(stem, None)
        raise ExtensionError(f"--import {name}: can't be imported: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
