"""The processes of a run meet before JAX starts, and notice at once when one of them dies.

JAX notices too, after its heartbeat, and aborts with pages of C++ messages. Until then the others
would wait in a collective. The kernel closes a socket at the moment its process dies, however it
dies; so every process keeps a connection to process 0, and says there that it is alive. Process 0
tells the others who is gone.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Never

from deblur_jax.errors import ConfigError
from deblur_jax.runtime.signals import write_line

_ALIVE, _BYE, _GO, _GONE = "alive", "bye", "go", "gone"
_SECONDS_BETWEEN_REPORTS = 10.0
_SECONDS_OF_SILENCE = 100.0
_SECONDS_FOR_OWN_SIGNAL = 0.5
"""A signal to all processes ends this one by itself, in its own words."""
_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_FOR_INTRODUCTION = 5.0


class Listener:
    """Where process 0 waits for the others.

    Args:
        port: 0 for any that is free. JAX may listen on the same one later.

    Raises:
        ConfigError: if the port is taken.
    """

    def __init__(self, port: int) -> None:
        dual = socket.has_dualstack_ipv6()
        try:
            self._server = socket.create_server(
                ("", port),
                family=socket.AF_INET6 if dual else socket.AF_INET,
                dualstack_ipv6=dual,
                reuse_port=hasattr(socket, "SO_REUSEPORT"),
            )
        except OSError as error:
            raise ConfigError(f"port {port} of this host: {error.strerror}") from None
        self.port: int = self._server.getsockname()[1]

    def wait(self, count: int, seconds: float) -> "Watchdog":
        """Waits for all others.

        Args:
            count: how many processes there are.
            seconds: to wait.

        Raises:
            ConfigError: naming those that did not come, or that do not fit.
        """
        peers: dict[int, _Peer] = {}
        deadline = time.monotonic() + seconds
        with self._server:
            while len(peers) < count - 1:
                self._server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection, _ = self._server.accept()
                except TimeoutError:
                    missing = ", ".join(str(i) for i in range(1, count) if i not in peers)
                    self._refuse(peers.values(), f"waited {seconds:.0f} s for process {missing}")
                peer = _Peer(connection)
                if (said := _introduction(peer)) is None:
                    continue  # something else, which tries ports
                index, their_count = said
                if their_count == count and 0 < index < count and index not in peers:
                    peers[index] = peer
                    continue
                reason = f"process {index} of {their_count} does not fit to process 0 of {count}"
                if index in peers:
                    reason = f"two processes say that they are process {index}"
                self._refuse([*peers.values(), peer], reason)
        for peer in peers.values():
            peer.send(_GO)
        return Watchdog({index: peers[index] for index in sorted(peers)}, is_first=True)

    def _refuse(self, peers: "Iterable[_Peer]", reason: str) -> Never:
        for peer in peers:
            peer.send(reason)
        raise ConfigError(reason)


def _introduction(peer: "_Peer") -> tuple[int, int] | None:
    """Which process it is, and of how many it says that it is one."""
    try:
        index, count = (int(word) for word in peer.receive(_SECONDS_FOR_INTRODUCTION).split("/"))
    except (OSError, ValueError):
        return None
    return index, count


def join(host: str, port: int, index: int, count: int, seconds: float) -> "Watchdog":
    """Meets process 0, and waits until it has met all others.

    Args:
        host: of process 0.
        port: where it waits.
        index: of this process.
        count: how many there are.
        seconds: to wait.

    Raises:
        ConfigError: if process 0 can't be reached, or says that the processes do not fit.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            peer = _Peer(socket.create_connection((host, port), timeout=5.0))
            peer.send(f"{index}/{count}")
            answer = peer.receive(max(5.0, deadline + 5.0 - time.monotonic()))
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(
                    f"process 0 does not answer at {host}:{port} within {seconds:.0f} s ({reason})"
                ) from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
            continue
        if answer != _GO:
            raise ConfigError(answer)
        return Watchdog({0: peer}, is_first=False)


class Watchdog:
    """Ends this process with one line and status 1 when another one is gone."""

    def __init__(self, peers: "Mapping[int, _Peer]", *, is_first: bool) -> None:
        self._peers, self._is_first = peers, is_first
        self._leaving = False
        for index, peer in peers.items():
            self._start(self._watch, index, peer)
        self._start(self._report)

    def leave(self) -> None:
        """Says that this process has done its work: its end is no death."""
        self._leaving = True
        for peer in self._peers.values():
            peer.send(_BYE)

    def _start(self, function: Callable, *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _report(self) -> None:
        while not self._leaving:
            time.sleep(_SECONDS_BETWEEN_REPORTS)
            for peer in self._peers.values():
                peer.send(_ALIVE)

    def _watch(self, index: int, peer: "_Peer") -> None:
        while True:
            try:
                word, _, reason = peer.receive(_SECONDS_OF_SILENCE).partition(" ")
            except TimeoutError:
                word = _GONE
                reason = f"process {index} has said nothing for {_SECONDS_OF_SILENCE:.0f} s"
            except (OSError, ValueError):
                word, reason = _GONE, f"process {index} is gone"
            if word == _BYE:
                return
            if word == _GONE:
                self._end(reason)

    def _end(self, reason: str) -> None:
        time.sleep(_SECONDS_FOR_OWN_SIGNAL)
        if self._is_first:
            for peer in self._peers.values():
                peer.send(f"{_GONE} {reason}")
        write_line(
            f"error: {reason}, and this process stops too: start all of them again to go on from "
            "what is stored"
        )
        os._exit(1)


class _Peer:
    """A connection over which lines are sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._received = b""

    def send(self, line: str) -> None:
        """Sends a line; that the other one is gone is noticed where lines are received."""
        with contextlib.suppress(OSError), self._lock:
            self._connection.sendall(line.encode() + b"\n")

    def receive(self, seconds: float) -> str:
        """The next line.

        Raises:
            TimeoutError: if none comes.
            OSError, ValueError: if the other one is gone, or sends no text.
        """
        self._connection.settimeout(seconds)
        while b"\n" not in self._received:
            data = self._connection.recv(1024)
            if not data:
                raise ValueError("the connection is closed")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()
