"""A profiler trace of a few steps of a run."""

import shutil
import tempfile
from pathlib import Path

import jax
from etils import epath

from deblur_jax.runtime.files import is_remote

_STEPS = range(10, 15)
"""Counted from the first step of this run; the very first ones compile."""
_FOLDER = "profile"


class Profiler:
    """Traces steps 10 to 14 of this run into ``WORKDIR/profile``, for TensorBoard.

    The profiler knows local files only: a trace for a bucket is made in a temporary folder first.

    Args:
        workdir: of the run.
        wanted: whether to trace at all.
    """

    def __init__(self, workdir: epath.Path, *, wanted: bool) -> None:
        self._target = workdir / _FOLDER
        self._wanted = wanted
        self._local: Path | None = None

    def before_step(self, steps_done: int) -> None:
        """Starts or ends the trace, where a step of this run is the first or the last of it."""
        if not self._wanted:
            return
        if steps_done == _STEPS.start:
            remote = is_remote(self._target)
            self._local = Path(tempfile.mkdtemp()) if remote else Path(self._target)
            jax.profiler.start_trace(str(self._local), profiler_options=_options())
        elif steps_done == _STEPS.stop and self._local is not None:
            jax.profiler.stop_trace()
            if is_remote(self._target):
                self._upload(self._local)

    def _upload(self, folder: Path) -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                target = self._target / file.relative_to(folder).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                epath.Path(file).copy(target, overwrite=True)
        shutil.rmtree(folder)


def _options() -> jax.profiler.ProfileOptions:
    """Without a record of each Python call.

    It hooks into every thread while others, of a save for example, start and end; what the trace
    is read for (steps, operations, transfers, waits) does not come from it.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return options
