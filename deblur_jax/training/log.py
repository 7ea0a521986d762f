"""The log of a training run: JSON lines of each process, and TensorBoard files."""

import contextlib
import json
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from tensorboardX import SummaryWriter

from deblur_jax.errors import UserError
from deblur_jax.images.files import to_uint8
from deblur_jax.runtime.progress import print_beside_bars

LOG_FILE = "log.jsonl"
_CLOUD_PREFIX = "gs://"


class LogError(UserError, RuntimeError):
    """The log can't be written."""


class RunLog:
    """JSON lines of every process, and TensorBoard files of the first one.

    Process 0 writes ``log.jsonl``; process i of several writes ``processes/i.jsonl``.

    Args:
        workdir: of the run; made if missing.
        start_step: the step that the run goes on from; rows of later steps are dropped.
    """

    def __init__(self, workdir: epath.Path, start_step: int):
        process = jax.process_index()
        self._is_first = process == 0
        self._file = workdir / (LOG_FILE if self._is_first else f"processes/{process}.jsonl")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._text = "".join(_rows_until(self._file, start_step))
        self._file.write_text(self._text)
        if self._is_first:
            board = str(workdir / "tensorboard")
            self._board = SummaryWriter(board, purge_step=start_step + 1)

    def note(self, text: str) -> None:
        """Prints a line to the terminal."""
        if self._is_first:
            print_beside_bars(text)

    def row(self, step: int, values: dict[str, float]) -> None:
        """Scalars of a step.

        Raises:
            LogError: if they can't be written.
        """
        row = {name: value if np.isfinite(value) else None for name, value in values.items()}
        try:
            self._append(json.dumps({"step": step, **row}) + "\n")
        except OSError as error:
            raise LogError(f"{self._file}: can't be written: {error.strerror}") from None
        if self._is_first:
            finite = {name: value for name, value in row.items() if value is not None}
            for name, value in finite.items():
                self._board.add_scalar(name, value, step)

    def _append(self, line: str) -> None:
        self._text += line
        if str(self._file).startswith(_CLOUD_PREFIX):  # nothing can be appended to an object there
            self._file.write_text(self._text)
        else:
            with self._file.open("a") as file:
                file.write(line)

    def image(self, step: int, image: np.ndarray) -> None:
        """Before, after and truth side by side, (h, 3w, 3) in [0, 1]."""
        if self._is_first:
            image = to_uint8(np.nan_to_num(image))
            self._board.add_image("blurred | restored | sharp", image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left, if there is room on the disk."""
        if self._is_first:
            with contextlib.suppress(OSError):
                self._board.close()


def _rows_until(file: epath.Path, step: int) -> Iterator[str]:
    if file.exists():
        for line in file.read_text().splitlines(keepends=True):
            with contextlib.suppress(json.JSONDecodeError):  # cut off while it was written
                if json.loads(line)["step"] <= step:
                    yield line
