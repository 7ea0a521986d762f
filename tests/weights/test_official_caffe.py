from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax import Restorer
from deblur_jax.models import SVRNNConfig
from deblur_jax.weights.errors import WeightFileError
from deblur_jax.weights.official import load_caffe
from tests import svrnn_golden
from tests.commands import run_command
from tests.golden import relative_error
from tests.weights.caffe_like import TINY, add_layer, tiny_net

OFFICIAL_FILE = Path(__file__).parents[3] / "shared/goldens/svrnn/svrnn_1000.caffemodel"


@pytest.fixture(name="tiny_net")
def _tiny_net():
    return tiny_net()


def written(net, folder):
    file = folder / "tiny.caffemodel"
    file.write_bytes(net.SerializeToString())
    return file


def test_every_array_comes_to_its_place(tiny_net, tmp_path):
    net, params = tiny_net
    loaded = dict(nnx.to_flat_state(load_caffe(written(net, tmp_path), TINY)))
    expected = dict(nnx.to_flat_state(params))
    assert set(loaded) == set(expected)
    for path, leaf in expected.items():
        np.testing.assert_array_equal(loaded[path][...], leaf[...])


def test_the_legacy_shape_fields_are_read(tiny_net, tmp_path):
    net, _ = tiny_net
    blob = next(layer for layer in net.layer if layer.name == b"conve1_1").blobs[0]
    blob.num, blob.channels, blob.height, blob.width = blob.shape.dim
    blob.ClearField("shape")
    load_caffe(written(net, tmp_path), TINY)


def test_the_official_file_gives_the_official_output():
    if not OFFICIAL_FILE.exists():
        pytest.skip("the 37 MB official weight file is not here")
    graphdef, golden_params = svrnn_golden.network()
    params = load_caffe(OFFICIAL_FILE, SVRNNConfig())
    for (path, ours), (_, golden) in zip(
        nnx.to_flat_state(params), nnx.to_flat_state(golden_params), strict=True
    ):
        np.testing.assert_array_equal(ours[...], golden[...], err_msg=str(path))
    restored = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x)[0])(params, svrnn_golden.blurred())
    assert relative_error(restored, svrnn_golden.recorded("forward")["output"]) < 1e-5


def without(net, name):
    kept = [layer for layer in net.layer if layer.name != name.encode()]
    del net.layer[:]
    net.layer.extend(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: without(net, "conv_rnn2"), "layers missing: conv_rnn2"),
        (
            lambda net: add_layer(net, "extra", "Convolution", np.zeros(3)),
            "layers that are not its: extra",
        ),
        (
            lambda net: add_layer(net, "rnn9", "GateRecurrent", np.zeros(3)),
            "layers that are not its: rnn9",
        ),
        (lambda net: net.layer[1].blobs[0].data.pop(), "values for a shape of"),
        (lambda net: net.layer[1].blobs.pop(), "conve1_1 has 1 arrays, expected 2"),
        (
            lambda net: net.layer[1].blobs[1].data.__setitem__(0, float("nan")),
            "conve1_1 holds numbers that are not finite",
        ),
    ],
)
def test_every_array_is_accounted_for(tiny_net, tmp_path, change, message):
    net, _ = tiny_net
    change(net)
    with pytest.raises(WeightFileError) as error:
        load_caffe(written(net, tmp_path), TINY)
    assert "tiny.caffemodel: " in str(error.value)
    assert message in str(error.value)


def test_a_network_of_another_size_is_refused(tiny_net, tmp_path):
    with pytest.raises(WeightFileError, match=r"the kernel of conve1_1 has shape"):
        load_caffe(written(tiny_net[0], tmp_path), SVRNNConfig())


def test_a_name_that_is_no_text_is_shown(tiny_net, tmp_path):
    net, _ = tiny_net
    net.layer[1].name = b"conv\xff"
    with pytest.raises(WeightFileError, match=r"layers that are not its: conv\\xff"):
        load_caffe(written(net, tmp_path), TINY)


def test_an_array_of_many_dimensions_is_named(tiny_net, tmp_path):
    net, _ = tiny_net
    net.layer[1].blobs[0].shape.dim[:] = [1] * 65
    with pytest.raises(WeightFileError, match="conve1_1 has an array of 65 dimensions"):
        load_caffe(written(net, tmp_path), TINY)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_named(tiny_net, tmp_path, share):
    file = written(tiny_net[0], tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightFileError, match=r"tiny\.caffemodel: "):
        load_caffe(file, TINY)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\x80\x02}q\x00."])
def test_another_kind_of_file_is_named(tmp_path, content):
    file = tmp_path / "other.caffemodel"
    file.write_bytes(content)
    with pytest.raises(WeightFileError, match=r"other\.caffemodel: "):
        load_caffe(file, SVRNNConfig())


def test_the_command_converts_it(tiny_net, tmp_path):
    file = written(tiny_net[0], tmp_path)
    sizes = ("--rnn_channels", 4, "--guidance_channels", 4)
    result = run_command("convert", file, tmp_path / "weights", "--model", "svrnn", *sizes)
    assert result.returncode == 0, result.stderr
    assert "svrnn, " in result.stdout
    image = svrnn_golden.rng(0).random((13, 18, 3), np.float32)
    assert Restorer.load(tmp_path / "weights")(image).shape == image.shape
