"""Checkpoints of a run, and weights folders that describe themselves.

A weights folder holds the Orbax items ``params`` and ``config``. A checkpoint of a run is the same
plus ``optimizer``, in ``workdir/checkpoints/STEP``; so any of them, and the workdir itself, may be
named where weights are wanted.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from deblur_jax.config import SCHEMA_VERSION, Config, ConfigError, from_dict, to_dict
from deblur_jax.errors import UserError
from deblur_jax.images import PathLike
from deblur_jax.models import build_from_config
from deblur_jax.train_step import TrainState

CHECKPOINTS = "checkpoints"
PARAMS, EMA = "params", "ema"
_BEST_METRIC = "validation_psnr"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that can't be written or read; the message names the folder."""


class Checkpoints:
    """The checkpoints of one run: the newest few, and the best by validation PSNR.

    Saving is asynchronous and atomic: a folder under its final name is complete.

    Args:
        workdir: of the run.
        config: of the run, stored in every checkpoint.

    Raises:
        CheckpointError: if the workdir can't be made, or holds another experiment's checkpoints.
    """

    def __init__(self, workdir: PathLike, config: Config):
        self._folder = epath.Path(workdir) / CHECKPOINTS
        self._config = config
        try:
            self._manager = _manager(self._folder, config.keep_checkpoints)
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{workdir}: can't be a workdir: {reason}") from None
        if self._manager.latest_step() is not None:
            self._check_same_experiment()

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest state, laid out like ``template``; None in a new workdir."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        wanted = {PARAMS: abstract.params, "optimizer": _optimizer_item(abstract)}
        if template.ema is not None and (self._folder / str(step) / EMA).exists():
            wanted[EMA] = abstract.ema
        items = ocp.args.Composite(
            **{name: ocp.args.StandardRestore(item) for name, item in wanted.items()}
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:
            older = [s for s in self._manager.all_steps() if s < step]
            advice = f"; delete it to go on from step {max(older)}" if older else ""
            raise CheckpointError(
                f"{self._folder / str(step)}: damaged, or of another network{advice} "
                f"({_first_line(error)})"
            ) from error
        optimizer, ema = restored["optimizer"], None
        if template.ema is not None:
            # A run that kept no average until now starts it from its parameters.
            ema = restored[EMA] if EMA in wanted else jax.tree.map(jnp.copy, restored[PARAMS])
        return TrainState(
            step=jax.device_put(jnp.int32(step), template.step.sharding),
            params=restored[PARAMS],
            opt_state=optimizer["state"],
            skipped=optimizer["skipped"],
            ema=ema,
        )

    def save(self, step: int, state: TrainState, validation_psnr: float | None) -> None:
        """Starts to save; ``check`` and ``wait`` tell how it went.

        Raises:
            CheckpointError: naming the folder.
        """
        averages = {} if state.ema is None else {EMA: ocp.args.StandardSave(state.ema)}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(_optimizer_item(state)),
            config=ocp.args.JsonSave(_describe(self._config)),
            **averages,
        )
        metrics = None if validation_psnr is None else {_BEST_METRIC: validation_psnr}
        with _errors_naming(self._folder):
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def check(self) -> None:
        """Returns at once, if all went well so far.

        Raises:
            CheckpointError: if a save failed.
        """
        with _errors_naming(self._folder):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when all is on disk.

        Raises:
            CheckpointError: if a save failed.
        """
        with _errors_naming(self._folder):
            self._manager.wait_until_finished()
        self.check()

    def latest_step(self) -> int | None:
        """The newest step there is a checkpoint of."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the highest validation PSNR, among those that were validated."""
        return _best_step(self._manager)

    def close(self) -> None:
        """Lets go of the threads that save."""
        self._manager.close()

    def _check_same_experiment(self) -> None:
        stored = load_config(self._folder / str(self._manager.latest_step()))
        for name, ours, theirs in (
            ("model", self._config.model, stored.model),
            ("seed", self._config.seed, stored.seed),
            ("batch_size", self._config.batch_size, stored.batch_size),
        ):
            accepted = name == "batch_size" and self._config.accept_batch_size
            if ours != theirs and not accepted:
                raise CheckpointError(
                    f"{self._folder.parent}: was started with config.{name} {theirs}, not {ours}: "
                    "go on with that, or choose another --workdir"
                )


def save_weights(folder: PathLike, params: nnx.State, config: Config) -> None:
    """Writes a weights folder.

    Raises:
        CheckpointError: if the folder exists, or can't be written.
    """
    folder = epath.Path(folder).absolute()
    if folder.exists():
        raise CheckpointError(f"{folder}: exists; nothing was overwritten")
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(params), config=ocp.args.JsonSave(_describe(config))
    )
    with _errors_naming(folder), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
        saver.save(folder, args=items)


def weights_folder(path: PathLike) -> epath.Path:
    """The weights folder meant by ``path``: itself, or the best checkpoint of a workdir.

    The best is the one with the highest validation PSNR; without validation, the newest.

    Raises:
        CheckpointError: if there are no weights.
    """
    path = epath.Path(path).absolute()
    if (path / "params").exists() and (path / "config").exists():
        return path
    checkpoints = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    if not checkpoints.exists():
        raise CheckpointError(
            f"{path}: no weights here; expected the --workdir of a training run, one of its "
            "checkpoints, a folder that `python -m deblur_jax convert` made, or an official file"
        )
    manager = _manager(checkpoints, keep=1, read_only=True)
    best, latest = _best_step(manager), manager.latest_step()
    manager.close()
    if latest is None:
        raise CheckpointError(f"{path}: its training run has not saved a checkpoint yet")
    return checkpoints / str(latest if best is None else best)


def load_config(folder: PathLike) -> Config:
    """The configuration in a weights folder.

    Raises:
        CheckpointError: if it is damaged, or of a later version of this package.
    """
    folder = epath.Path(folder).absolute()
    # Orbax reads what it wrote: other files may lie beside it, and folders have no order.
    items = ocp.args.Composite(config=ocp.args.JsonRestore())
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            described = reader.restore(folder, args=items)["config"]
        if described["schema_version"] > SCHEMA_VERSION:
            raise CheckpointError(f"{folder}: made by a later version of deblur_jax; upgrade it")
        return from_dict(described["config"])
    except (ConfigError, KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: its configuration is damaged ({_first_line(error)})"
        ) from error


def load_weights(
    path: PathLike, device: jax.Device | None = None, *, ema: bool = False
) -> tuple[Config, nnx.State]:
    """Reads the parameters of a weights folder, a checkpoint or a workdir.

    Args:
        path: see ``weights_folder``.
        device: where the parameters go; the first one by default.
        ema: their moving average instead.

    Raises:
        CheckpointError: if there are none, or they are damaged.
    """
    folder = weights_folder(path)
    config = load_config(folder)
    sharding = jax.sharding.SingleDeviceSharding(device or jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: nnx.state(build_from_config(config.model, rngs=nnx.Rngs(0))))
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    name = EMA if ema else PARAMS
    if not (folder / name).exists():
        raise CheckpointError(f"{folder}: keeps no moving average (config.ema_decay was not set)")
    items = ocp.args.Composite(**{name: ocp.args.StandardRestore(abstract)})
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            params = reader.restore(folder, args=items)[name]
    except Exception as error:
        message = f"{folder}: its parameters are damaged ({_first_line(error)})"
        raise CheckpointError(message) from error
    return config, params


def _manager(folder: epath.Path, keep: int, read_only: bool = False) -> ocp.CheckpointManager:
    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=_validation_psnr, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=_validation_psnr,
        preservation_policy=policy,
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _validation_psnr(metrics: dict[str, float]) -> float:
    return metrics[_BEST_METRIC]


def _best_step(manager: ocp.CheckpointManager) -> int | None:
    validated = [step for step in sorted(manager.all_steps()) if manager.metrics(step)]
    return max(validated, key=lambda s: _validation_psnr(manager.metrics(s)), default=None)


def _optimizer_item(state: TrainState) -> dict[str, Any]:
    return {"state": state.opt_state, "skipped": state.skipped}


def _describe(config: Config) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "config": to_dict(config)}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _errors_naming(folder: epath.Path) -> Iterator[None]:
    """Turns whatever goes wrong while saving into a ``CheckpointError`` that names the folder."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{folder}: a checkpoint could not be saved ({_first_line(error)})"
        ) from error
