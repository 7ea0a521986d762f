"""Paths and folders."""

import os

from etils import epath

from deblur_jax.errors import UserError

PathLike = str | os.PathLike


class FolderError(UserError, OSError):
    """A folder that can't be made."""


def make_folder(path: PathLike) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        FolderError: if it can't be made.
    """
    try:
        epath.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{path}: can't be made a folder: {error.strerror or error}") from None
