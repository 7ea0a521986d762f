import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

FAULTS = """
import resource, threading
import numpy as np
from deblur_jax.runtime.memory import keep_freed_memory
{call}
def touch():
    for _ in range(3):
        np.ones(100_000_000, np.uint8)
before_last = []
def run():
    touch()
    before_last.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    np.ones(100_000_000, np.uint8)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before_last[0])
"""


def output_of(program, **environment):
    """Of a fresh process: the tests' own has its devices already."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment}
    words = [sys.executable, "-c", program]
    result = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return [int(line) for line in result.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of the GNU C library")
def test_memory_that_was_freed_is_not_asked_for_again():
    """Each page that is, faults; 100 MB have 25,000."""
    [usual], [kept] = (output_of(FAULTS.format(call=call)) for call in ("", "keep_freed_memory()"))
    assert kept < 0.1 * usual


FREED = """
import numpy as np
from deblur_jax.runtime.memory import give_freed_memory_back, keep_freed_memory
keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
pieces = [np.ones(2**20, np.uint8) for _ in range(200)]
last = np.ones(2**20, np.uint8)  # so that the heap can't just become shorter
del pieces
print(resident())
give_freed_memory_back()
print(resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a call of the GNU C library")
def test_memory_that_was_freed_in_the_middle_is_given_back():
    before, after = output_of(FREED)
    assert after < before - 150 * 2**20
