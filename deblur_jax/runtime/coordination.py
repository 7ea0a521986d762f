"""JAX's coordination service, in a process of its own beside process 0.

JAX runs it in process 0. Where that one dies, the connection of all others to the service is
closed, and JAX aborts them at once, with pages of C++ messages, before they can say why. So the
service outlives process 0 by a few seconds, in which the watchdog ends the others with one line.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxlib import _jax  # the service has no public name

from deblur_jax.errors import ConfigError

_SECONDS_AFTER_PROCESS_0 = 3.0
_SECONDS_TO_SHUT_DOWN = 300
_READY = "ready"


class _Elsewhere:
    """What JAX holds in place of the service."""

    def shutdown(self) -> None:
        """Does nothing: the service ends with this process."""


@contextlib.contextmanager
def service_beside(port: int, count: int, heartbeat_seconds: int) -> Iterator[None]:
    """Within the context, ``jax.distributed.initialize`` of process 0 starts no service itself.

    Args:
        port: where the service listens, on all addresses of this host.
        count: of processes.
        heartbeat_seconds: after such a silence it takes a process for dead.

    Raises:
        ConfigError: if it can't be started.
    """
    words = [sys.executable, "-m", __name__, str(port), str(count), str(heartbeat_seconds)]
    service = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,  # closed when this process ends, however it ends
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a signal to all processes of a terminal is not for it
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert service.stdout is not None
    if service.stdout.readline().strip() != _READY:
        raise ConfigError(f"port {port} of this host: the coordination service can't listen there")
    _running.append(service)
    starts_service = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = lambda *_, **__: _Elsewhere()
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = starts_service


_running: list[subprocess.Popen] = []
"""Kept, so that the pipe is not closed before this process ends."""


def main() -> None:
    """Runs the service until process 0 is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    port, count, heartbeat_seconds = (int(word) for word in sys.argv[1:])
    service: Any = _jax.get_distributed_runtime_service(
        f"[::]:{port}",
        count,
        heartbeat_timeout=heartbeat_seconds,
        shutdown_timeout=_SECONDS_TO_SHUT_DOWN,
    )
    print(_READY, flush=True)
    sys.stdin.read()
    time.sleep(_SECONDS_AFTER_PROCESS_0)
    del service
    os._exit(0)


if __name__ == "__main__":
    main()
