"""The training loop: the only place where the order of things matters."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Collection, Mapping
from typing import Self

import jax
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from deblur_jax.data import open_training_pairs
from deblur_jax.data.pipeline import count_workers, training_batches
from deblur_jax.data.sources import check_sizes, fingerprint
from deblur_jax.errors import ConfigError
from deblur_jax.models import (
    NetworkConfig,
    SVRNNConfig,
    VGG16Config,
    abstract_model,
    count_params,
    initialize,
)
from deblur_jax.runtime import signals
from deblur_jax.runtime.compilation import quick_compilation
from deblur_jax.runtime.devices import batch_sharding, data_mesh, prefetch_to_device, replicated
from deblur_jax.runtime.files import PathLike, check_utf_8
from deblur_jax.runtime.lock import only_run_in
from deblur_jax.runtime.memory import give_freed_memory_back
from deblur_jax.training.checkpoint import Checkpoints
from deblur_jax.training.config import Config
from deblur_jax.training.log import RunLog
from deblur_jax.training.losses import make_loss
from deblur_jax.training.monitor import Monitor
from deblur_jax.training.optimizer import make_optimizer, make_schedule
from deblur_jax.training.profiler import Profiler
from deblur_jax.training.step import TrainState, init_state, make_train_step
from deblur_jax.training.validation import Validation
from deblur_jax.weights.load import load_weights

ProgramText = Callable[[], str | None]
"""Gives the text of a compiled program, where its platform has one."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    finished: bool
    best_step: int | None
    signal: int | None = None


def train(
    config: Config,
    workdir: PathLike,
    *,
    accept: Collection[str] = (),
    expected_seconds: Callable[
        [Config, str, int, ProgramText], Mapping[str, float]
    ] = lambda *_: {},
) -> Outcome:
    """Trains until ``config.num_steps``, going on from the newest checkpoint of the workdir.

    Within ``stop_at_signals`` of ``runtime.signals``, as in the command, SIGTERM and Ctrl-C save a
    checkpoint and return; before the first step there is nothing to save, and they end the process.
    The same call then goes on as if it had never stopped. The initial parameters are those of a
    checkpoint in the workdir; else those of ``config.init_from``; else random ones from
    ``config.seed``.

    Args:
        config: validated.
        workdir: where checkpoints, ``log.jsonl``, ``tensorboard/`` and ``profile/`` go.
        accept: fields in which ``config`` may differ from that of the run in the workdir, although
            they change its mathematics; see ``training.resume``.
        expected_seconds: from the configuration, the kind of device, their number, and a function
            that gives the text of the compiled step, to the times that are expected of a step, by
            name; see ``planning``. The log has their shares of the time of a step.

    Raises:
        CheckpointError: if a checkpoint can't be written or read, or is of another experiment.
        LockedError: if another run is at work in the workdir.
        LogError: if the log can't be written.
        NonFiniteError: after more than ``config.max_skipped_steps`` non-finite steps.
        PairError, ImageError: if the data is broken.
    """
    # ----------------------------------------------------------------------------- devices, data
    check_utf_8(workdir)
    workdir = epath.Path(workdir)
    config = _with_global_batch(config)
    mesh = data_mesh(config.batch_size // config.accumulation_steps)
    platform = mesh.devices.flat[0].platform
    training_pairs, validation_pairs = open_training_pairs(config.data, config.seed)
    check_sizes(training_pairs, config.data.patch_size)

    # ------------------------------------------------------------------ network, optimiser, state
    graphdef, params = initialize(
        config.model, seed=config.seed, compute=config.compute, platform=platform
    )
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    schedule = make_schedule(config.optimizer, config.num_steps)
    train_step = make_train_step(
        graphdef,
        make_loss(config.loss),
        optimizer,
        seed=config.seed,
        mesh=mesh,
        accumulation_steps=config.accumulation_steps,
        ema_decay=config.ema_decay,
        deterministic=config.compute.deterministic,
    )

    # -------------------------------------------------------------------------------- checkpoints
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(only_run_in(workdir))
        checkpoints = Checkpoints(
            workdir,
            config,
            fingerprint=fingerprint(config.data.train),
            accept={*accept, *(["batch_size"] if config.accept_batch_size else [])},
        )
        stack.callback(checkpoints.close)
        state = _initial_state(config, params, optimizer, checkpoints, mesh)
        start_step = int(state.step)

        # ----------------------------------------------------------------------------------- log
        log = RunLog(workdir, start_step)
        stack.callback(log.close)
        log.note(
            f"{config.model.name}, {count_params(params):,} parameters, {mesh.size} x {platform}; "
            f"{len(training_pairs)} training pairs; step {start_step} of {config.num_steps}"
        )
        for note in [config.about, *checkpoints.notes, *_notes_on_workers(config)]:
            if note:
                log.note(note)

        # ---------------------------------------------------------------------------------- loop
        batches = training_batches(
            training_pairs,
            batch_size=config.batch_size,
            patch_size=config.data.patch_size,
            seed=config.seed,
            start_step=start_step,
            num_workers=config.data.num_workers,
            cache_gib=config.data.cache_gib,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        validate = Validation(config, validation_pairs, mesh)
        stack.enter_context(contextlib.closing(batches))
        stop = stack.enter_context(_Stop())
        monitor = stack.enter_context(
            Monitor(config, schedule, log, mesh.size, start_step, checkpoints.best())
        )
        profiler = Profiler(workdir, wanted=config.profile)
        step = start_step
        batches_on_device = prefetch_to_device(batches, batch_sharding(mesh))
        while step < config.num_steps and not stop.is_requested(step):
            profiler.before_step(step - start_step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                batch = monitor.next_batch(batches_on_device)
                if step == start_step:
                    program = train_step.compile(state, batch)
                    give_freed_memory_back()
                    kind = mesh.devices.flat[0].device_kind
                    monitor.expect(expected_seconds(config, kind, mesh.size, program.as_text))
                state, step_metrics = program(state, batch)
            stop.defer()
            monitor.follow(step, step_metrics)
            checkpoints.check()
            step += 1
            if step % config.checkpoint_every == 0 and step < config.num_steps:
                monitor.catch_up()
                lock.check()
                with monitor.paused():
                    psnr = validate(state, log)
                    checkpoints.save(step, state, psnr)
                monitor.validated(step, psnr)

        # ----------------------------------------------------------------------------------- end
        monitor.catch_up()
        lock.check()
        finished = step == config.num_steps
        if checkpoints.latest_step() != step:
            psnr = validate(state, log) if finished else None
            checkpoints.save(step, state, psnr)
            monitor.validated(step, psnr)
        checkpoints.wait()
        best = checkpoints.best()
        best_step = None if best is None else best[0]
        return Outcome(step, finished, best_step, None if finished else stop.signal())


def _notes_on_workers(config: Config) -> list[str]:
    wanted, started = config.data.num_workers, count_workers(config.data.num_workers)
    if started == wanted:
        return []
    return [f"config.data.num_workers is {wanted}; cores and memory have room for {started}"]


def _with_global_batch(config: Config) -> Config:
    """The configuration with the ``batch_size`` that ``per_device_batch`` means here."""
    if config.per_device_batch is None:
        return config
    rows = config.per_device_batch * jax.device_count() * config.accumulation_steps
    return dataclasses.replace(config, batch_size=rows)


def _initial_state(
    config: Config,
    params: nnx.State,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    mesh: Mesh,
) -> TrainState:
    if config.init_from is not None and checkpoints.latest_step() is None:
        params = _initial_params(config, config.init_from, params)
    # One program, not one for each shape in the state.
    make_state = jax.jit(
        init_state,
        static_argnames=("optimizer", "with_ema"),
        compiler_options=quick_compilation(mesh.devices.flat[0].platform),
    )
    start = make_state(params, optimizer, with_ema=config.ema_decay is not None)
    state = jax.device_put(start, replicated(mesh))
    return checkpoints.restore(state) or state


def _initial_params(config: Config, path: str, params: nnx.State) -> nnx.State:
    """The parameters of ``config.init_from``; those of VGG-16 in their place among random ones."""
    other = load_weights(path)
    # As numbers of the host: from a device of its own no process can give them to all devices.
    theirs = jax.tree.map(np.asarray, other.params)
    if isinstance(other.model, VGG16Config) and isinstance(config.model, SVRNNConfig):
        channels, wanted = other.model.guidance_channels, config.model.guidance_channels
        if channels != wanted:
            raise ConfigError(
                f"config.init_from {config.init_from} has model.guidance_channels {channels}, "
                f"not {wanted}"
            )
        params["weights"]["encoder"] = theirs
        return params
    _check_same_sizes(config, other.model)
    return theirs


def _check_same_sizes(config: Config, other: NetworkConfig) -> None:
    """Checks that parameters fit; fields that change no shape, such as dropout, may differ."""
    ours, theirs = (
        {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(abstract_model(model)))}
        for model in (config.model, other)
    )
    if ours == theirs:
        return
    mine, its = config.model.to_dict(), other.to_dict()
    differing = next(name for name in mine if mine[name] != its.get(name))
    raise ConfigError(
        f"config.init_from {config.init_from} has model.{differing} {its.get(differing)}, not "
        f"{mine[differing]}"
    )


class _Stop:
    """Takes the first signal as a request to stop, once there is a step to save.

    If there are several processes, any of them may get the signal: all stop at the same step.
    JAX finds that step, when its own handler of SIGTERM is called.
    """

    def __init__(self) -> None:
        self._alone = jax.process_count() == 1

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._deferred = False
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def defer(self) -> None:
        """From now on signals wait for ``is_requested``."""
        if not self._deferred:
            self._deferred = True
            self._stack.enter_context(signals.deferred(tell_library=not self._alone))

    def is_requested(self, step: int) -> bool:
        """Whether to stop before ``step``."""
        if self._alone:
            return signals.received() is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def signal(self) -> int:
        """The signal that stopped the run: Ctrl-C if any process got that."""
        number = signals.received() or signal.SIGTERM
        if self._alone:
            return number
        return int(np.min(multihost_utils.process_allgather(np.int32(number))))
