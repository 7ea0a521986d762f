"""Two real processes on one machine, as two hosts would be."""

import functools
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from deblur_jax.commands.config_file import load_config
from deblur_jax.models import initialize, model_config
from deblur_jax.weights.folder import config_of, save_weights
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.safetensors_file import save_safetensors
from tests.commands import ROOT, environment
from tests.commands.test_train import CONFIG, NUM_STEPS, newest_step, run_train

pytestmark = pytest.mark.slow


GONE = (
    "error: process {} is gone, and this process stops too: start all of them again to go on from "
    "what is stored"
)


class Pair:
    """Both processes of a run."""

    def __init__(self, workdir, *options):
        self.workdir, self.options = workdir, options
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.processes = [self._start(port, index) for index in range(2)]

    def _start(self, port, index):
        words = [sys.executable, "train.py", "--config", str(CONFIG)]
        words += ["--workdir", str(self.workdir), "--coordinator", f"localhost:{port}"]
        words += ["--num_processes", "2", "--process_id", str(index)]
        words += self.options
        files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, cwd=ROOT, env=environment(), text=True, **files)

    def wait_for_step(self, step):
        deadline = time.monotonic() + 240
        while newest_step(self.workdir) < step:
            for process in self.processes:
                assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ends(self):
        """Return code, output and errors of each."""
        outputs = [process.communicate(timeout=240) for process in self.processes]
        return [(p.returncode, *out) for p, out in zip(self.processes, outputs, strict=True)]


def final_params(workdir):
    params = load_weights(workdir / f"checkpoints/{NUM_STEPS}").params
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_two_processes_stop_die_go_on_and_end_as_one_would(tmp_path):
    workdir = tmp_path / "two"
    pair = Pair(workdir)
    pair.wait_for_step(5)
    pair.processes[1].send_signal(signal.SIGTERM)
    first, second = pair.ends()
    assert (first[0], second[0]) == (143, 143), first[2] + second[2]
    stopped_at = newest_step(workdir)
    assert f"stopped at step {stopped_at}: the same command goes on" in first[1]
    assert second[1] == "", "process 0 alone says how it went"

    pair = Pair(workdir)
    pair.wait_for_step(min(stopped_at + 5, NUM_STEPS - 5))
    pair.processes[1].kill()
    start = time.monotonic()
    survivor, _ = pair.ends()
    assert time.monotonic() - start < 60
    assert survivor[0] == 1
    assert GONE.format(1) in survivor[2]
    assert "Traceback" not in survivor[2], survivor[2]
    assert "Check failure" not in survivor[2]

    killed = tmp_path / "killed"
    shutil.copytree(workdir, killed)
    first, second = Pair(workdir).ends()
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert f"trained {NUM_STEPS} steps" in first[1]

    undisturbed = tmp_path / "undisturbed"
    first, second = Pair(undisturbed).ends()
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    for ours, theirs in zip(final_params(workdir), final_params(undisturbed), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    logs = [rows(undisturbed / name) for name in ("log.jsonl", "processes/1.jsonl")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.get("validation_psnr") == theirs.get("validation_psnr")
        if "loss" in ours:
            busy = [ours["busy_seconds"], theirs["busy_seconds"]]
            assert ours["slowest_process"] == int(np.argmax(busy))
            assert ours["slowest_busy_seconds"] == max(busy)

    # One process goes on where two were killed, and one does the whole.
    alone = tmp_path / "alone"
    for folder in (killed, alone):
        assert run_train(folder).returncode == 0
        for ours, theirs in zip(final_params(workdir), final_params(folder), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    first_of = [
        next(row["validation_psnr"] for row in rows(run / "log.jsonl") if "validation_psnr" in row)
        for run in (alone, undisturbed)
    ]
    assert first_of[0] == pytest.approx(first_of[1], abs=1e-3)


def test_a_signal_before_the_first_step_ends_its_process_at_once(tmp_path):
    pair = Pair(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.jsonl").exists():  # the train step is compiled next
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pair.processes[1].send_signal(signal.SIGTERM)
    first, second = pair.ends()
    assert (second[0], second[2].splitlines()[-1]) == (143, "stopped by SIGTERM")
    assert (first[0], first[2].splitlines()[-1]) == (1, GONE.format(1))
    assert newest_step(tmp_path / "run") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_stop_at_the_same_step_whichever_signal_it_is(number, tmp_path):
    pair = Pair(tmp_path / "run", "--config.num_steps=100000", "--config.checkpoint_every=5000")
    deadline = time.monotonic() + 120
    while '"loss"' not in read(tmp_path / "run/log.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pair.processes[0].send_signal(number)
    first, second = pair.ends()
    assert (first[0], second[0]) == (128 + number, 128 + number), first[2] + second[2]
    assert f"stopped at step {newest_step(tmp_path / 'run')}" in first[1]


def read(file):
    return file.read_text() if file.exists() else ""


def test_processes_that_are_half_described_are_refused(tmp_path):
    result = run_train(tmp_path / "run", "--num_processes", "2")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == (
        "error: --coordinator, --num_processes, --process_id are given together; missing: "
        "--coordinator, --process_id"
    )


@pytest.mark.parametrize("kind", ["folder", "workdir", "safetensors", "vgg16"])
def test_two_processes_start_from_weights(kind, tmp_path):
    model = load_config(str(CONFIG)).model
    start, options = tmp_path / "start", []
    if kind == "vgg16":
        model = model_config("svrnn", rnn_channels=4, guidance_channels=2)
        vgg16 = model_config("vgg16", guidance_channels=2)
        save_weights(start, initialize(vgg16, seed=3)[1], vgg16)
        names = ("name", "rnn_channels", "guidance_channels")
        options = [f"--config.model.{n}={v}" for n, v in zip(names, ("svrnn", 4, 2), strict=True)]
        options.append("--config.loss.name=squared_error")
    elif kind == "workdir":
        assert run_train(start, "--config.num_steps=1").returncode == 0
    elif kind == "safetensors":
        start = tmp_path / "start.safetensors"
        save_safetensors(start, initialize(model, seed=3)[1], config_of(model))
    else:
        save_weights(start, initialize(model, seed=3)[1], model)
    options += ["--config.num_steps=1", "--config.optimizer.learning_rate=1e-30"]
    pair = Pair(tmp_path / "two", f"--config.init_from={start}", *options)
    for status, _, errors in pair.ends():
        assert status == 0, errors
    trained, expected = load_weights(tmp_path / "two").params, load_weights(start).params
    if kind == "vgg16":
        trained = trained["weights"]["encoder"]
    # A step at the smallest of rates moves zeros by that rate, and nothing else.
    close = functools.partial(np.testing.assert_allclose, atol=2e-30)
    jax.tree.map(close, trained, expected)
