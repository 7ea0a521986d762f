import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from deblur_jax.commands import export as command
from deblur_jax.errors import ConfigError
from deblur_jax.export import verify
from deblur_jax.export.function import Exportable, ExportError, Sizes, exportable
from deblur_jax.export.onnx_file import to_onnx
from deblur_jax.export.stablehlo import params_file, to_stablehlo
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import MIMOUNetConfig, SVRNNConfig, initialize
from deblur_jax.weights.folder import save_weights
from tests.commands import ROOT, run_command

OWN = ROOT / "tests/fixtures/own_network.py"
NETWORKS = {
    "mimo_unet": MIMOUNetConfig(base_channels=8, num_res_blocks=2),
    "svrnn": SVRNNConfig(rnn_channels=4, guidance_channels=4),
    "svrnn, half-pixel": SVRNNConfig(rnn_channels=4, guidance_channels=4, resize="half_pixel"),
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if "half-pixel" in name else ())
        for name in NETWORKS
    ]
)
def weights(request, tmp_path):
    _, params = initialize(NETWORKS[request.param], seed=0)
    save_weights(tmp_path / "weights", params, NETWORKS[request.param])
    return tmp_path / "weights"


def images(*shape):
    return np.random.default_rng(len(shape)).random(shape, np.float32)


def run_onnx(model, blurred):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"blurred": blurred})[0]


def test_onnx_restores_any_size_as_the_network_does(weights):
    network, restorer = exportable(weights), Restorer.load(weights)
    model = to_onnx(network)
    for shape in ((1, 16, 24, 3), (3, 40, 8, 3)):
        blurred = images(*shape)
        expected = restorer.restore_fn(restorer.params, blurred)
        np.testing.assert_allclose(run_onnx(model, blurred), expected, atol=2e-6)
    about = {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}
    assert about["digest"] == restorer.digest
    assert about["height_and_width_are_multiples_of"] == str(restorer.size_multiple)


def test_stablehlo_restores_any_size_on_every_platform(weights):
    network, restorer = exportable(weights), Restorer.load(weights)
    exported = jax.export.deserialize(bytearray(to_stablehlo(network)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for shape in ((1, 16, 24, 3), (3, 40, 8, 3)):
        blurred = images(*shape)
        expected = restorer.restore_fn(restorer.params, blurred)
        np.testing.assert_allclose(exported.call(blurred), expected, atol=2e-6)
    with pytest.raises(ValueError, match=r"[hw]"):
        exported.call(images(1, 17, 24, 3))


def test_sizes_can_be_fixed(tiny_weights):
    network = exportable(tiny_weights, sizes=Sizes(2, 16, 24))
    model = to_onnx(network)
    (shape,) = [i.type.tensor_type.shape for i in onnx.load_from_string(model).graph.input]
    assert [length.dim_value for length in shape.dim] == [2, 16, 24, 3]
    assert verify.difference_of_onnx(network, model) < 1e-5
    exported = jax.export.deserialize(bytearray(to_stablehlo(network, ["cpu"])))
    assert exported.in_avals[0].shape == (2, 16, 24, 3)
    with pytest.raises(ConfigError, match=r"--size: 18 is not a multiple of"):
        exportable(tiny_weights, sizes=Sizes(None, 18, 24))


def test_parameters_can_lie_beside(tiny_weights, tmp_path):
    network = exportable(tiny_weights)
    artefact, params = to_stablehlo(network, ["cpu"], with_params=False), params_file(network)
    assert len(artefact) < len(params) + 100_000
    (tmp_path / "a").write_bytes(artefact)
    (tmp_path / "p").write_bytes(params)
    assert verify.difference_of_stablehlo(network, tmp_path / "a", tmp_path / "p") < 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """Any function of images, exported as a network is."""

    function: object
    multiple: int = 2
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    params: dict = dataclasses.field(default_factory=dict)
    about: dict = dataclasses.field(default_factory=dict)

    def __call__(self, params, blurred):
        return self.function(blurred)

    input_shape = Exportable.input_shape


def softened(x):
    return x + 0.0 * jnp.mean(x, axis=(1, 2), keepdims=True)


def scanned(x, axis, reverse):
    lines = jnp.moveaxis(x, axis, 0)
    state, states = jax.lax.scan(
        lambda h, line: (0.5 * h + line, h - line), lines[0] * 0, lines, reverse=reverse
    )
    return jnp.moveaxis(states, 0, axis) + jnp.expand_dims(state, axis)


FUNCTIONS = {
    "arithmetic": lambda x: (x - 0.5) * 2.0 / (x + 1.0) - jnp.exp(-x) + x**3 + jnp.abs(x - 0.3),
    "functions": lambda x: jnp.tanh(x) + jax.nn.sigmoid(x) + jax.lax.rsqrt(x + 1) + jnp.square(x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.leaky_relu(x - 0.5, 0.1),
    "softplus": lambda x: jnp.log(1.0 + jnp.exp(x)) + jax.nn.silu(x),
    "clip": lambda x: jnp.clip(x, 0.2, 0.8) + jnp.where(x > 0.5, x, -x) + jnp.maximum(x, 0.5),
    "matrix": lambda x: (
        x @ jnp.arange(9.0).reshape(3, 3) + jnp.einsum("bhwc,dc->bhwd", x, jnp.eye(3))
    ),
    "means": lambda x: softened(x) + x.max(axis=-1, keepdims=True) + x.sum(1, keepdims=True),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.3)[
        :, 1:, :-2
    ],
    "mirror": lambda x: jnp.flip(x, 1) + jnp.flip(x, (1, 2)),
    "channels": lambda x: (
        jnp.concatenate([x[..., 1:], x[..., :1]], -1) + jnp.stack([x, x], 1)[:, 0]
    ),
    "split": lambda x: sum(jnp.split(x, 3, axis=-1)) * x,
    "transposed": lambda x: x.transpose(0, 2, 1, 3).transpose(0, 2, 1, 3) + 1.0,
    "cells": lambda x: x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2], 3).sum(2).repeat(2, 1),
    **{
        f"scan over {axis}, {reverse}": lambda x, axis=axis, reverse=reverse: scanned(
            x, axis, reverse
        )
        for axis in (1, 2)
        for reverse in (False, True)
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_of_other_networks(name):
    function = FUNCTIONS[name]
    model = to_onnx(Function(function))
    for shape in ((1, 4, 6, 3), (2, 6, 2, 3)):
        blurred = images(*shape)
        np.testing.assert_allclose(run_onnx(model, blurred), function(blurred), atol=3e-6)


def test_an_operation_without_translation_is_named_with_its_place():
    with pytest.raises(
        ExportError, match=r"test_export\.py:\d+: the operation cumsum is not known"
    ):
        to_onnx(Function(lambda x: jnp.cumsum(x, axis=1)))


def test_what_to_use_in_place_of_a_step_is_said():
    with pytest.raises(ExportError, match=r"test_export\.py:\d+: ONNX: an index with a step"):
        to_onnx(Function(lambda x: x[:, ::2]))


def test_a_file_that_computes_something_else_is_not_written(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "to_onnx", lambda network: to_onnx(Function(lambda x: 0.9 * x, 8)))
    parser = command.argparse.ArgumentParser()
    command.add_arguments(parser, [])
    out = tmp_path / "a.onnx"
    args = parser.parse_args(["--weights", str(tiny_weights), "--out", str(out)])
    with pytest.raises(ExportError, match=r"not written: what was exported differs .* by 0\.\d"):
        command.run(args)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.bin"], "--out a.bin: name a file *.stablehlo or *.onnx"),
        (["--out", "a.onnx", "--size", "big"], "--size big: expected WIDTHxHEIGHT"),
        (["--out", "a.stablehlo", "--platforms", "cpu,abacus"], "--platforms: abacus is not of"),
        (["--out", "a.onnx", "--parameters", "beside"], "are for files *.stablehlo"),
        (["--out", "a.onnx", "--batch", "0"], "--batch must be at least 1, not 0"),
    ],
)
def test_wrong_arguments_are_one_line(words, message):
    result = run_command("export", *words)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.slow
def test_the_command_says_what_it_verified(tiny_weights, tmp_path):
    words = ["export", "--weights", tiny_weights, "--out"]
    result = run_command(*words, tmp_path / "a.onnx")
    assert result.returncode == 0, result.stderr
    assert "run in onnxruntime: it differs from the network by " in result.stdout
    result = run_command(*words, tmp_path / "a.stablehlo", "--parameters", "beside")
    assert result.returncode == 0, result.stderr
    assert "run in JAX, in a process of its own: it differs" in result.stdout
    assert "for cuda and tpu it was lowered, and not run" in result.stdout
    assert sorted(f.name for f in tmp_path.glob("a.*")) == [
        "a.onnx",
        "a.safetensors",
        "a.stablehlo",
    ]
