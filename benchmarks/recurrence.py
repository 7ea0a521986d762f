"""The gated recurrence against adding two arrays: ``python -m benchmarks.recurrence``.

The arrays are those of an image of 1280x720 in SVRNN, (1, 360, 640, 32). Bytes are those that an
algorithm has to move at least, in units of such an array: adding two reads two and writes one.
States take the place of gates that nothing else needs, as in inference; where they are kept, as
for a gradient, a copy comes first.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.cpu import CPU
from deblur_jax.ops.recurrence import DIRECTIONS

_SHAPE = (1, 360, 640, 32)
_ROUNDS = 21


class Case(NamedTuple):
    """Something to do with inputs and gates.

    Attributes:
        arrays_moved: at least, each of ``_SHAPE``.
        function: of the two.
        arguments: the two; four times the channels where it scans in four directions.
        gives_away: the result may take the place of the second.
    """

    arrays_moved: int
    function: Callable
    arguments: tuple[jax.Array, jax.Array]
    gives_away: bool = False


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, help="to run on, all by default")
    # Before JAX counts them, at its first use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: parser.parse_args().cores])
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal(_SHAPE, np.float32))
    gates = jnp.asarray(rng.uniform(-1, 1, (*_SHAPE[:-1], 4 * _SHAPE[-1])), jnp.float32)
    cases = _one_direction(inputs, gates[..., : _SHAPE[-1]]) | _four_directions(inputs, gates)
    seconds = _medians(cases)
    unit = seconds["add two arrays"]
    print("| case | arrays moved | time | in additions |\n|---|---|---|---|")
    for name, case in cases.items():
        time_taken = f"{1e3 * seconds[name]:.1f} ms | {seconds[name] / unit:.1f}"
        print(f"| {name} | {case.arrays_moved} | {time_taken} |")


def _one_direction(inputs, gates):
    both = (inputs, gates)
    cases = {
        "add two arrays": Case(3, jnp.add, both),
        "add one array to another, in its place": Case(3, jnp.add, both, gives_away=True),
    }
    for direction, (_, reverse) in DIRECTIONS.items():
        name = direction.replace("_", " ")
        one = functools.partial(CPU.gated_recurrence, directions=(direction,))
        cases[name] = Case(3, one, both, gives_away=True)
        if not reverse:
            cases[f"{name}, gates kept"] = Case(3, one, both)
            cases[f"{name}, with gradient"] = Case(9, _with_gradient(one), both)
    return cases


def _four_directions(inputs, gates):
    both = (inputs, gates)
    return {
        "add two arrays of four times the channels": Case(12, jnp.add, (gates, gates + 0)),
        "four directions at once": Case(12, CPU.gated_recurrence, both, gives_away=True),
        "four directions at once, gates kept": Case(12, CPU.gated_recurrence, both),
        "four directions, one by one": Case(28, _one_by_one, both, gives_away=True),
        "four directions at once, with gradient": Case(
            40, _with_gradient(CPU.gated_recurrence), both
        ),
    }


def _with_gradient(function):
    def states_and_gradients(inputs, gates):
        states, pull_back = jax.vjp(function, inputs, gates)
        return states, pull_back(states)

    return states_and_gradients


def _one_by_one(inputs, gates):
    """The gates split and the states concatenated: 16 more arrays pass through memory."""
    blocks = jnp.split(gates, len(DIRECTIONS), axis=-1)
    states = [
        CPU.gated_recurrence(inputs, block, (direction,))
        for block, direction in zip(blocks, DIRECTIONS, strict=True)
    ]
    return jnp.concatenate(states, axis=-1)


def _medians(cases: Mapping[str, Case]) -> dict[str, float]:
    """Median seconds of each, warmed up, all in turns."""
    functions = {
        name: jax.jit(case.function, donate_argnums=1 if case.gives_away else ())
        for name, case in cases.items()
    }
    seconds = {name: [] for name in cases}
    for turn in range(_ROUNDS + 1):
        for name, case in cases.items():
            first, second = case.arguments
            if case.gives_away:
                second = jax.block_until_ready(second + 0)
            start = time.perf_counter()
            jax.block_until_ready(functions[name](first, second))
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
