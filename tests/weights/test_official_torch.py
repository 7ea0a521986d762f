import io
import os
import pickle
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import MIMOUNetConfig, build_model
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.official import (
    load_torch,
    params_from_state_dict,
    state_dict_from_params,
)
from deblur_jax.weights.torch_file import read_torch_file
from tests import golden

FIXTURES = Path(__file__).parent.parent / "fixtures"
TINY = MIMOUNetConfig(base_channels=2, num_res_blocks=1)
OFFICIAL_FILE = Path(__file__).parents[3] / "shared/goldens/mimo_unet/mimo_unet_1000_legacy.pkl"


def tiny_state_dict():
    return read_torch_file(FIXTURES / "tiny_zip.pkl")["model"]


@pytest.mark.parametrize("file", ["tiny_zip.pkl", "tiny_legacy.pkl"])
def test_a_file_of_pytorch_gives_pytorchs_outputs(file):
    params = load_torch(FIXTURES / file, TINY)
    graphdef = nnx.graphdef(build_model(TINY, rngs=nnx.Rngs(0)))
    with np.load(FIXTURES / "tiny.npz") as expected:
        outputs = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, expected["blurred"])
        for output, scale in zip(outputs, ("full", "half", "quarter"), strict=True):
            assert golden.relative_error(output, expected[scale]) < 1e-6


def test_the_official_file_gives_the_official_outputs():
    if not OFFICIAL_FILE.exists():
        pytest.skip("the 27 MB official weight file is not here")
    params = load_torch(OFFICIAL_FILE, MIMOUNetConfig())
    graphdef, _ = golden.network("mimo_unet")
    outputs = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, golden.blurred())
    for output, scale in zip(outputs, ("full", "half", "quarter"), strict=True):
        expected = golden.nhwc(golden.recorded("mimo_unet")[f"out_{scale}"])
        assert golden.relative_error(output, expected) < 1e-5


def test_conversion_there_and_back():
    original = tiny_state_dict()
    params = params_from_state_dict(original, TINY)
    returned = state_dict_from_params(params)
    assert returned.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(returned[name], array)


def test_a_bare_state_dict_is_read_too(monkeypatch):
    bare = tiny_state_dict()
    monkeypatch.setattr("deblur_jax.weights.official.read_torch_file", lambda path: bare)
    load_torch("bare.pth", TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("FAM1.merge.main.0.bias"), "1 of its arrays are missing (FAM1.merge"),
        (lambda d: d.update(extra=np.zeros(3)), "1 in the file are not its (extra)"),
        (lambda d: d.update({"FAM1.merge.main.0.bias": 3}), "is not an array"),
        (lambda d: d.update({"FAM1.merge.main.0.bias": np.zeros(9)}), "has shape (9,)"),
        (lambda d: d.update({"FAM1.merge.main.0.bias": np.full(8, np.nan)}), "not finite"),
        (lambda d: d.update({"FAM1.merge.main.0.bias": np.zeros((8, 1))}), "has shape (8, 1)"),
    ],
)
def test_every_array_is_accounted_for(change, message):
    state_dict = tiny_state_dict()
    change(state_dict)
    with pytest.raises(WeightFileError) as error:
        params_from_state_dict(state_dict, TINY)
    assert message in str(error.value)


def test_the_other_model_is_refused():
    with pytest.raises(WeightFileError, match="not the weights of mimo_unet"):
        load_torch(FIXTURES / "tiny_zip.pkl", MIMOUNetConfig.plus(base_channels=2))
    with pytest.raises(WeightFileError, match="give base_channels"):
        load_torch(FIXTURES / "tiny_zip.pkl", MIMOUNetConfig(num_res_blocks=1))


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, form):
    marker, path = tmp_path / "was_run", tmp_path / "hostile.pkl"
    content = pickle.dumps({"model": Hostile(marker)}, protocol=2)
    if form == "zip":
        hostile_zip(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightFileError, match=r"hostile.pkl: refused: .*mkdir"):
        load_torch(path, MIMOUNetConfig())
    assert not marker.exists()


@pytest.mark.parametrize("file", ["tiny_zip.pkl", "tiny_legacy.pkl"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file_is_named(tmp_path, file, share):
    content = (FIXTURES / file).read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightFileError, match=r"cut\.pkl: "):
        read_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", pickle.dumps([1, 2])])
def test_another_kind_of_file_is_named(tmp_path, content):
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightFileError, match=r"other\.pkl: "):
        read_torch_file(path)


def test_a_zip_of_something_else_is_named(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    path = tmp_path / "other.zip"
    path.write_bytes(stream.getvalue())
    with pytest.raises(WeightFileError, match=r"without the data\.pkl"):
        read_torch_file(path)
