from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax.convert import WeightFileError, state_dict_from_params
from deblur_jax.convert import torch as torch_weights
from deblur_jax.convert.caffe import convolutions_from_params
from deblur_jax.convert.caffe_file import net_parameter
from deblur_jax.models import build_model
from deblur_jax.weights import load_weights


def random_params(name):
    shapes = nnx.eval_shape(lambda: nnx.state(build_model(name, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_equal(params, expected):
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["mimo_unet", "mimo_unet_plus"])
def test_an_official_pytorch_file_is_known_by_its_blocks(name, tmp_path, monkeypatch):
    params = random_params(name)
    content = {"model": state_dict_from_params(params)}
    monkeypatch.setattr(torch_weights, "read_torch_file", lambda path: content)
    (tmp_path / "weights.pkl").touch()
    config, loaded = load_weights(tmp_path / "weights.pkl")
    assert config.model.name == name
    assert_equal(loaded, params)


def test_an_official_caffe_file_is_svrnns(tmp_path):
    params = random_params("svrnn")
    net = net_parameter()
    for name, arrays in convolutions_from_params(params).items():
        layer = net.layer.add(name=name, type="Convolution")
        for array in arrays:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel())
    (tmp_path / "official.caffemodel").write_bytes(net.SerializeToString())
    config, loaded = load_weights(tmp_path / "official.caffemodel")
    assert config.model.name == "svrnn"
    assert_equal(loaded, params)


def test_a_file_of_another_network_is_named():
    with pytest.raises(WeightFileError, match=r"tiny_zip\.pkl: neither MIMO-UNet's weights nor"):
        load_weights(Path(__file__).parent / "fixtures/tiny_zip.pkl")
