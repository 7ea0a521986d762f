"""Several processes, on one machine or on the hosts of a pod."""

import argparse
import os
import sys

import jax
from orbax.checkpoint import multihost

from deblur_jax.config import ConfigError

_HEARTBEAT_SECONDS = 30
_BARRIER_SECONDS = 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell processes of each other; none where a cluster is found."""
    parser.add_argument("--coordinator", help="host:port of process 0, for several processes")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Joins the other processes; does nothing for a single one. Comes before any use of devices.

    Args:
        coordinator: host:port of process 0.
        num_processes: how many there are.
        process_id: of this one.

    Raises:
        ConfigError: if only some of the three are given.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if not any(given):
        return
    if not all(given):
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


def _keep_stdout_for_results() -> None:
    """Sends to stderr what the libraries under us print: Gloo greets every peer on stdout."""
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def wait_for_all(name: str) -> None:
    """Returns when every process has come here: through the coordinator, without devices."""
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * _BARRIER_SECONDS)
