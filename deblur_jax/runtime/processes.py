"""Several processes, on one machine or on the hosts of a pod."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from deblur_jax.runtime.cluster import find_place
from deblur_jax.runtime.coordination import service_beside
from deblur_jax.runtime.watchdog import Listener, Watchdog, join

_HEARTBEAT_SECONDS = 300
"""JAX aborts after such a silence, with pages of C++ messages; the watchdog is there before."""
_BARRIER_SECONDS = 24 * 3600
_SECONDS_FOR_THE_WATCHDOG, _SECONDS_TO_SEE_A_DEATH = 10, 2
_TEXT_BYTES = 1000


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[bool]:
    """Joins the other processes; does nothing for a single one. Comes before any use of devices.

    Within the context, this process ends with one line when another one dies. That it ends well
    itself, or with a status of its own, the others learn at the end of the context.

    Args:
        args: with ``cluster.FLAGS``.

    Yields:
        Whether JAX was told of processes: then it has installed a signal handler.

    Raises:
        ConfigError: if the others can't be found, or do not come in time.
    """
    watchdog = _meet(args)
    try:
        yield jax.distributed.is_initialized()
    except SystemExit:
        if watchdog is not None:
            watchdog.leave()
        raise
    except Exception as error:
        # A collective fails where a process has died, and with it what needed it, such as a save:
        # the watchdog ends this process with the line that names it, if it is given the time.
        if watchdog is not None:
            by_devices = isinstance(error, jax.errors.JaxRuntimeError)
            time.sleep(_SECONDS_FOR_THE_WATCHDOG if by_devices else _SECONDS_TO_SEE_A_DEATH)
        raise
    if watchdog is not None:
        watchdog.leave()


def _meet(args: argparse.Namespace) -> Watchdog | None:
    place = find_place(args)
    if place is None:
        return None
    print(place, file=sys.stderr)
    _keep_stdout_for_results()
    watchdog = None
    with contextlib.ExitStack() as stack:
        if place.count > 1:
            # JAX ends a process whose companions do not come with pages of messages: meet before.
            if place.index == 0:
                watchdog = Listener(place.port).wait(place.count, args.start_timeout)
                stack.enter_context(service_beside(place.port, place.count, _HEARTBEAT_SECONDS))
            else:
                watchdog = join(
                    place.host, place.port, place.index, place.count, args.start_timeout
                )
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            place.local_devices,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    return watchdog


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
