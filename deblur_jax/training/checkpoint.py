"""The checkpoints of a training run.

A checkpoint is a weights folder, see ``weights/folder.py``, with the optimiser's state and, where
one is kept, the moving average of the parameters.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from deblur_jax.errors import ConfigError
from deblur_jax.runtime.files import PathLike
from deblur_jax.training.config import FINGERPRINT, Config
from deblur_jax.training.optimizer import make_optimizer
from deblur_jax.training.resume import Started, carried_over, check_resumable
from deblur_jax.training.step import TrainState
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.folder import (
    BEST_METRIC,
    CHECKPOINTS,
    EMA,
    OPTIMIZER,
    PARAMS,
    best_validation,
    check_digest,
    errors_naming,
    open_manager,
    read_config,
    read_item,
    save_arguments,
    saved_steps,
)

Read = TypeVar("Read")


class Checkpoints:
    """The checkpoints of one run: the newest few, and the best by validation PSNR.

    Saving is asynchronous and atomic: a folder under its final name is complete.

    Args:
        workdir: of the run.
        config: of the run, stored in every checkpoint.
        fingerprint: of the training data, stored too.
        accept: fields in which ``config`` may differ from that of the checkpoints there, see
            ``resume.check_resumable``.

    Attributes:
        notes: lines on what differs and passes.

    Raises:
        CheckpointError: if the workdir can't be made, or holds another experiment's checkpoints.
    """

    def __init__(
        self,
        workdir: PathLike,
        config: Config,
        *,
        fingerprint: str | None = None,
        accept: Collection[str] = (),
    ):
        self._folder = epath.Path(workdir) / CHECKPOINTS
        self._config = config
        self._stored = {**config.stored(), FINGERPRINT: fingerprint}
        self._started: Started | None = None
        self.notes: list[str] = []
        try:
            self._manager = open_manager(self._folder, config.keep_checkpoints)
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{workdir}: can't be a workdir: {reason}") from None
        try:
            latest = self.latest_step()
            if latest is not None:
                self._started = self._read(latest, lambda folder: _started(folder, latest))
                self.notes = check_resumable(
                    config, fingerprint, self._started, accept=accept, workdir=self._folder.parent
                )
        except BaseException:
            self.close()
            raise

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest state, laid out like ``template``; None in a new workdir."""
        step = self.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        optimizer_item = _optimizer_item(abstract)
        optimizer_item["state"] = self._stored_optimizer_state(abstract)
        wanted = {PARAMS: abstract.params, OPTIMIZER: optimizer_item}
        if template.ema is not None and (self._folder / str(step) / EMA).exists():
            wanted[EMA] = abstract.ema
        restored = {
            name: self._read(step, functools.partial(_read_arrays, item=name, abstract=item))
            for name, item in wanted.items()
        }
        optimizer, ema = restored[OPTIMIZER], None
        if template.ema is not None:
            # A run that kept no average until now begins it with its parameters.
            ema = restored[EMA] if EMA in wanted else jax.tree.map(jnp.copy, restored[PARAMS])
        opt_state, anew = carried_over(optimizer["state"], template.opt_state)
        if anew:
            self.notes.append(f"the optimiser is another now: {', '.join(anew)} starts anew")
        return TrainState(
            step=jax.device_put(jnp.int32(step), template.step.sharding),
            params=restored[PARAMS],
            opt_state=opt_state,
            skipped=optimizer["skipped"],
            ema=ema,
        )

    def save(self, step: int, state: TrainState, validation_psnr: float | None) -> None:
        """Starts to save; ``check`` and ``wait`` tell how it went.

        Raises:
            CheckpointError: naming the folder.
        """
        trees = {PARAMS: state.params, OPTIMIZER: _optimizer_item(state)}
        if state.ema is not None:
            trees[EMA] = state.ema
        metrics = None if validation_psnr is None else {BEST_METRIC: validation_psnr}
        items = save_arguments(trees, self._stored, metrics)
        with errors_naming(self._folder):
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def check(self) -> None:
        """Returns at once, if all went well so far.

        Raises:
            CheckpointError: if a save failed.
        """
        with errors_naming(self._folder):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises:
            CheckpointError: if a save failed.
        """
        with errors_naming(self._folder):
            self._manager.wait_until_finished()
        self.check()

    def latest_step(self) -> int | None:
        """The newest step there is a checkpoint of, or one that is being written."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float] | None:
        """The step with the highest validation PSNR, and that PSNR; None if none was validated."""
        return best_validation(self._manager)

    def close(self) -> None:
        """Ends the threads that save."""
        self._manager.close()

    def _read(self, step: int, read: Callable[[epath.Path], Read]) -> Read:
        """Reads something of a checkpoint; an error says from which step the run could go on."""
        try:
            return read(self._folder / str(step))
        except CheckpointError as error:
            older = [other for other in saved_steps(self._manager) if other < step]
            advice = f"; delete this folder to go on from step {older[-1]}" if older else ""
            raise CheckpointError(f"{error}{advice}") from error

    def _stored_optimizer_state(self, abstract: TrainState) -> Any:
        """The optimiser's state in the newest checkpoint, without numbers.

        It has another structure than that of ``abstract`` where another optimiser was accepted.
        """
        if self._started is None or self._started.config.optimizer == self._config.optimizer:
            return abstract.opt_state
        stored = self._started.config
        optimizer = make_optimizer(stored.optimizer, stored.num_steps)
        state = jax.eval_shape(optimizer.init, abstract.params)
        (sharding, *_) = (leaf.sharding for leaf in jax.tree.leaves(abstract.params))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
        )


def _read_arrays(folder: epath.Path, item: str, abstract: Any) -> Any:
    """One item of a checkpoint, compared with its digest."""
    arrays = read_item(folder, item, ocp.args.StandardRestore(abstract))
    check_digest(folder, item, arrays)
    return arrays


def _started(folder: epath.Path, step: int) -> Started:
    stored = read_config(folder)
    fingerprint = stored.pop(FINGERPRINT, None)
    try:
        return Started(Config.from_stored(stored), fingerprint, step)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its configuration is damaged ({error})") from error


def _optimizer_item(state: TrainState) -> dict[str, Any]:
    return {"state": state.opt_state, "skipped": state.skipped}
