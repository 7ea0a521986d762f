import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

CORES = len(os.sched_getaffinity(0))

DEVICES = """
import jax
from deblur_jax.cpu import use_all_cores
use_all_cores()
print(len(jax.devices()))
"""

FAULTS = """
import resource, threading
import numpy as np
from deblur_jax.cpu import keep_freed_memory
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

GAPS = """
import ctypes
import jax
from deblur_jax.cpu import keep_freed_memory
keep_freed_memory()
events = set()
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.add(event))
jax.jit(lambda x: x + 1)(1)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
def leave_gaps(size):
    pieces = sorted(libc.malloc(size) for _ in range(400))
    for address in pieces[::2]:
        libc.memset(address, 1, size)
        libc.free(address)
    return set(pieces[::2])
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
gaps, larger = leave_gaps(100_000), leave_gaps(3_000_000)
before = resident()
event = "/jax/core/compile/backend_compile_duration"
if event in events:
    jax.monitoring.record_event_duration_secs(event, {seconds})
print(before - resident())
print(len(gaps & {{libc.malloc(100_000) for _ in range(200)}}))
print(len(larger & {{libc.malloc(3_000_000) for _ in range(200)}}))
"""


def output_of(program, **environment):
    """Of a fresh process: the tests' own has its devices already."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment}
    words = [sys.executable, "-c", program]
    result = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return [int(line) for line in result.stdout.split()]


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({}, CORES),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
    ],
)
def test_each_core_is_a_device_unless_the_user_says_otherwise(environment, devices):
    assert output_of(DEVICES, **environment) == [devices]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of the GNU C library")
def test_memory_that_was_freed_is_not_asked_for_again():
    """Each page that is, faults; 100 MB have 25,000."""
    [usual], [kept] = (output_of(FAULTS.format(call=call)) for call in ("", "keep_freed_memory()"))
    assert kept < 0.1 * usual


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of the GNU C library")
def test_gaps_in_memory_are_given_up_after_a_large_compilation():
    given_back, reused, larger_reused = output_of(GAPS.format(seconds=2.0))
    assert given_back > 0.7 * 200 * 100_000
    assert reused == 0
    assert larger_reused > 0.8 * 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of the GNU C library")
def test_gaps_in_memory_are_used_after_small_compilations():
    given_back, reused, _ = output_of(GAPS.format(seconds=0.1))
    assert given_back == 0
    assert reused == 200
