"""Several processes, on one machine or on the hosts of a pod."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # the key-value store of the coordinator has no public name
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from deblur_jax.config import ConfigError
from deblur_jax.runtime.watchdog import Listener, Watchdog, join

_HEARTBEAT_SECONDS = 30
_BARRIER_SECONDS = 24 * 3600
_SECONDS_FOR_THE_WATCHDOG = 10
_TEXT_BYTES = 1000
_WATCH_KEY = "deblur_jax/watchdog"

FLAGS = {
    "coordinator": (str, None, "host:port of process 0, for several processes"),
    "num_processes": (int, None, "how many there are"),
    "process_id": (int, None, "which one this is, from 0"),
    "start_timeout": (int, 300, "seconds to wait for all of them (default: 300)"),
}
"""Flags by which processes find each other: type, default and help by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``FLAGS`` to a parser."""
    for name, (kind, default, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[bool]:
    """Joins the other processes; does nothing for a single one. Comes before any use of devices.

    Where none of the first three flags is given, a cluster that JAX knows (the hosts of a TPU pod,
    Slurm, Open MPI) is joined if there is one. Within the context, this process ends with one line
    when another one dies. That it ends well itself, or with a status of its own, the others learn
    at the end of the context.

    Args:
        args: with ``FLAGS``.

    Yields:
        Whether JAX was told of processes: then it has installed a signal handler.

    Raises:
        ConfigError: if only some of the flags are given, or the others do not come in time.
    """
    watchdog = _meet(args)
    try:
        yield distributed.global_state.client is not None
    except SystemExit:
        if watchdog is not None:
            watchdog.leave()
        raise
    except jax.errors.JaxRuntimeError:
        # A collective fails where a process has died: the watchdog ends this process with the line
        # that names it, if it is given the time.
        if watchdog is not None:
            time.sleep(_SECONDS_FOR_THE_WATCHDOG)
        raise
    if watchdog is not None:
        watchdog.leave()


def _meet(args: argparse.Namespace) -> Watchdog | None:
    coordinator, num_processes = args.coordinator, args.num_processes
    process_id, seconds = args.process_id, args.start_timeout
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if not any(given):
        return _watch_cluster(seconds) if _join_cluster() else None
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError("--coordinator, --num_processes and --process_id are given together")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id is 0 to {num_processes - 1}, not {process_id}")
    host, colon, port = coordinator.rpartition(":")
    if not (colon and port.isdigit()):
        raise ConfigError(f"--coordinator is host:port, not {coordinator}")
    _keep_stdout_for_results()
    watchdog = None
    if num_processes > 1:
        # JAX ends a process whose companions do not come with pages of C++ messages: meet before.
        if process_id == 0:
            watchdog = Listener(int(port)).wait(num_processes, seconds)
        else:
            watchdog = join(host.strip("[]"), int(port), process_id, num_processes, seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    return watchdog


def _watch_cluster(seconds: float) -> Watchdog | None:
    """Meets the processes that JAX has joined, on a port of process 0 that it tells the others."""
    if jax.process_count() == 1:
        return None
    state = distributed.global_state
    assert state.client is not None
    assert state.coordinator_address is not None
    if jax.process_index() == 0:
        listener = Listener(0)
        state.client.key_value_set(_WATCH_KEY, str(listener.port))
        return listener.wait(jax.process_count(), seconds)
    port = int(state.client.blocking_key_value_get(_WATCH_KEY, int(1000 * seconds)))
    host = state.coordinator_address.rpartition(":")[0].strip("[]")
    return join(host, port, jax.process_index(), jax.process_count(), seconds)


_LAUNCHERS = {
    "SLURM_NTASKS": ("srun", ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")),
    "OMPI_COMM_WORLD_SIZE": ("mpirun", ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK")),
}
"""By the variable with the number of processes: who starts them, and what it sets."""


def _join_cluster() -> bool:
    """Joins the processes of a cluster that JAX knows; False where this process is alone."""
    if not any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0")):
        for variable, (launcher, needed) in _LAUNCHERS.items():
            count = os.environ.get(variable, "1")
            if not count.isdigit() or int(count) < 2:
                continue
            if any(name not in os.environ for name in needed):
                print(
                    f"{variable} is {count}, but {launcher} did not start this process: it runs "
                    "alone",
                    file=sys.stderr,
                )
                continue
            break
        else:
            return False
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the other processes of this job can't be joined ({reason}): give --coordinator, "
            "--num_processes and --process_id"
        ) from error
    return True


def _keep_stdout_for_results() -> None:
    """Sends to stderr what libraries print: Gloo writes a line for every process to stdout."""
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def wait_for_all(name: str) -> None:
    """Returns when every process has called it; the coordinator counts them, without devices."""
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * _BARRIER_SECONDS)


def broadcast_text(text: str) -> str:
    """Sends a text from process 0 to all processes; every process calls it.

    Args:
        text: what process 0 says, cut after 1,000 bytes; that of the others does not matter.

    Returns:
        What process 0 says.
    """
    said = text.encode("utf-8", "replace")[:_TEXT_BYTES]
    padded = np.zeros(_TEXT_BYTES, np.uint8)
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    return received.tobytes().rstrip(b"\0").decode("utf-8", "ignore")


def gather(values: np.ndarray) -> np.ndarray:
    """The values of all processes, sent through the devices; every process calls it.

    Args:
        values: of one shape and dtype in all processes.

    Returns:
        One row more: ``result[i]`` holds the values of process i, to the bit.
    """
    if jax.process_count() == 1:
        return values[None]
    # Devices may know no numbers of 64 bits.
    gathered = np.asarray(multihost_utils.process_allgather(values.reshape(-1).view(np.uint8)))
    return gathered.astype(np.uint8).view(values.dtype).reshape(-1, *values.shape)


def gather_bytes(content: bytes) -> list[bytes]:
    """What each process has to say, of any length; every process calls it."""
    lengths = gather(np.array(len(content)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = zip(gather(padded), lengths, strict=True)
    return [row[:length].tobytes() for row, length in rows]
