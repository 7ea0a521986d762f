import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deblur_jax.errors import ConfigError
from deblur_jax.models import (
    ComputeConfig,
    MIMOUNetConfig,
    abstract_model,
    build_model,
    count_params,
    model_config,
)
from deblur_jax.ops.operations import PLAIN
from tests import golden

TINY = {"base_channels": 4, "num_res_blocks": 2}
TINY_CONFIG = MIMOUNetConfig(**TINY)


def tiny(config=TINY_CONFIG, **compute):
    return build_model(config, rngs=nnx.Rngs(0), compute=ComputeConfig(**compute))


@pytest.mark.accelerator
@pytest.mark.parametrize(
    "backend", ["auto", "plain", pytest.param("tpu_interpreted", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", golden.MODELS)
def test_outputs_equal_the_official_codes_at_all_scales(name, backend):
    graphdef, params = golden.network(name, backend)
    outputs = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, golden.blurred())
    for output, scale in zip(outputs, ("full", "half", "quarter"), strict=True):
        expected = golden.nhwc(golden.recorded(name)[f"out_{scale}"])
        assert golden.relative_error(output, expected) < 1e-5
        residual = (
            np.asarray(output)
            - golden.blurred()[:, :: 64 // output.shape[1]][:, :, :: 96 // output.shape[2]]
        )
        assert np.abs(residual).max() > 1e-3, "a network that returns its input would pass"


@pytest.mark.parametrize(
    ("name", "count"), [("mimo_unet", 6_807_171), ("mimo_unet_plus", 16_107_651)]
)
def test_number_of_parameters(name, count):
    model = abstract_model(model_config(name))
    assert count_params(nnx.state(model)) == count


def test_holds_parameters_only():
    assert all(isinstance(leaf, nnx.Param) for _, leaf in nnx.to_flat_state(nnx.state(tiny())))


def test_loop_and_unrolled_stack_agree():
    blurred = golden.blurred()
    looped, unrolled = (jax.jit(tiny(unroll=n).__call__)(blurred) for n in (1, None))
    for a, b in zip(looped, unrolled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.accelerator
@pytest.mark.parametrize("name", ["mimo_unet", pytest.param("svrnn", marks=pytest.mark.slow)])
def test_rematerialisation_changes_no_gradient_and_keeps_less(name):
    if name == "mimo_unet":
        options = {"base_channels": 4, "num_res_blocks": 5}
    else:
        options = {"rnn_channels": 4, "guidance_channels": 2}
    blurred = jnp.asarray(np.random.default_rng(0).random((1, 32, 48, 3), np.float32))
    grads, kept = [], []
    for remat in (None, "blocks"):
        graphdef, params = nnx.split(
            build_model(
                model_config(name, **options),
                rngs=nnx.Rngs(0),
                compute=ComputeConfig(remat=remat, precision="highest"),
            )
        )

        def loss(params, graphdef=graphdef):
            return jnp.sum(nnx.merge(graphdef, params)(blurred)[0] ** 2)

        grads.append(jax.jit(jax.grad(loss))(params))
        pull_back = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept.append(sum(array.size for array in jax.tree.leaves(pull_back)))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())
    assert kept[1] < 0.8 * kept[0]


def test_smaller_outputs_cost_nothing_where_they_are_dropped():
    """Dropping them saves exactly their two convolutions."""
    graphdef, params = nnx.split(tiny(backend="plain"))  # XLA counts what it computes itself
    blurred = np.zeros((1, 32, 32, 3), np.float32)

    def operations(fn):
        return jax.jit(fn).lower(params, blurred).compile().cost_analysis()["flops"]

    full_only = operations(lambda p, x: nnx.merge(graphdef, p)(x)[0])
    all_three = operations(lambda p, x: nnx.merge(graphdef, p)(x))
    # Multiply-adds inside the image: a 3x3 window loses its taps beyond the border.
    taps = {size: (3 * size - 2) ** 2 for size in (16, 8)}
    output_convolutions = 2 * 3 * (taps[16] * 8 + taps[8] * 16)
    assert all_three - full_only >= output_convolutions
    assert all_three - full_only < 1.1 * output_convolutions


@pytest.mark.accelerator
def test_bfloat16_computes_in_bfloat16_and_restores_in_float32():
    model = tiny(dtype="bfloat16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(model)))
    outputs, expected = (jax.jit(m.__call__)(golden.blurred()) for m in (model, tiny()))
    assert outputs[0].dtype == jnp.float32
    error = golden.relative_error(outputs[0], expected[0])
    assert 1e-6 < error < 1e-2
    jaxpr = str(jax.make_jaxpr(lambda x: tiny(dtype="bfloat16")(x))(golden.blurred()))
    convolutions = [line for line in jaxpr.splitlines() if "= conv_general_dilated" in line]
    assert convolutions
    assert all(":bf16" in line for line in convolutions)


@pytest.mark.slow
def test_dropout_is_in_plus_only_and_only_with_keys():
    blurred, keys = golden.blurred(), jax.random.split(jax.random.key(0), 1)
    for name, drops in (("mimo_unet", False), ("mimo_unet_plus", True)):
        model = tiny(model_config(name, **TINY))
        plain, dropped = model(blurred)[0], model(blurred, dropout_keys=keys)[0]
        assert np.array_equal(plain, dropped) is not drops


def test_channel_dropout_zeroes_whole_maps_row_by_row():
    features = jnp.ones((3, 4, 5, 2000))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = np.asarray(PLAIN.channel_dropout(features, 0.1, keys))
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.9).item()}
    assert np.all(dropped == dropped[:, :1, :1])
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.02)
    assert not np.array_equal(dropped[0], dropped[1])
    alone = PLAIN.channel_dropout(features[1:2], 0.1, keys[1:2])
    np.testing.assert_array_equal(alone[0], dropped[1])


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 30, 3), (32, 32, 3), (1, 32, 32, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"multiples of 4|shape \(b, h, w, 3\)"):
        tiny()(np.zeros(shape, np.float32))


def test_an_unknown_network_or_size_is_named():
    with pytest.raises(ConfigError, match="network 'unet' is not registered: choose from mimo_u"):
        model_config("unet")
    with pytest.raises(ConfigError, match=r"gate_limit does not exist for mimo_unet.*svrnn has it"):
        model_config("mimo_unet", gate_limit=0.5)


def test_a_preset_is_known_by_its_sizes():
    assert MIMOUNetConfig.plus().name == "mimo_unet_plus"
    assert MIMOUNetConfig.plus(base_channels=4).name == "mimo_unet"
    assert model_config("mimo_unet_plus") == MIMOUNetConfig.plus()
