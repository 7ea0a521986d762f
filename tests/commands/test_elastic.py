"""A run that goes on with other processes and devices than it began with."""

import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from deblur_jax.weights.load import load_weights
from tests.commands import ROOT, environment
from tests.commands.test_train import CONFIG, NUM_STEPS

pytestmark = pytest.mark.slow

BATCH = "--config.batch_size=8"
HALF = NUM_STEPS // 2
LIMIT = 1e-5
"""Of a relative difference; docs/resume.md has what was measured."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of four processes to its end, and its state at half of the steps."""
    folder = tmp_path_factory.mktemp("elastic")
    train(folder / "half", processes=4, steps=HALF)
    train(folder / "whole", processes=4)
    return folder


@pytest.mark.parametrize(
    ("processes", "devices", "limit"), [(4, 1, 0.0), (2, 1, LIMIT), (1, 1, LIMIT), (1, 8, LIMIT)]
)
def test_a_run_of_four_processes_goes_on_with_others(processes, devices, limit, undisturbed):
    workdir = undisturbed / f"{processes}x{devices}"
    shutil.copytree(undisturbed / "half", workdir)
    train(workdir, processes, devices)
    expected, params = (params_of(undisturbed / name) for name in ("whole", workdir.name))
    largest = max(
        np.abs(a - b).max() / np.abs(a).max() for a, b in zip(expected, params, strict=True)
    )
    print(f"{processes} processes of {devices}: {largest:.1e}")
    assert largest <= limit


def train(workdir, processes, devices=1, steps=NUM_STEPS):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "train.py", "--config", str(CONFIG), "--workdir", str(workdir), BATCH]
    words += [f"--config.num_steps={steps}"]
    words += ["--config.optimizer.schedule=step"]  # the same rates for any number of steps
    variables = {**environment(), "JAX_NUM_CPU_DEVICES": str(devices)}
    joined = ["--coordinator", f"localhost:{port}", "--num_processes", str(processes)]
    started = [
        subprocess.Popen(
            [*words, *([*joined, "--process_id", str(index)] if processes > 1 else [])],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == processes * [0], errors


def params_of(workdir):
    params = load_weights(workdir / f"checkpoints/{NUM_STEPS}").params
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
