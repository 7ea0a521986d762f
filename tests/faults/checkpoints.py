"""Flipped bits in a weights folder, and damaged checkpoints of a run."""

import collections
import contextlib
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import optax

from deblur_jax import Config, DataConfig
from deblur_jax.errors import UserError
from deblur_jax.models import initialize, model_config
from deblur_jax.training.checkpoint import Checkpoints
from deblur_jax.training.step import init_state
from deblur_jax.weights.digest import digest_of
from deblur_jax.weights.folder import read_weights, save_weights
from tests.faults.mutations import flip_bit, mutated

MODEL = model_config("mimo_unet", base_channels=2, num_res_blocks=1)


def count_bit_flips(number: int, seed: int = 0) -> collections.Counter:
    """Reads a weights folder after each of ``number`` single flipped bits, one at a time.

    Returns:
        How many were "found", or "harmless": what was read is exactly right; a "fault" is neither.
    """
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "weights"
        params = initialize(MODEL, seed=0)[1]
        save_weights(folder, params, MODEL)
        expected = digest_of(params)
        for index in range(number):
            rng = random.Random(f"flip {seed} {index}")
            with _Damaged(folder, rng, flip_bit):
                try:
                    weights = read_weights(folder)
                    right = weights.digest == expected and weights.model == MODEL
                    counts["harmless" if right else "fault"] += 1
                except UserError:
                    counts["found"] += 1
    return counts


def count_damaged_checkpoints(number: int, seed: int = 0) -> collections.Counter:
    """Goes on with a run after each of ``number`` damages to a file of its newest checkpoint.

    Returns:
        How many were "refused" in one line that names the checkpoint, or "harmless": the state is
        exactly the right one; a "fault" is neither.
    """
    counts: collections.Counter = collections.Counter()
    config = Config(model=MODEL, data=DataConfig(train="synthetic:pan"))
    with tempfile.TemporaryDirectory() as name:
        state = init_state(initialize(MODEL, seed=0)[1], optax.adam(1e-3))
        run = Checkpoints(name, config)
        for step in (1, 2):
            run.save(step, state, 20.0)
        run.wait()
        run.close()
        newest = Path(name) / "checkpoints/2"
        expected = digest_of(state.params), digest_of(state.opt_state)
        for index in range(number):
            rng = random.Random(f"checkpoint {seed} {index}")
            with _Damaged(newest, rng, None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                counts[_go_on(name, config, state, expected)] += 1
    return counts


def _go_on(workdir, config, state, expected) -> str:
    try:
        with contextlib.closing(Checkpoints(workdir, config)) as run:
            restored = run.restore(state)
        read = digest_of(restored.params), digest_of(restored.opt_state)
        return "harmless" if read == expected else "fault"
    except UserError as error:
        named = "checkpoints/2" in str(error) and "\n" not in str(error)
        return "refused" if named else f"fault: {error}"
    except Exception as error:
        return f"fault: {type(error).__name__}: {error}"


class _Damaged:
    """Damages one file of a folder, and puts the whole folder back at the end."""

    def __init__(self, folder, rng, change):
        self._folder, self._rng, self._change = folder, rng, change

    def __enter__(self):
        self._copy = self._folder.with_name(f".{self._folder.name}")
        shutil.copytree(self._folder, self._copy)
        files = sorted(file for file in self._folder.rglob("*") if file.is_file())
        file = self._rng.choices(files, [1 + file.stat().st_size for file in files])[0]
        content = bytearray(file.read_bytes())
        if self._change is None:
            content = bytearray(mutated(bytes(content), self._rng))
        else:
            self._change(content, self._rng)
        file.write_bytes(content)

    def __exit__(self, *error):
        shutil.rmtree(self._folder)
        self._copy.rename(self._folder)
