import itertools
import os
import subprocess
import sys

import pytest

from deblur_jax.runtime.workers import parallel_map
from tests.commands import ROOT


def square(number):
    if number == 13:
        raise ValueError("thirteen")
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(parallel_map(square, range(12), workers)) == [n * n for n in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_raised(workers):
    with pytest.raises(ValueError, match="thirteen"):
        list(parallel_map(square, range(20), workers))


def test_items_are_taken_as_they_are_needed():
    taken = itertools.count()
    results = parallel_map(square, (0 * next(taken) for _ in range(10_000)), 2)
    assert [next(results) for _ in range(3)] == [0, 0, 0]
    results.close()
    assert next(taken) < 100


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, time\n"
        "from deblur_jax.runtime.workers import parallel_map\n"
        "def sleep(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(0 if number < 2 else 600)\n"
        "if __name__ == '__main__':\n"
        "    results = parallel_map(sleep, range(9), 2)\n"
        "    next(results), next(results)\n"
        "    time.sleep(0.5)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The pipe ends when the last process that could write to it has ended.
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == -9
    assert result.stdout.split()
