"""The gated recurrence against adding two arrays: ``python -m benchmarks.recurrence``.

The arrays are those of a picture of 1280x720 in SVRNN, (1, 360, 640, 32). Bytes are those that an
algorithm has to move at least, in units of such an array: adding two reads two and writes one.
Adding takes all cores that there are; a recurrence is a loop, and XLA's loops take one.
"""

import argparse
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import interleaved
from deblur_jax.ops.recurrence import DIRECTIONS, four_way_recurrence, gated_recurrence

_SHAPE = (1, 360, 640, 32)
_ROUNDS = 15


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, help="to run on, all by default")
    # Before JAX counts them, at its first use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: parser.parse_args().cores])
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal(_SHAPE, np.float32))
    gates = jnp.asarray(rng.uniform(-1, 1, (*_SHAPE[:-1], 4 * _SHAPE[-1])), jnp.float32)
    cases = _cases(inputs, gates, gates[..., : _SHAPE[-1]])
    seconds = interleaved({name: run for name, (_, run) in cases.items()}, _ROUNDS)
    unit = seconds["add two arrays"]
    print("| case | arrays moved | time | in additions |\n|---|---|---|---|")
    for name, (arrays, _) in cases.items():
        print(f"| {name} | {arrays} | {1e3 * seconds[name]:.1f} ms | {seconds[name] / unit:.1f} |")


def _cases(inputs, gates, one_gate):
    add = jax.jit(jnp.add)
    cases = {"add two arrays": (3, lambda: add(inputs, one_gate))}
    for name, (axis, reverse) in DIRECTIONS.items():
        one = functools.partial(gated_recurrence, axis=axis, reverse=reverse)
        cases[name] = (3, functools.partial(jax.jit(one), inputs, one_gate))
        if not reverse:
            cases[f"{name}, with gradient"] = (
                9,
                functools.partial(jax.jit(_with_gradient(one)), inputs, one_gate),
            )
    add_four = jax.jit(jnp.add)
    cases["add two arrays of four times the channels"] = (12, lambda: add_four(gates, gates))
    ways = {
        "four directions at once": four_way_recurrence,
        "four directions, one by one": _one_by_one,
    }
    for name, function in ways.items():
        arrays = 12 if function is four_way_recurrence else 28
        cases[name] = (arrays, functools.partial(jax.jit(function), inputs, gates))
    cases["four directions at once, with gradient"] = (
        40,
        functools.partial(jax.jit(_with_gradient(four_way_recurrence)), inputs, gates),
    )
    return cases


def _with_gradient(function):
    def states_and_gradients(inputs, gates):
        states, pull_back = jax.vjp(function, inputs, gates)
        return states, pull_back(states)

    return states_and_gradients


def _one_by_one(inputs, gates):
    """The gates split and the states concatenated: 16 more arrays pass through memory."""
    blocks = jnp.split(gates, len(DIRECTIONS), axis=-1)
    states = [
        gated_recurrence(inputs, block, axis=axis, reverse=reverse)
        for block, (axis, reverse) in zip(blocks, DIRECTIONS.values(), strict=True)
    ]
    return jnp.concatenate(states, axis=-1)


if __name__ == "__main__":
    main()
