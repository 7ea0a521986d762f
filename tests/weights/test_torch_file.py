import pickle
import random
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from deblur_jax.models import MIMOUNetConfig
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.official import load_torch
from deblur_jax.weights.torch_file import Placeholder, read_torch_file
from tests.weights.torch_like import Call, Global, Tensor, save

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = MIMOUNetConfig(base_channels=2, num_res_blocks=1)


@pytest.fixture(scope="module")
def arrays():
    return read_torch_file(FIXTURES / "tiny_zip.pkl")["model"]


@pytest.fixture(scope="module")
def expected():
    return load_torch(FIXTURES / "tiny_zip.pkl", TINY)


def tensors(arrays, **options):
    return {name: Tensor(array, **options) for name, array in arrays.items()}


ADAM = {
    "state": {0: {"step": 3, "exp_avg": Tensor(np.zeros(3))}},
    "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
}
SCHEDULER = {"milestones": Call("collections.Counter", {500: 1, 1000: 1}), "gamma": 0.5}
DTYPE = Call("numpy.dtype", "f8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
SCALAR = Call(
    "numpy._core.multiarray.scalar", DTYPE, Call("_codecs.encode", "\0" * 6 + "ð?", "latin1")
)
COUNT = Tensor(np.zeros(1))
WRAPPERS = {
    "bare": lambda t, _: t,
    "official": lambda t, _: {"model": t, "optimizer": ADAM, "scheduler": SCHEDULER, "epoch": 3},
    "params": lambda t, _: {"params": t},
    "params_ema before params": lambda t, zeros: {"params": zeros, "params_ema": t},
    "state_dict": lambda t, _: {"state_dict": t, "epoch": 3},
    "model_state_dict": lambda t, _: {"model_state_dict": t, "best_psnr": SCALAR},
    "module": lambda t, _: {"model": {f"module.{name}": value for name, value in t.items()}},
    "a scheduler as an object": lambda t, _: {
        "model": t,
        "scheduler": Call("torch.optim.lr_scheduler.StepLR", state={"gamma": 0.5}, new=True),
        "old": Call("copyreg._reconstructor", Global("somewhere", "Old"), Global("a", "b"), None),
        "a function": Global("__main__", "lambda_of_the_user"),
        "a set": Call("__builtin__.set", [1, 2]),
        "a slice": Call("__builtin__.slice", 0, 3, None),
        "a default": Call("collections.defaultdict", Global("__builtin__", "list")),
    },
    "profiled": lambda t, _: {
        "model": {
            **t,
            "total_ops": Tensor(np.zeros(1)),
            "Convs.0.total_params": Tensor(np.zeros(1)),
        }
    },
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_weights_are_read_however_they_are_wrapped(name, arrays, expected, tmp_path):
    zeros = tensors({name: np.zeros_like(array) for name, array in arrays.items()})
    content = WRAPPERS[name](tensors(arrays, parameter=name == "bare"), zeros)
    params = load_torch(save(content, tmp_path / "w.pkl"), TINY)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("dtype", "error"), [("float16", 2e-3), ("bfloat16", 1e-2), ("float64", 0)]
)
def test_other_precisions_are_widened(dtype, error, arrays, expected, tmp_path):
    params = load_torch(save({"model": tensors(arrays, dtype=dtype)}, tmp_path / "w.pkl"), TINY)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        assert np.asarray(ours).dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=error, atol=error * 1e-2)


def test_what_lies_beside_the_weights_is_inert(tmp_path):
    content = {
        "object": Call("a.module.Class", 1, 2, state={"x": Tensor(np.ones(2))}, new=True),
        "numpy": SCALAR,
        "counter": SCHEDULER["milestones"],
    }
    read = read_torch_file(save(content, tmp_path / "w.pkl"))
    assert isinstance(read["object"], Placeholder)
    assert read["object"].name == "a.module.Class"
    assert read["numpy"] == 1.0
    assert read["counter"] == {500: 1, 1000: 1}


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load", "a.b.Class"],
)
def test_what_is_called_must_be_on_the_list(name, tmp_path):
    for content in (Call(name, "x"), {"model": {"a": Call(name)}}):
        with pytest.raises(WeightFileError, match=f"refused: the pickle asks to call {name}"):
            read_torch_file(save(content, tmp_path / "w.pkl"))


def nested(opening, closing):
    """Containers in containers: each holds the one before twice."""
    body = b"\x80\x02" + b"]q\x00"
    for level in range(200):
        body += opening + b"h" + bytes([level]) + b"h" + bytes([level]) + closing
        body += b"q" + bytes([level + 1])
    return body + b"."


BOMBS = {
    "lists": nested(b"(", b"l"),
    "tuples": nested(b"", b"\x86"),
    "keys": b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.",
    "deep": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "in itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_gets_one_line_in_little_time(name, tmp_path):
    file = save({}, tmp_path / "w.pkl", pickled=BOMBS[name])
    start = time.monotonic()
    with pytest.raises(WeightFileError) as error:
        load_torch(file, TINY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            Tensor(np.zeros(1, np.float32), shape=(2**20, 2**20), strides=(0, 0)),
            "beyond its storage",
        ),
        (Tensor(np.zeros(4, np.float32), shape=(3, 2), strides=(2, 1)), "beyond its storage"),
        (Tensor(np.zeros(4, np.float32), shape=(-1,), strides=(1,)), "with shape"),
        (Tensor(np.zeros(4, np.float32), shape=(2, 2), strides=(1,)), "2 dimensions and 1 strides"),
        (Tensor(np.zeros(1, np.float32), shape=(1,) * 65, strides=(1,) * 65), "65 dimensions"),
    ],
)
def test_a_tensor_that_claims_more_than_its_storage(tensor, message, tmp_path):
    with pytest.raises(WeightFileError, match=message):
        read_torch_file(save({"model": {"a": tensor}}, tmp_path / "w.pkl"))


def test_a_zip_that_grows_without_bound_is_refused(tmp_path):
    file = save({}, tmp_path / "w.pkl")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(200_000_000))
    with pytest.raises(WeightFileError, match="that claim to hold 200,"):
        read_torch_file(file)


@pytest.mark.parametrize("name", ["tiny_zip.pkl", "tiny_legacy.pkl"])
def test_a_mutated_file_gets_one_line_or_weights(name, tmp_path):
    content, generator = (FIXTURES / name).read_bytes(), random.Random(0)
    file = tmp_path / "mutated.pkl"
    for _ in range(40):
        mutated = bytearray(content)
        for _ in range(generator.choice([1, 1, 4, 64])):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        file.write_bytes(mutated)
        message = read_or_message(file)
        assert "\n" not in message


def read_or_message(file):
    try:
        load_torch(file, TINY)
    except WeightFileError as error:
        return str(error)
    return ""


def test_protocols_of_other_pythons_are_refused_or_read(tmp_path):
    for protocol in range(6):
        file = save({}, tmp_path / "w.pkl", pickled=pickle.dumps({"a": [1, (2.0, None)]}, protocol))
        assert read_torch_file(file) == {"a": [1, [2.0, None]]}
