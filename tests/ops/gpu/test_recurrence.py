import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deblur_jax.ops.gpu.recurrence import make_recurrence
from deblur_jax.ops.recurrence import DIRECTIONS, Direction, gated_recurrence
from tests.accelerator import PLATFORM, SLOW_ON_CPU
from tests.golden import relative_error

KERNEL = make_recurrence(interpret=PLATFORM != "gpu")


def random_case(shape, num_gates=1):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(shape, np.float32)
    return inputs, rng.uniform(-1, 1, (*shape[:-1], num_gates * shape[-1])).astype(np.float32)


def states_and_gradients(function, *arguments):
    states, pull_back = jax.vjp(function, *arguments)
    return states, *pull_back(jnp.sin(states))


@pytest.mark.accelerator
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("lines", "length", "channels"),
    [(67, 20, 5), *(pytest.param(*s, marks=SLOW_ON_CPU) for s in ((3, 301, 3), (2, 24, 160)))],
)
def test_lines_that_do_not_fill_a_block(axis, reverse, lines, length, channels):
    size = (length, lines) if axis == 1 else (lines, length)
    arrays = random_case((2, *size, channels))
    way = Direction(axis, reverse)
    names = tuple(name for name, direction in DIRECTIONS.items() if direction == way)
    results = []
    for form in (KERNEL, gated_recurrence):
        scan = functools.partial(form, directions=names)
        results.append(jax.jit(functools.partial(states_and_gradients, scan))(*arrays))
    for ours, reference in zip(*results, strict=True):
        assert relative_error(ours, reference) < 1e-5


@pytest.mark.accelerator
def test_directions_in_any_order():
    names = ("left_to_right", "bottom_to_top", "right_to_left")
    arrays = random_case((1, 11, 9, 4), num_gates=3)
    results = [
        jax.jit(functools.partial(states_and_gradients, functools.partial(form, directions=names)))(
            *arrays
        )
        for form in (KERNEL, gated_recurrence)
    ]
    for ours, reference in zip(*results, strict=True):
        assert relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_kernel_lowers_for_cuda_without_copies(dtype):
    kernel = make_recurrence(interpret=False)
    arrays = [jax.ShapeDtypeStruct((4, 90, 164, c), dtype) for c in (32, 128)]
    traced = jax.jit(functools.partial(states_and_gradients, kernel)).trace(*arrays)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Forward and backward, over rows and over columns, into arrays that are written once.
    assert program.count("@__gpu$xla.gpu.triton(") == 4
    assert program.count("@AllocateBuffer") == 3
    assert "stablehlo.transpose" not in program
    assert "stablehlo.slice" not in program
