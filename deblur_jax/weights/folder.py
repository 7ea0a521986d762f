"""What a weights folder is, and how it is found, written and read.

A weights folder describes itself: it holds the Orbax items ``params`` and ``config``. A checkpoint
of a training run is the same plus ``optimizer`` and, where one is kept, ``ema``, in
``WORKDIR/checkpoints/STEP``. So a checkpoint, or the workdir itself, may be named wherever weights
are wanted.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from deblur_jax.config import ConfigError
from deblur_jax.models import ComputeConfig, NetworkConfig, abstract_model
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.versions import SCHEMA_VERSION, migrated

CHECKPOINTS = "checkpoints"
PARAMS, EMA, OPTIMIZER, CONFIG = "params", "ema", "optimizer", "config"
"""Names of the Orbax items."""
BEST_METRIC = "validation_psnr"


class Weights(NamedTuple):
    """A network and its parameters.

    Attributes:
        model: the config of the network.
        compute: how it was computed when it was trained.
        params: its parameters.
    """

    model: NetworkConfig
    compute: ComputeConfig
    params: nnx.State


def describe(config: dict[str, Any]) -> dict[str, Any]:
    """What the item ``config`` holds.

    Args:
        config: nested dicts of JSON values, with ``model`` and ``compute`` at least.
    """
    return {"schema_version": SCHEMA_VERSION, "config": config}


def save_weights(
    folder: PathLike,
    params: nnx.State,
    model: NetworkConfig,
    *,
    compute: ComputeConfig | None = None,
    about: str = "",
) -> None:
    """Writes a weights folder.

    Args:
        folder: to make.
        params: of the network.
        model: its config.
        compute: how it was computed when it was trained.
        about: what a reader should know of these weights.

    Raises:
        CheckpointError: if the folder exists, or can't be written.
    """
    target = epath.Path(folder).absolute()
    if target.exists():
        raise CheckpointError(f"{target}: exists; nothing was overwritten")
    config = {
        "about": about,
        "model": model.to_dict(),
        "compute": (compute or ComputeConfig()).to_dict(),
    }
    items = ocp.args.Composite(
        **{
            PARAMS: ocp.args.StandardSave(params),
            CONFIG: ocp.args.JsonSave(describe(config)),
        }
    )
    with errors_naming(target), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
        saver.save(target, args=items)


def find_weights(path: PathLike) -> epath.Path:
    """The weights folder meant by ``path``: itself, or the best checkpoint of a workdir.

    The best is the one with the highest validation PSNR; without validation, the newest.

    Raises:
        CheckpointError: if there are no weights.
    """
    folder = epath.Path(path).absolute()
    if (folder / PARAMS).exists() and (folder / CONFIG).exists():
        return folder
    checkpoints = folder if folder.name == CHECKPOINTS else folder / CHECKPOINTS
    if not checkpoints.exists():
        raise CheckpointError(
            f"{folder}: no weights here; expected the --workdir of a training run, one of its "
            "checkpoints, a folder that `deblur-jax convert` made, or an official file"
        )
    manager = open_manager(checkpoints, keep=1, read_only=True)
    best, latest = best_step(manager), manager.latest_step()
    manager.close()
    if latest is None:
        raise CheckpointError(f"{folder}: its training run has not saved a checkpoint yet")
    return checkpoints / str(latest if best is None else best)


def read_config(folder: PathLike) -> dict[str, Any]:
    """The configuration in a weights folder, in the present schema, as nested dicts.

    Raises:
        CheckpointError: if it is damaged, or of a later version of this package.
    """
    folder = epath.Path(folder).absolute()
    # Orbax reads what it wrote: other files may lie beside it, and folders have no order.
    items = ocp.args.Composite(**{CONFIG: ocp.args.JsonRestore()})
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            described = migrated(reader.restore(folder, args=items)[CONFIG])
        version, config = described["schema_version"], described["config"]
        if version > SCHEMA_VERSION:
            raise CheckpointError(f"{folder}: made by a later version of deblur_jax; upgrade it")
        if not isinstance(config["model"], dict):
            raise TypeError("its section model is no object")
        return config
    except (KeyError, OSError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its configuration is damaged ({first_line(error)})"
        ) from error


def read_network(folder: PathLike) -> tuple[NetworkConfig, ComputeConfig]:
    """The network in a weights folder, without its parameters.

    Raises:
        CheckpointError: if the configuration is damaged, or the network is not registered.
    """
    config = read_config(folder)
    try:
        model = NetworkConfig.from_dict(config["model"])
        return model, ComputeConfig.from_dict(config.get("compute", {}))
    except ConfigError as error:
        imported = "".join(f" --import {name}" for name in config.get("imported") or ())
        hint = f" (it was trained with{imported})" if imported else ""
        raise CheckpointError(f"{folder}: {error}{hint}") from error


def read_weights(path: PathLike, device: jax.Device | None = None, *, ema: bool = False) -> Weights:
    """Reads a weights folder.

    Args:
        path: see ``find_weights``.
        device: where the parameters go; the first one by default.
        ema: their moving average instead.

    Raises:
        CheckpointError: if there are no weights, or they are damaged.
    """
    folder = find_weights(path)
    model, compute = read_network(folder)
    sharding = jax.sharding.SingleDeviceSharding(device or jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        nnx.state(abstract_model(model)),
    )
    name = EMA if ema else PARAMS
    if not (folder / name).exists():
        raise CheckpointError(f"{folder}: keeps no moving average (config.ema_decay was not set)")
    items = ocp.args.Composite(**{name: ocp.args.StandardRestore(abstract)})
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            params = reader.restore(folder, args=items)[name]
    except Exception as error:
        message = f"{folder}: its parameters are damaged ({first_line(error)})"
        raise CheckpointError(message) from error
    return Weights(model, compute, params)


def open_manager(
    folder: epath.Path, keep: int, *, read_only: bool = False
) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints of one run.

    Args:
        folder: ``WORKDIR/checkpoints``.
        keep: how many of the newest checkpoints to keep, besides the best.
        read_only: make and delete nothing.
    """
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


def best_step(manager: ocp.CheckpointManager) -> int | None:
    """The step with the highest validation PSNR; None if none was validated."""
    validated = [step for step in sorted(manager.all_steps()) if manager.metrics(step)]
    return max(validated, key=lambda s: _validation_psnr(manager.metrics(s)), default=None)


def _validation_psnr(metrics: dict[str, float]) -> float:
    return metrics[BEST_METRIC]


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def errors_naming(folder: epath.Path) -> Iterator[None]:
    """Makes a ``CheckpointError`` that names the folder of whatever goes wrong while saving."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{folder}: a checkpoint could not be saved ({first_line(error)})"
        ) from error
