"""Several processes, on one machine or on the hosts of a pod."""

import argparse
import os
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from deblur_jax.config import ConfigError

_HEARTBEAT_SECONDS = 30
_BARRIER_SECONDS = 24 * 3600
_TEXT_BYTES = 1000


FLAGS = {
    "coordinator": (str, "host:port of process 0, for several processes"),
    "num_processes": (int, "how many there are"),
    "process_id": (int, "which one this is, from 0"),
}
"""Flags by which processes find each other: type and help by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``FLAGS`` to a parser."""
    for name, (kind, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> bool:
    """Joins the other processes; does nothing for a single one. Comes before any use of devices.

    Where none of the arguments is given, a cluster that JAX knows (the hosts of a TPU pod, Slurm,
    Open MPI) is joined if there is one.

    Args:
        coordinator: host:port of process 0.
        num_processes: how many there are.
        process_id: of this one.

    Returns:
        Whether there are others.

    Raises:
        ConfigError: if only some of the three are given.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if not any(given):
        return _join_cluster()
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError("--coordinator, --num_processes and --process_id are given together")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id is 0 to {num_processes - 1}, not {process_id}")
    _keep_stdout_for_results()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    return True


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
