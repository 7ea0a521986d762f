"""Files of weights, and what goes wrong with weights."""

from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.runtime.files import PathLike, make_folder, write_whole


class WeightFileError(UserError, ValueError):
    """A weight file that is damaged, hostile or of another format; the message names the file."""


class CheckpointError(UserError, RuntimeError):
    """A weights folder or a checkpoint that can't be written or read; the message names it."""


def read_weight_file(path: epath.Path) -> bytes:
    """The content of a file.

    Raises:
        WeightFileError: if it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise WeightFileError(f"{path}: {reason}") from None


def write_weight_file(path: PathLike, content: bytes) -> None:
    """Writes a file, whole or not at all, and never over another.

    Raises:
        CheckpointError: if it exists.
        FolderError, FileError: if it can't be written.
    """
    file = epath.Path(path)
    if file.exists():
        raise CheckpointError(f"{file}: exists; nothing was overwritten")
    make_folder(file.parent)
    write_whole(file, content)
