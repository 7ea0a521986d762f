import numpy as np
import pytest

from deblur_jax.weights.torch_file import read_torch_file
from deblur_jax.weights.torch_writer import torch_file


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (3, 300, 1, 2), "a.bias": (3,), "ä": (70_000,), "one": (1, 1)}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    arrays["turned"] = rng.standard_normal((4, 5), np.float32).T
    (tmp_path / "a.pkl").write_bytes(torch_file("model", arrays))
    return tmp_path / "a.pkl", arrays


def test_what_is_written_is_read(file):
    path, arrays = file
    content = read_torch_file(path)
    assert list(content) == ["model"]
    assert list(content["model"]) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(content["model"][name], array)


@pytest.mark.parametrize("weights_only", [True, False])
def test_pytorch_reads_it(file, weights_only):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path, arrays = file
    state_dict = torch.load(path, weights_only=weights_only)["model"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(state_dict[name].numpy(), array)
