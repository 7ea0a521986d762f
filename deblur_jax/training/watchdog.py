"""Notices at once that another process of a run has died.

JAX notices too, after its heartbeat, and aborts with pages of C++ messages. Until then the others
would wait in a collective. The kernel closes a socket at the moment its process dies, however it
dies; so every process keeps a connection to process 0.
"""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import jax

from deblur_jax.runtime.processes import broadcast_text

_BYE = b"bye"
_SECONDS_TO_CONNECT = 60


@contextlib.contextmanager
def watch_other_processes() -> Iterator[None]:
    """Ends this process with one line and status 1 when another dies within the context.

    Does nothing where there is one process only.
    """
    if jax.process_count() == 1:
        yield
        return
    connections = _connect_as_first() if jax.process_index() == 0 else _connect_to_first()
    for name, connection in connections.items():
        threading.Thread(target=_wait_for_end, args=(name, connection), daemon=True).start()
    yield
    for connection in connections.values():
        with contextlib.suppress(OSError):
            connection.sendall(_BYE)


def _connect_as_first() -> dict[str, socket.socket]:
    server = socket.create_server(("", 0), backlog=jax.process_count())
    server.settimeout(_SECONDS_TO_CONNECT)
    host = socket.gethostname()
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    broadcast_text(f"{host}:{server.getsockname()[1]}")
    connections = {}
    with server:
        for _ in range(jax.process_count() - 1):
            connection, _ = server.accept()
            connection.settimeout(None)
            connections[f"process {int.from_bytes(connection.recv(4))}"] = connection
    return connections


def _connect_to_first() -> dict[str, socket.socket]:
    host, _, port = broadcast_text("").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT)
    connection.settimeout(None)
    connection.sendall(jax.process_index().to_bytes(4))
    return {"process 0, or another": connection}


def _wait_for_end(name: str, connection: socket.socket) -> None:
    try:
        last_word = connection.recv(len(_BYE))
    except OSError:
        last_word = b""
    if last_word != _BYE:
        print(
            f"error: {name} is gone, and this one stops too: start all of them again to go on from "
            "the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
