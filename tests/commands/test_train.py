import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from deblur_jax.runtime.lock import only_run_in
from deblur_jax.weights.load import load_weights
from tests import shared_memory
from tests.commands import ROOT, environment, error_of, run_command, run_script

CONFIG = ROOT / "tests/fixtures/tiny_run.py"
NUM_STEPS = 60


def run_train(workdir, *overrides, **options):
    return run_script("train.py", "--config", CONFIG, "--workdir", workdir, *overrides, **options)


def start_train(workdir):
    words = [sys.executable, "train.py", "--config", str(CONFIG), "--workdir", str(workdir)]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def newest_step(workdir: Path) -> int:
    steps = [int(folder.name) for folder in workdir.glob("checkpoints/*") if folder.name.isdigit()]
    return max(steps, default=0)


def wait_for_step(process, workdir, step):
    deadline = time.monotonic() + 120
    while newest_step(workdir) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def final_bits(workdir):
    params = load_weights(workdir / f"checkpoints/{NUM_STEPS}").params
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_a_run_cut_off_twice_ends_bit_identical_to_an_undisturbed_one(tmp_path):
    """SIGTERM first, which saves; then kill -9, which can't; each somewhere in the run."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert run_train(undisturbed).returncode == 0

    process = start_train(disturbed)
    wait_for_step(process, disturbed, 5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    stopped_at = newest_step(disturbed)
    assert f"stopped at step {stopped_at}: the same command goes on" in output

    process = start_train(disturbed)
    wait_for_step(process, disturbed, min(stopped_at + 5, NUM_STEPS - 5))
    time.sleep(random.random() * 0.1)
    process.kill()
    process.communicate()

    result = run_train(disturbed)
    assert result.returncode == 0, result.stderr
    assert f"trained {NUM_STEPS} steps" in result.stdout
    assert final_bits(disturbed) == final_bits(undisturbed)


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_run_and_keeps_what_there_was(tmp_path):
    """No file may grow beyond 4 kB, as if the disk were full: the checkpoint can't be written."""
    assert run_train(tmp_path, "--config.num_steps=10").returncode == 0

    limited = 'trap "" XFSZ; ulimit -f 4; exec "$@"'
    words = ["bash", "-c", limited, "bash", sys.executable, "train.py"]
    words += ["--config", str(CONFIG), "--workdir", str(tmp_path)]
    result = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'checkpoints'}: ")
    assert "Traceback" not in result.stderr
    assert newest_step(tmp_path) == 10
    load_weights(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config", "nowhere.py", "--workdir", "x"], "--config nowhere.py: no such file"),
        (["--config", CONFIG], "--workdir is missing"),
        (
            ["--config", CONFIG, "--workdir", "x", "--config.optimizer.learning_rat=1"],
            "did you mean optimizer.learning_rate?",
        ),
        (["--config", CONFIG, "--workdir", "x", "--config.seed=abc"], "--config.seed=abc"),
        (
            ["--config", CONFIG, "--workdir", "x", "--config.batch_size=0"],
            "config.batch_size can't",
        ),
        (
            ["--config", CONFIG, "--workdir", "x", "--config.data.train=nowhere"],
            "nowhere: no such folder",
        ),
        (
            ["--config", CONFIG, "--workdir", "x", "--config.model.name=unet"],
            "network 'unet' is not registered",
        ),
    ],
)
def test_a_wrong_command_line_is_refused(arguments, message, tmp_path):
    arguments = [tmp_path / "x" if argument == "x" else argument for argument in arguments]
    assert message in error_of("train", *arguments)
    assert not (tmp_path / "x").exists()


def test_a_wrong_command_line_gets_one_line(tmp_path):
    result = run_train(tmp_path / "x", "seed=3")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: train does not take seed=3")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_second_run_in_a_workdir_is_refused(tmp_path):
    with only_run_in(tmp_path / "run"):
        result = run_train(tmp_path / "run")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path / 'run'}: another run is at work here (host" in line
    assert not (tmp_path / "run/log.jsonl").exists()


@pytest.mark.slow
def test_readers_take_no_lock(tiny_weights, make_pairs, tmp_path):
    root = make_pairs({"a": (16, 16)})
    with only_run_in(tiny_weights):
        out = tmp_path / "restored"
        restored = run_command(
            "restore", root / "blur/a.png", "--weights", tiny_weights, "--out", out
        )
        assert restored.returncode == 0, restored.stderr
        words = ("--weights", tiny_weights, "--data", root, "--out", tmp_path / "evaluated")
        assert run_command("evaluate", *words).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_an_error_with_input_workers_leaves_no_word_and_no_memory(make_pairs, tmp_path):
    root = make_pairs({f"a_{i}": (24, 24) for i in range(4)})
    file = root / "blur/a_2.png"
    file.write_bytes(file.read_bytes()[:600])
    before = shared_memory.names()
    words = (f"--config.data.train={root}", "--config.data.validation_fraction=0")
    result = run_train(tmp_path / "run", *words, "--config.data.num_workers=2")
    assert result.returncode == 1
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"error: {file}: can't be read: ")
    assert "leaked" not in result.stderr
    shared_memory.assert_nothing_stays(before)
