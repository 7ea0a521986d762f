import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from deblur_jax.runtime.devices import batch_sharding, data_mesh, prefetch_to_device
from deblur_jax.runtime.limits import count_cores
from tests.commands import ROOT


@pytest.mark.parametrize(("batch_size", "used"), [(16, 8), (8, 8), (4, 4), (6, 6), (7, 7), (9, 3)])
def test_a_mesh_uses_as_many_devices_as_divide_the_batch(batch_size, used):
    assert data_mesh(batch_size).size == used


def test_prefetching_keeps_order_and_loses_nothing():
    sharding = batch_sharding(data_mesh(8))
    batches = [{"x": np.full((8, 2), i, np.uint8)} for i in range(5)]
    arrived = list(prefetch_to_device(iter(batches), sharding))
    assert [int(batch["x"][0, 0]) for batch in arrived] == list(range(5))
    assert all(isinstance(batch["x"], jax.Array) for batch in arrived)
    assert arrived[0]["x"].sharding == sharding


DEVICES = """
import jax
from deblur_jax.runtime.devices import use_all_cores
use_all_cores()
print(len(jax.devices()))
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
        ({}, count_cores()),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
    ],
)
def test_each_core_is_a_device_unless_the_user_says_otherwise(environment, devices):
    assert output_of(DEVICES, **environment) == [devices]
