"""Runs that are killed again and again, and go on."""

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from deblur_jax.weights.load import load_weights
from tests.commands import ROOT, environment

CONFIG = ROOT / "tests/fixtures/tiny_run.py"
STEPS = 60


def count_kills(number: int, folder: Path, in_a_save: float = 0.4, seed: int = 0) -> dict[str, int]:
    """Kills runs in a folder by signal 9, a few times each, and compares how they end.

    Args:
        number: of kills.
        folder: where the workdirs go, such as one on tmpfs.
        in_a_save: share of the kills that wait for a checkpoint which is being written.
        seed: of the moments.

    Returns:
        How many were "killed", of these "in a save"; how many runs "ended", of these
        "bit-identical" to an undisturbed one.
    """
    rng = random.Random(seed)
    undisturbed = folder / "undisturbed"
    subprocess.run(
        _words(undisturbed), cwd=ROOT, env=environment(), check=True, capture_output=True
    )
    expected = bits(undisturbed)
    counts = {"killed": 0, "in a save": 0, "ended": 0, "bit-identical": 0}
    run = 0
    while counts["killed"] < number:
        workdir = folder / f"run{run}"
        for _ in range(min(5, number - counts["killed"])):
            process = subprocess.Popen(
                _words(workdir),
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            saving = _kill(process, workdir, rng, wait_for_save=rng.random() < in_a_save)
            if process.wait() == 0:  # it was quicker than the kill
                break
            counts["killed"] += 1
            counts["in a save"] += saving
        ended = subprocess.run(_words(workdir), cwd=ROOT, env=environment(), capture_output=True)
        counts["ended"] += ended.returncode == 0
        counts["bit-identical"] += ended.returncode == 0 and bits(workdir) == expected
        run += 1
    counts["runs"] = run
    return counts


def _words(workdir: Path) -> list[str]:
    return [sys.executable, "train.py", "--config", str(CONFIG), "--workdir", str(workdir)]


def _kill(process, workdir: Path, rng: random.Random, *, wait_for_save: bool) -> bool:
    """Kills a run that has taken steps; returns whether it was writing a checkpoint then."""
    before, left = newest(workdir), being_written(workdir)
    while process.poll() is None and newest(workdir) <= before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.6))
    while wait_for_save and process.poll() is None and not being_written(workdir) - left:
        time.sleep(0.0005)
    process.kill()
    return bool(being_written(workdir) - left)


def newest(workdir: Path) -> int:
    """The newest step of which there is a whole checkpoint."""
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    return max(steps, default=0)


def being_written(workdir: Path) -> set[tuple[str, int]]:
    """Checkpoints under their temporary names; those of a killed run stay until the next one."""
    found = set()
    for path in workdir.glob("checkpoints/*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def bits(workdir: Path) -> bytes:
    """The parameters of the last step."""
    params = load_weights(workdir / f"checkpoints/{STEPS}").params
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
