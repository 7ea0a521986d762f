from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import MIMOUNetConfig, abstract_model, model_config
from deblur_jax.weights import official
from deblur_jax.weights.caffe_file import net_parameter
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.official import convolutions_from_params, state_dict_from_params
from deblur_jax.weights.torch_file import read_torch_file

FIXTURES = Path(__file__).parents[1] / "fixtures"


def random_params(name):
    shapes = nnx.state(abstract_model(model_config(name)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_equal(params, expected):
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["mimo_unet", "mimo_unet_plus"])
def test_an_official_pytorch_file_is_known_by_its_blocks(name, tmp_path, monkeypatch):
    params = random_params(name)
    content = {"model": state_dict_from_params(params)}
    monkeypatch.setattr(official, "read_torch_file", lambda path: content)
    (tmp_path / "weights.pkl").touch()
    weights = load_weights(tmp_path / "weights.pkl")
    assert weights.model == model_config(name)
    assert_equal(weights.params, params)


def test_an_official_caffe_file_is_svrnns(tmp_path):
    params = random_params("svrnn")
    net = net_parameter()
    for name, arrays in convolutions_from_params(params).items():
        layer = net.layer.add(name=name.encode(), type=b"Convolution")
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel())
    (tmp_path / "official.CAFFEMODEL").write_bytes(net.SerializeToString())
    weights = load_weights(tmp_path / "official.CAFFEMODEL")
    assert weights.model == model_config("svrnn")
    assert_equal(weights.params, params)


def test_a_smaller_official_network_is_known_by_its_arrays():
    weights = load_weights(FIXTURES / "tiny_zip.pkl")
    assert weights.model == MIMOUNetConfig(base_channels=2, num_res_blocks=1)


def test_a_file_of_another_network_is_named(monkeypatch, tmp_path):
    (tmp_path / "weights.pkl").touch()
    content = read_torch_file(FIXTURES / "tiny_zip.pkl")
    del content["model"]["SCM1.conv.main.0.bias"]
    monkeypatch.setattr(official, "read_torch_file", lambda path: content)
    with pytest.raises(WeightFileError, match=r"weights\.pkl: neither MIMO-UNet's weights nor"):
        load_weights(tmp_path / "weights.pkl")
