"""Ctrl-C and SIGTERM, at every stage of the commands."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.commands import ROOT, environment

CONFIG = ROOT / "tests/fixtures/tiny_run.py"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
NAME = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Command:
    """A command that runs beside the test."""

    def __init__(self, *words, **variables):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deblur_jax", *(str(word) for word in words)],
            cwd=ROOT,
            env={**environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, condition):
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def send(self, number):
        self.process.send_signal(number)

    def end(self, line=""):
        """Status, output and the last line of the errors, among which ``line`` is."""
        output, errors = self.process.communicate(timeout=120)
        assert any(found.startswith(line) for found in errors.splitlines())
        assert "Traceback" not in errors
        return self.process.returncode, output, errors.splitlines()[-1]


def steps_logged(workdir):
    log = workdir / "log.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


BOTH = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", BOTH[::-1])
def test_before_the_first_step_a_run_ends_at_once(number, tmp_path):
    workdir = tmp_path / "run"
    words = ("--config", CONFIG, "--workdir", workdir)
    run = Command("train", *words, JAX_ENABLE_COMPILATION_CACHE="0")
    run.wait_for((workdir / "log.jsonl").exists)  # the train step is compiled next
    run.send(number)
    status, _, last = run.end()
    assert (status, last) == (STATUS[number], f"stopped by {NAME[number]}")
    assert list(workdir.glob("checkpoints/*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_a_run_saves_and_says_where_it_stopped(number, tmp_path):
    words = ("--config", CONFIG, "--workdir", tmp_path, "--config.num_steps=100000")
    run = Command("train", *words, "--config.checkpoint_every=50000")
    run.wait_for(lambda: steps_logged(tmp_path) > 1)
    run.send(number)
    status, output, _ = run.end(f"{NAME[number]}: saving a checkpoint; once more to stop")
    assert status == STATUS[number]
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert f"\nstopped at step {checkpoint.name}: the same command goes on from there\n" in output


@pytest.mark.slow
def test_a_signal_that_comes_twice_at_once_is_one_request(tmp_path):
    """As ``timeout`` sends it, to the process and to its group."""
    words = ("--config", CONFIG, "--workdir", tmp_path, "--config.num_steps=100000")
    run = Command("train", *words, "--config.checkpoint_every=50000")
    run.wait_for(lambda: steps_logged(tmp_path) > 1)
    for _ in range(3):
        run.send(signal.SIGTERM)
        time.sleep(0.05)
    status, output, _ = run.end("SIGTERM: saving a checkpoint; once more to stop")
    assert status == 143
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert f"stopped at step {checkpoint.name}" in output


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint(tmp_path):
    """While the first validation is compiled."""
    words = ("--config", CONFIG, "--workdir", tmp_path, "--config.checkpoint_every=20")
    run = Command("train", *words, JAX_ENABLE_COMPILATION_CACHE="0")
    run.wait_for(lambda: steps_logged(tmp_path) >= 4)
    run.send(signal.SIGTERM)
    time.sleep(1.2)
    run.send(signal.SIGINT)
    status, _, last = run.end()
    assert (status, last) == (130, "stopped by Ctrl-C")
    checkpoints = [f.name for f in tmp_path.glob("checkpoints/*") if f.name.isdigit()]
    assert checkpoints in ([], ["20"])


@pytest.mark.parametrize("number", BOTH)
def test_restoring_ends_in_one_line_and_keeps_what_is_done(number, tiny_weights, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(40):
        values = np.random.default_rng(index).integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(values).save(images / f"{index:02}.png")
    out = tmp_path / "out"
    run = Command("restore", images, "--weights", tiny_weights, "--out", out)
    run.wait_for(lambda: len(list(out.glob("*.png"))) > 1)
    run.send(number)
    status, _, last = run.end()
    assert (status, last) == (STATUS[number], f"stopped by {NAME[number]}")
    written = list(out.glob("*.png"))
    assert len(written) < 40
    for file in written:
        with Image.open(file) as image:
            image.load()


@pytest.mark.slow
def test_evaluating_leaves_no_report_that_is_not_whole(tiny_weights, make_pairs, tmp_path):
    pairs = make_pairs({f"{index:02}": (200, 200) for index in range(60)})
    out = tmp_path / "table"
    words = ("--weights", tiny_weights, "--data", pairs, "--out", out)
    run = Command("evaluate", *words)
    run.wait_for(lambda: any(out.rglob("*.png")))
    run.send(signal.SIGINT)
    status, _, last = run.end()
    assert (status, last) == (130, "stopped by Ctrl-C")
    for file in out.rglob("*.json"):
        json.loads(file.read_text())


@pytest.mark.slow
def test_input_workers_end_with_the_run(tmp_path):
    """However it ends."""
    words = ("--config", CONFIG, "--workdir", tmp_path, "--config.num_steps=100000")
    run = Command("train", *words, "--config.data.num_workers=1")
    run.wait_for(lambda: steps_logged(tmp_path) > 1)
    workers = children_of(run.process.pid)
    assert workers
    run.process.kill()
    run.process.communicate()
    deadline = time.monotonic() + 30
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout
    return [int(word) for word in listed.split()]


def is_running(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip() not in ("", "Z")
