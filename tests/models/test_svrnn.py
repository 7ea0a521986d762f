import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import Compute, ComputeConfig, SVRNNConfig, abstract_model, build_model
from deblur_jax.models.svrnn import SVRNN
from deblur_jax.ops.operations import PLAIN
from tests import svrnn_golden
from tests.golden import relative_error, zeros

GRADIENT_TOLERANCE = 1e-4


class Recorder:
    """Plain operations that keep what they return."""

    NAMES = (
        "convolution",
        "tanh",
        "gated_recurrence",
        "max_pool_2x2",
        "leaky_relu",
        "upsample_caffe_bilinear",
    )

    def __init__(self):
        self.outputs = {name: [] for name in self.NAMES}
        recording = {name: self._wrapped(name) for name in self.NAMES}
        self.operations = dataclasses.replace(PLAIN, **recording)

    def _wrapped(self, name):
        def record(*arguments, **options):
            output = getattr(PLAIN, name)(*arguments, **options)
            self.outputs[name].append(np.asarray(output))
            return output

        return record


def split(array):
    return np.split(array, 4, axis=-1)


@pytest.fixture(scope="module")
def activations():
    """Every activation of the golden run by its official name."""
    _, params = svrnn_golden.network()
    recorder = Recorder()
    compute = Compute(ops=recorder.operations, precision="highest")
    graphdef, _ = zeros(lambda: SVRNN(SVRNNConfig(), rngs=nnx.Rngs(0), compute=compute))
    model = nnx.merge(graphdef, params)
    restored = model(svrnn_golden.blurred())[0]
    out = recorder.outputs
    # In the order of the calls: 13 convolutions of the guidance, 2 of the features, one to merge in
    # each stage, 2 of the reconstructor; the gates of the four stages.
    assert {name: len(outputs) for name, outputs in out.items()} == {
        "convolution": 21,
        "tanh": 4,
        "gated_recurrence": 4,
        "max_pool_2x2": 3,
        "leaky_relu": 6,
        "upsample_caffe_bilinear": 3,
    }
    names = ("x1", "x2", "y1", "y2")
    gates = {
        f"g_RNN{stage + 1}_{name}": gate
        for stage, gates in enumerate(out["tanh"])
        for name, gate in zip(names, split(gates), strict=True)
    }
    scanned = split(out["gated_recurrence"][0])
    return {
        "poolg2": out["max_pool_2x2"][1],
        "poolg3": out["max_pool_2x2"][2],
        "convg3_2": np.maximum(out["convolution"][5], 0),
        "convg4_3": np.maximum(out["convolution"][9], 0),
        "resizegd1": out["upsample_caffe_bilinear"][0],
        "convgd1_2": np.maximum(out["convolution"][11], 0),
        **gates,
        "conve1_2": out["convolution"][14],
        **{f"rnn1_{i + 1}": scanned[i] for i in range(4)},
        "conv_rnn1": out["leaky_relu"][1],
        "conv_rnn4": out["leaky_relu"][4],
        "resized1": out["upsample_caffe_bilinear"][2],
        "output": np.asarray(restored),
    }


@pytest.mark.accelerator
def test_every_recorded_activation_equals_the_official_codes(activations):
    seen = set()
    for file in ("forward", "forward_guidance", "gates_0", "gates_1"):
        for name, expected in svrnn_golden.recorded(file).items():
            if name == "output_f64run":
                continue
            assert relative_error(activations[name], expected) < 1e-5, name
            seen.add(name)
    assert seen == set(activations)


def squared_error(restored, sharp):
    return jnp.sum(jnp.square(restored - sharp)) / 2 / len(sharp)


@pytest.mark.accelerator
@pytest.mark.parametrize("backend", ["auto", pytest.param("plain", marks=pytest.mark.slow)])
def test_gradients_equal_the_official_codes(backend):
    graphdef, params = svrnn_golden.network(backend)
    recorded = svrnn_golden.recorded("backward")

    @jax.jit
    def value_and_grads(params, blurred, sharp):
        def loss(params, blurred):
            return squared_error(nnx.merge(graphdef, params)(blurred)[0], sharp)

        return jax.value_and_grad(loss, argnums=(0, 1))(params, blurred)

    loss, (grads, d_input) = value_and_grads(params, svrnn_golden.blurred(), svrnn_golden.sharp())
    assert float(loss) == pytest.approx(float(recorded["loss"]), rel=1e-5)
    assert relative_error(d_input, recorded["d_input"]) < GRADIENT_TOLERANCE
    named = svrnn_golden.by_official_name(grads)
    assert set(named) == set(recorded["param_names"].tolist())
    for name, norm in zip(recorded["param_names"], recorded["grad_norms"], strict=True):
        actual = np.linalg.norm(named[str(name)].astype(np.float64))
        assert actual == pytest.approx(norm, rel=GRADIENT_TOLERANCE), name
    for key in (key for key in recorded if key.startswith("grad.")):
        error = relative_error(named[key.removeprefix("grad.")], recorded[key])
        assert error < GRADIENT_TOLERANCE, key


def tiny(dtype="float32", **sizes):
    config = SVRNNConfig(**{"rnn_channels": 4, "guidance_channels": 4, **sizes})
    return build_model(config, rngs=nnx.Rngs(0), compute=ComputeConfig(dtype=dtype))


def restored_by(**options):
    model = tiny(**options)
    return np.asarray(jax.jit(lambda x: model(x)[0])(image(1, 16, 24, 3)))


def image(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def test_number_of_parameters():
    params = nnx.state(abstract_model(SVRNNConfig()))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 9_227_027


def test_a_gate_limit_is_a_choice():
    assert np.array_equal(restored_by(), restored_by(gate_limit=1.0))
    assert not np.allclose(restored_by(), restored_by(gate_limit=0.001))


def test_half_pixel_resizing_is_a_choice():
    assert not np.allclose(restored_by(), restored_by(resize="half_pixel"))
    with pytest.raises(ValueError, match=r"resize can't be 'nearest': choose from caffe"):
        tiny(resize="nearest")


@pytest.mark.accelerator
def test_bfloat16_is_near_float32():
    restored = restored_by(dtype="bfloat16")
    assert restored.dtype == np.float32
    assert 1e-6 < relative_error(restored, restored_by()) < 5e-2


def test_initial_parameters_are_caffes_xavier():
    for path, leaf in nnx.to_flat_state(nnx.state(tiny(guidance_channels=16))):
        values = np.asarray(leaf[...])
        if path[-1] == "bias":
            assert not values.any()
        else:
            bound = np.float32(np.sqrt(3 / np.prod(values.shape[:3])))
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.9 * bound


@pytest.mark.parametrize("shape", [(1, 12, 16, 3), (1, 16, 20, 3), (16, 16, 3)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"multiples of 8|shape \(b, h, w, 3\)"):
        tiny()(np.zeros(shape, np.float32))
