from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax import Restorer
from deblur_jax.errors import ConfigError
from deblur_jax.models import ComputeConfig, VGG16Config, build_model
from deblur_jax.training.config import Config
from deblur_jax.weights.caffe_file import net_parameter
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.torch_file import read_torch_file
from deblur_jax.weights.vgg16 import VGG_CONVOLUTIONS, load_vgg16
from tests.commands import run_command
from tests.golden import relative_error

FIXTURES = Path(__file__).parents[1] / "fixtures"
TORCHVISION_FILE = FIXTURES / "tiny_vgg16.pth"
CHANNELS = 2
TINY = VGG16Config(guidance_channels=CHANNELS)


def conv4_2(params):
    image = np.random.default_rng(0).random((1, 96, 96, 3), np.float32)
    model = build_model(TINY, rngs=nnx.Rngs(0), compute=ComputeConfig(precision="highest"))
    nnx.update(model, params)
    return jax.jit(lambda x: model(x)[2])(image)


def away_from_the_border(features):
    """What the outermost pixels of the image do not reach: there VGG pads with its mean."""
    return features[:, 5:-5, 5:-5]


def test_torchvisions_weights_compute_what_torch_computes():
    with np.load(FIXTURES / "tiny_vgg16.npz") as arrays:
        expected = arrays["conv4_2"]
    actual = conv4_2(load_vgg16(TORCHVISION_FILE, TINY))
    assert actual.shape == expected.shape
    assert relative_error(*map(away_from_the_border, (actual, expected))) < 1e-5


@pytest.fixture
def caffe_net():
    """The same network as Caffe's first format stores it, for images in BGR less their mean."""
    tensors = read_torch_file(TORCHVISION_FILE)
    net = net_parameter()
    net.name = b"VGG_ILSVRC_16_layers"
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
    for number, name in zip(numbers, (*VGG_CONVOLUTIONS, "4_3"), strict=True):
        kernel, bias = (tensors[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
        if number == 0:  # torch: (x - mean) / std; Caffe: 255 x - mean, channels reversed
            mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            caffe_mean = np.array([123.68, 116.779, 103.939])
            kernel = kernel / (255 * std[:, None, None])
            bias = bias + np.einsum("oihw,i->o", kernel, caffe_mean - 255 * mean)
            kernel = kernel[:, ::-1]
        layer = net.layers.add(name=f"conv{name}".encode(), type=4)
        for array in (kernel, bias):
            shape = (1,) * (4 - array.ndim) + array.shape
            blob = layer.blobs.add()
            blob.num, blob.channels, blob.height, blob.width = shape
            blob.data.extend(array.ravel().tolist())
    net.layers.add(name=b"relu1_1", type=18)
    return net


def test_caffes_weights_are_folded_to_the_same(caffe_net, tmp_path):
    file = tmp_path / "vgg.caffemodel"
    file.write_bytes(caffe_net.SerializeToString())
    actual = conv4_2(load_vgg16(file, TINY))
    expected = conv4_2(load_vgg16(TORCHVISION_FILE, TINY))
    assert relative_error(actual, expected) < 1e-5


def test_other_weights_are_refused(caffe_net, tmp_path):
    with pytest.raises(WeightFileError, match=r"tiny_zip\.pkl: not the weights of vgg16"):
        load_vgg16(FIXTURES / "tiny_zip.pkl", TINY)
    with pytest.raises(WeightFileError, match=r"of conv1_1 has shape"):
        load_vgg16(TORCHVISION_FILE, VGG16Config())
    caffe_net.layers[0].name = b"convolution1"
    file = tmp_path / "other.caffemodel"
    file.write_bytes(caffe_net.SerializeToString())
    with pytest.raises(WeightFileError, match=r"missing: conv1_1; .* its: convolution1"):
        load_vgg16(file, TINY)


def test_the_command_makes_weights_to_start_from_that_restore_nothing(tmp_path):
    weights = tmp_path / "vgg16"
    sizes = ("--guidance_channels", CHANNELS)
    result = run_command("convert", TORCHVISION_FILE, weights, "--model", "vgg16", *sizes)
    assert result.returncode == 0, result.stderr
    loaded = load_weights(weights)
    model, params = loaded.model, loaded.params
    assert model == TINY
    expected = nnx.to_flat_state(load_vgg16(TORCHVISION_FILE, TINY))
    for (path, ours), (_, theirs) in zip(nnx.to_flat_state(params), expected, strict=True):
        np.testing.assert_array_equal(ours[...], theirs[...], err_msg=str(path))
    with pytest.raises(ConfigError, match="they can't restore images"):
        Restorer.load(weights)


def test_vgg16_is_not_trained_alone():
    with pytest.raises(ConfigError, match="vgg16, which is a part of svrnn"):
        Config(model=VGG16Config()).validate()
