import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from deblur_jax.ops.recurrence import DIRECTIONS, Direction, gated_recurrence
from deblur_jax.ops.tpu.recurrence import make_recurrence
from deblur_jax.runtime.devices import data_mesh
from tests.golden import relative_error
from tests.tpu import topology_mesh

INTERPRETED = make_recurrence(interpret=True)


def random_case(shape, num_gates=1, sign=False):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(shape, np.float32)
    gates = rng.uniform(-1, 1, (*shape[:-1], num_gates * shape[-1])).astype(np.float32)
    return inputs, np.sign(gates) * np.float32(0.999) if sign else gates


def states_and_gradients(function, *arguments):
    states, pull_back = jax.vjp(function, *arguments)
    return states, *pull_back(jnp.sin(states))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("line", "sign"), [((3, 2048), False), ((1, 2048), True), ((130, 67), False), ((129, 64), True)]
)
def test_lines_longer_and_wider_than_a_block(axis, reverse, line, sign):
    width, length = line
    size = (length, width) if axis == 1 else (width, length)
    arrays = random_case((1, *size, 3), sign=sign)
    results = []
    way = Direction(axis, reverse)
    names = tuple(name for name, direction in DIRECTIONS.items() if direction == way)
    for form in (INTERPRETED, gated_recurrence):
        scan = functools.partial(form, directions=names)
        results.append(jax.jit(functools.partial(states_and_gradients, scan))(*arrays))
    for ours, reference in zip(*results, strict=True):
        assert np.isfinite(ours).all()
        assert relative_error(ours, reference) < 1e-5


def sharded(mesh, recurrence):
    return jax.jit(
        jax.shard_map(
            functools.partial(states_and_gradients, recurrence),
            mesh=mesh,
            in_specs=(P("data"), P("data")),
            out_specs=P("data"),
            check_vma=False,
        )
    )


def test_the_kernel_on_eight_devices():
    arrays = random_case((8, 9, 11, 4), num_gates=4)
    actual = sharded(data_mesh(8), INTERPRETED)(*arrays)
    expected = sharded(data_mesh(1), gated_recurrence)(*arrays)
    for ours, reference in zip(actual, expected, strict=True):
        assert len(ours.sharding.device_set) == 8
        assert relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_kernel_compiles_for_tpus(dtype):
    mesh = topology_mesh("v5e:2x2")
    sharding = NamedSharding(mesh, P("data"))
    arrays = [
        jax.ShapeDtypeStruct((4, 90, 164, channels), dtype, sharding=sharding)
        for channels in (32, 128)
    ]
    program = sharded(mesh, make_recurrence(interpret=False)).lower(*arrays).compile().as_text()
    # Forward and backward, over rows and over columns.
    assert program.count("tpu_custom_call") == 4
    assert " conditional(" not in program
