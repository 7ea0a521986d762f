"""What one of two processes does where the other is ended, killed or stopped at some moment."""

import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.commands import ROOT, environment
from tests.faults.kills import CONFIG, being_written, bits, newest

MOMENTS = ("start-up", "loop", "save", "evaluation")
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP)
_PATIENCE = 240
_PAUSE = 40
"""Seconds of a stop that ends before it counts as a death."""


class Fault(NamedTuple):
    """What happened; a row of the table.

    Attributes:
        process: which one got the signal.
        moment: where it was, one of ``MOMENTS``.
        signal: its name.
        statuses: with which both ended; None for one that was stopped and stayed so.
        seconds: from the signal to the end of the other one.
        line: the last one that the other one wrote.
        exact: whether both, started again, end as if nothing had happened.
    """

    process: int
    moment: str
    signal: str
    statuses: list[int | None]
    seconds: float
    line: str
    exact: bool

    def __str__(self) -> str:
        statuses = ", ".join("stopped" if s is None else str(s) for s in self.statuses)
        cells = (self.process, self.moment, self.signal, statuses, f"{self.seconds:.1f}")
        return f"| {' | '.join(map(str, cells))} | {self.line} | {'yes' if self.exact else 'NO'} |"


HEADER = (
    "| process | when | signal | statuses of 0, 1 | the other ends after, s | its last line | "
    "exact after a restart |\n|---|---|---|---|---|---|---|"
)


def faults(folder: Path, moments=MOMENTS, signals=SIGNALS, processes=(0, 1)):
    """Yields a ``Fault`` for each combination."""
    expected = {}
    for moment in moments:
        command = _evaluation(folder) if moment == "evaluation" else _training
        if command not in expected:
            undisturbed = folder / f"undisturbed-{moment}"
            assert _ends(_start(command(undisturbed))) == [0, 0]
            expected[command] = _result(undisturbed)
        for name, process in itertools.product(signals, processes):
            place = folder / f"{moment}-{name.name}-{process}"
            fault = _fault(command(place), place, process, moment, name)
            yield fault._replace(exact=_goes_on(command(place), place, expected[command]))
            shutil.rmtree(place, ignore_errors=True)


def pause(folder: Path, process: int) -> list[int]:
    """Stops one for less than counts as its death; returns with which statuses both end."""
    started = _start(_training(folder))
    _wait_for("loop", folder, started)
    started[process].send_signal(signal.SIGSTOP)
    time.sleep(_PAUSE)
    started[process].send_signal(signal.SIGCONT)
    return _ends(started)


def _training(workdir: Path) -> list[str]:
    return ["train.py", "--config", str(CONFIG), "--workdir", str(workdir)]


def _evaluation(folder: Path):
    pairs = folder / "pairs"
    for side, number in itertools.product(("blur", "sharp"), range(40)):
        file = pairs / side / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(file)

    def words(out: Path) -> list[str]:
        weights = ["evaluate.py", "--weights", "mimo_unet_photographs"]
        return [*weights, "--data", str(pairs), "--out", str(out), "--skip_existing"]

    return words


def _start(words: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, *words, "--coordinator", f"localhost:{port}", "--num_processes", "2"]
    words += ["--start_timeout", "20"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*words, "--process_id", str(index)], cwd=ROOT, env=environment(), **pipes)
        for index in range(2)
    ]


def _ends(processes: list[subprocess.Popen]) -> list[int]:
    for process in processes:
        process.communicate(timeout=_PATIENCE)
    return [process.returncode for process in processes]


def _fault(words: list[str], place: Path, index: int, moment: str, name: signal.Signals) -> Fault:
    processes = _start(words)
    _wait_for(moment, place, processes)
    processes[index].send_signal(name)
    began, other = time.monotonic(), processes[1 - index]
    try:
        errors = other.communicate(timeout=_PATIENCE)[1]
        line = (errors.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired:
        line = f"still there after {_PATIENCE} s"
    seconds = time.monotonic() - began
    statuses = []
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20 if process.poll() is None and name != signal.SIGSTOP else 1)
        statuses.append(process.poll())
        if process.poll() is None:
            process.kill()
        process.communicate()
    return Fault(index, moment, name.name, statuses, seconds, line, exact=False)


def _wait_for(moment: str, place: Path, processes: list[subprocess.Popen]) -> None:
    """Returns when both processes are there."""
    deadline = time.monotonic() + _PATIENCE
    if moment == "start-up":
        time.sleep(2.0)  # libraries are being imported
        return
    while not _is_at(moment, place):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _is_at(moment: str, place: Path) -> bool:
    if moment == "evaluation":
        return len(list(place.glob("restored/*"))) >= 3
    if moment == "save":
        return newest(place) > 5 and bool(being_written(place))
    return newest(place) > 5 and not being_written(place)


def _goes_on(words: list[str], place: Path, expected) -> bool:
    for _ in range(2):  # a lease or a lock of a killed process may have to run out
        if _ends(_start(words)) == [0, 0]:
            return _result(place) == expected
    return False


def _result(place: Path):
    table = place / "per_image.csv"
    return table.read_bytes() if table.exists() else bits(place)
