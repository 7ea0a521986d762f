"""What goes wrong with foreign weights."""

from pathlib import Path

from deblur_jax.errors import UserError


class WeightFileError(UserError, ValueError):
    """A weight file that is damaged, hostile or of another format; the message names the file."""


def read_weight_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        WeightFileError: if it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise WeightFileError(f"{path}: {reason}") from None
