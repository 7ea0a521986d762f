"""What a weights folder is, and how it is found, written and read.

A weights folder describes itself: it holds the Orbax items ``params`` and ``config``, and the item
``digest`` by which damage to either is found. A checkpoint
of a training run is the same plus ``optimizer`` and, where one is kept, ``ema``, in
``WORKDIR/checkpoints/STEP``. So a checkpoint, or the workdir itself, may be named wherever weights
are wanted.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from deblur_jax.errors import ConfigError
from deblur_jax.models import ComputeConfig, NetworkConfig, abstract_model
from deblur_jax.runtime.files import PathLike, absolute, check_utf_8, make_folder
from deblur_jax.weights.digest import (
    Digest,
    differing,
    digest_of,
    digest_of_config,
    name_of,
)
from deblur_jax.weights.errors import CheckpointError
from deblur_jax.weights.items import ItemError, first_line, read_items
from deblur_jax.weights.versions import SCHEMA_VERSION, migrated

CHECKPOINTS = "checkpoints"
PARAMS, EMA, OPTIMIZER, CONFIG, DIGEST = "params", "ema", "optimizer", "config", "digest"
VALIDATION, _VALIDATION_OF_OLD = "validation", "metrics"
"""Names of the Orbax items; Orbax reads one called "metrics" by itself, and fails if it is
damaged."""
_CALLED = {
    PARAMS: "its parameters are",
    EMA: "its moving average is",
    OPTIMIZER: "the state of its optimiser is",
    CONFIG: "its configuration is",
    DIGEST: "the digest of its arrays is",
    VALIDATION: "its validation PSNR is",
    _VALIDATION_OF_OLD: "its validation PSNR is",
}
BEST_METRIC = "validation_psnr"


class Weights(NamedTuple):
    """A network and its parameters.

    Attributes:
        model: the config of the network.
        compute: how it was computed when it was trained.
        params: its parameters.
        digest: of the parameters; its ``all`` identifies them.
        config: everything that was written with them, ``model`` and ``compute`` included, as nested
            dicts of JSON values; empty for an official file.
    """

    model: NetworkConfig
    compute: ComputeConfig
    params: nnx.State
    digest: Digest
    config: dict[str, Any]

    @property
    def trained_on(self) -> str | None:
        """The training data by the name that the run was given; None if it is not known."""
        data = self.config.get("data")
        return data.get("train") if isinstance(data, dict) else None


def describe(config: dict[str, Any]) -> dict[str, Any]:
    """What the item ``config`` holds.

    Args:
        config: nested dicts of JSON values, with ``model`` and ``compute`` at least.
    """
    return {"schema_version": SCHEMA_VERSION, "config": config}


def save_arguments(
    trees: dict[str, Any], config: dict[str, Any], metrics: dict[str, float] | None = None
) -> ocp.args.Composite:
    """What Orbax is to save: trees of arrays by item, a configuration, and the digest of all.

    Args:
        trees: by the names of their items.
        config: as of ``describe``.
        metrics: of its validation, if there was one.
    """
    validated = {} if metrics is None else {VALIDATION: ocp.args.JsonSave(metrics)}
    digest = {name: digest_of(tree).to_dict() for name, tree in trees.items()}
    return ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
        **{
            CONFIG: ocp.args.JsonSave(describe(config)),
            DIGEST: ocp.args.JsonSave({**digest, CONFIG: digest_of_config(config)}),
            **validated,
        },
    )


def save_weights(
    folder: PathLike,
    params: nnx.State,
    model: NetworkConfig,
    *,
    compute: ComputeConfig | None = None,
    about: str = "",
    trained_on: str | None = None,
) -> None:
    """Writes a weights folder.

    Args:
        folder: to make.
        params: of the network.
        model: its config.
        compute: how it was computed when it was trained.
        about: what a reader should know of these weights.
        trained_on: the training data by name, as ``config.data.train``.

    Raises:
        CheckpointError: if the folder exists, or can't be written.
        FolderError: if the folder above can't be made.
    """
    check_utf_8(folder)
    target = absolute(folder)
    if target.exists():
        raise CheckpointError(f"{target}: exists; nothing was overwritten")
    make_folder(target.parent)
    config = config_of(model, compute=compute, about=about, trained_on=trained_on)
    items = save_arguments({PARAMS: params}, config)
    try:
        with errors_naming(target), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
            saver.save(target, args=items)
    except CheckpointError:
        with contextlib.suppress(OSError):
            for found in target.parent.iterdir():
                if found.name.startswith(f"{target.name}.orbax-checkpoint-tmp"):
                    found.rmtree(missing_ok=True)
        raise


def config_of(
    model: NetworkConfig,
    *,
    compute: ComputeConfig | None = None,
    about: str = "",
    trained_on: str | None = None,
) -> dict[str, Any]:
    """What is written beside parameters; the arguments are those of ``save_weights``."""
    data = {} if trained_on is None else {"data": {"train": trained_on}}
    return {
        **data,
        "about": about,
        "model": model.to_dict(),
        "compute": (compute or ComputeConfig()).to_dict(),
    }


def find_weights(path: PathLike) -> epath.Path:
    """The weights folder meant by ``path``: itself, or the best checkpoint of a workdir.

    The best is the one with the highest validation PSNR; without validation, the newest.

    Raises:
        CheckpointError: if there are no weights.
    """
    check_utf_8(path)
    folder = absolute(path)
    if (folder / PARAMS).exists() or (folder / CONFIG).exists():
        return folder
    checkpoints = folder if folder.name == CHECKPOINTS else folder / CHECKPOINTS
    if not checkpoints.exists():
        raise CheckpointError(
            f"{folder}: no weights here; expected the --workdir of a training run, one of its "
            "checkpoints, what `deblur-jax convert` made, an official file, or a name of weights "
            "that come with the package"
        )
    manager = open_manager(checkpoints, keep=1, read_only=True)
    validated, steps = best_validation(manager), saved_steps(manager)
    best = None if validated is None else validated[0]
    manager.close()
    if not steps:
        raise CheckpointError(f"{folder}: its training run has not saved a checkpoint yet")
    return checkpoints / str(steps[-1] if best is None else best)


def read_config(folder: PathLike) -> dict[str, Any]:
    """The configuration in a weights folder, in the present schema, as nested dicts.

    Raises:
        CheckpointError: if it is damaged, or of a later version of this package.
    """
    folder = absolute(folder)
    stored = _read_json(folder, CONFIG)
    digest = read_digests(folder)
    try:
        if digest is not None and digest[CONFIG] != digest_of_config(stored["config"]):
            raise ValueError("it is not what was written")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its configuration is damaged ({first_line(error)})"
        ) from error
    return sections_of(folder, stored)


def sections_of(folder: PathLike, stored: Any) -> dict[str, Any]:
    """The sections of a configuration, in the present schema, as nested dicts.

    Args:
        folder: where it was read, for messages.
        stored: what ``describe`` made.

    Raises:
        CheckpointError: if it is damaged, or of a later version of this package.
    """
    try:
        described = migrated(stored)
        version, config = described["schema_version"], described["config"]
        if version > SCHEMA_VERSION:
            raise CheckpointError(f"{folder}: made by a later version of deblur_jax; upgrade it")
        if not isinstance(config["model"], dict):
            raise TypeError("its section model is no object")
        return config
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its configuration is damaged ({first_line(error)})"
        ) from error


def read_digests(folder: epath.Path) -> dict[str, Any] | None:
    """The digests of a weights folder, by item; None for one that was written without them.

    Raises:
        CheckpointError: if they are damaged.
    """
    if not (folder / DIGEST).exists():
        return None
    digests = _read_json(folder, DIGEST)
    well_formed = isinstance(digests, dict) and isinstance(digests.get(CONFIG), str)
    for name, digest in digests.items() if well_formed else ():
        if name != CONFIG:
            well_formed &= isinstance(digest, dict) and isinstance(digest.get("arrays"), dict)
    if not well_formed:
        raise CheckpointError(f"{folder}: the digest of its arrays is damaged")
    return digests


def check_digest(folder: epath.Path, item: str, tree: Any) -> Digest:
    """Compares arrays that were read with the digest that was written with them.

    Args:
        folder: a weights folder.
        item: the name of the tree in it.
        tree: what was read.

    Returns:
        The digest of what was read.

    Raises:
        CheckpointError: naming the folder and the array that differs.
    """
    stored = read_digests(folder)
    if stored is None:
        return digest_of(tree)
    return check_same_digest(folder, item, stored.get(item, {}), tree)


def check_same_digest(where: Any, item: str, stored: Mapping[str, Any], tree: Any) -> Digest:
    """Compares arrays that were read with a digest.

    Args:
        where: a folder or file, for messages.
        item: what the arrays are.
        stored: as of ``Digest.to_dict``.
        tree: what was read.

    Returns:
        The digest of what was read.

    Raises:
        CheckpointError: naming the array that differs.
    """
    read = digest_of(tree)
    wrong = differing(stored.get("arrays", {}), read.arrays)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"{where}: the array {wrong[0]}{more} of {item} is damaged: it is not what was "
            "written (SHA-256)"
        )
    return read


def read_item(folder: epath.Path, item: str, arguments: ocp.args.CheckpointArgs) -> Any:
    """Reads one item of arrays by the interface that wrote it; every process calls it.

    Args:
        folder: the weights folder; other files may lie in it, and folders have no order.
        item: its name.
        arguments: what Orbax is to restore it to.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    items = ocp.args.Composite(**{item: arguments})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        return _read(folder, item, lambda: reader.restore(folder, args=items)[item])


def _read_json(folder: epath.Path, item: str) -> Any:
    """Reads one item of JSON; alone, without waiting for other processes."""
    file_name = item if item == _VALIDATION_OF_OLD else None
    handler = ocp.JsonCheckpointHandler(filename=file_name)
    return _read(folder, item, lambda: handler.restore(folder / item))


def _read(folder: epath.Path, item: str, read: Callable[[], Any]) -> Any:
    if not (folder / item).exists():
        raise CheckpointError(f"{folder}: {_CALLED[item]} missing (the item {item!r})")
    try:
        return read_items(read)
    except ItemError as error:
        raise CheckpointError(f"{folder}: {_CALLED[item]} damaged ({error})") from error


def network_of(folder: PathLike, config: dict[str, Any]) -> tuple[NetworkConfig, ComputeConfig]:
    """The network that a configuration describes.

    Args:
        folder: where it was read, for messages.
        config: as of ``read_config``.

    Raises:
        CheckpointError: if a field can't be, or the network is not registered.
    """
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

    Weights that were written without digests, by version 1, come with a warning.

    Raises:
        CheckpointError: if there are no weights, or they are damaged.
    """
    folder = find_weights(path)
    config = read_config(folder)
    model, compute = network_of(folder, config)
    sharding = jax.sharding.SingleDeviceSharding(device or jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        nnx.state(abstract_model(model)),
    )
    name = EMA if ema else PARAMS
    if ema and not (folder / name).exists():
        raise CheckpointError(f"{folder}: keeps no moving average (config.ema_decay was not set)")
    params = read_item(folder, name, ocp.args.StandardRestore(abstract))
    digest = check_digest(folder, name, params)
    check_finite(folder, params)
    if read_digests(folder) is None:
        warnings.warn(
            f"{folder}: was written without digests, so damage to it would not be noticed",
            stacklevel=2,
        )
    return Weights(model, compute, params, digest, config)


def check_finite(where: Any, params: nnx.State) -> None:
    """Checks that parameters are numbers.

    Raises:
        CheckpointError: naming the first array that holds others.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            raise CheckpointError(f"{where}: {name_of(path)} holds numbers that are not finite")


def open_manager(
    folder: epath.Path, keep: int, *, read_only: bool = False
) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints of one run.

    Args:
        folder: ``WORKDIR/checkpoints``.
        keep: how many of the newest checkpoints to keep, besides the best.
        read_only: make and delete nothing; else folders of steps that are empty are removed.

    Raises:
        CheckpointError: if a checkpoint of an earlier version has a damaged validation PSNR.
    """
    policy = checkpoint_managers.AnyPreservationPolicy(
        [checkpoint_managers.LatestN(keep), _Best(folder)]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
    )
    if not read_only:
        _remove_empty_folders(folder)
    try:
        return ocp.CheckpointManager(absolute(folder), options=options)
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: the validation PSNR of a checkpoint is damaged ({first_line(error)}): "
            f"delete the folder {_VALIDATION_OF_OLD} in it"
        ) from error


def _remove_empty_folders(checkpoints: epath.Path) -> None:
    """Nothing is lost with them, and Orbax would take them for checkpoints.

    Buckets have no empty folders.
    """
    if "://" in os.fspath(checkpoints) or not checkpoints.is_dir():
        return
    for name in os.listdir(checkpoints):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(os.path.join(checkpoints, name))


def saved_steps(manager: ocp.CheckpointManager) -> list[int]:
    """The steps there are checkpoints of, in order; an empty folder is none."""
    folder = epath.Path(manager.directory)
    return [step for step in sorted(manager.all_steps()) if _has_items(folder / str(step))]


def _has_items(checkpoint: epath.Path) -> bool:
    try:
        return any(checkpoint.iterdir())
    except FileNotFoundError:  # a training run deletes its older checkpoints meanwhile
        return False


def best_validation(manager: ocp.CheckpointManager) -> tuple[int, float] | None:
    """The step with the highest validation PSNR, and that PSNR; None if none was validated."""
    folder = epath.Path(manager.directory)
    psnr = {step: _validation_psnr(folder / str(step)) for step in saved_steps(manager)}
    step = _highest(psnr)
    value = None if step is None else psnr[step]
    return None if step is None or value is None else (step, value)


def _highest(psnr: Mapping[int, float | None]) -> int | None:
    """The step with the highest PSNR, of those that have one."""
    validated = {step: value for step, value in psnr.items() if value is not None}
    return max(validated, key=lambda step: validated[step], default=None)


def _validation_psnr(checkpoint: epath.Path) -> float | None:
    """The validation PSNR of a checkpoint; None without one, with a warning if it is damaged."""
    names = [name for name in (VALIDATION, _VALIDATION_OF_OLD) if (checkpoint / name).exists()]
    if not names:
        return None
    try:
        stored = _read_json(checkpoint, names[0])
        return float(stored[BEST_METRIC])
    except (CheckpointError, KeyError, TypeError, ValueError):
        if not checkpoint.exists():  # a training run has deleted it meanwhile
            return None
        warnings.warn(
            f"{checkpoint}: its validation PSNR is damaged, so it can't be the best checkpoint",
            stacklevel=2,
        )
        return None


class _Best:
    """Orbax's policy to preserve the checkpoint with the highest validation PSNR.

    Orbax's own reads the metrics of all checkpoints when it starts, and fails at a damaged one.
    """

    def __init__(self, checkpoints: epath.Path) -> None:
        self._checkpoints = checkpoints
        self._known: dict[int, float | None] = {}

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
    ) -> list[bool]:
        del context
        for checkpoint in checkpoints:
            if checkpoint.metrics:  # of this run: it may still be on its way to the disk
                self._known[checkpoint.step] = checkpoint.metrics[BEST_METRIC]
            elif checkpoint.step not in self._known:
                folder = self._checkpoints / str(checkpoint.step)
                self._known[checkpoint.step] = _validation_psnr(folder)
        best = _highest({c.step: self._known[c.step] for c in checkpoints})
        return [checkpoint.step == best for checkpoint in checkpoints]


@contextlib.contextmanager
def errors_naming(folder: epath.Path) -> Iterator[None]:
    """Makes a ``CheckpointError`` that names the folder of whatever goes wrong while saving."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{folder}: a checkpoint could not be saved ({first_line(error)})"
        ) from error
