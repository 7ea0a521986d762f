import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deblur_jax.inference import count_params
from deblur_jax.models import build_model
from deblur_jax.models.mimo_unet import channel_dropout
from tests import golden


def tiny(**options):
    options = {"base_channels": 4, "num_res_blocks": 2, **options}
    return build_model(options.pop("name", "mimo_unet"), rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("name", golden.MODELS)
def test_outputs_equal_the_official_codes_at_all_scales(name):
    graphdef, params = golden.network(name)
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
    model = nnx.eval_shape(lambda: build_model(name, rngs=nnx.Rngs(0)))
    assert count_params(nnx.state(model)) == count


def test_holds_parameters_only():
    assert all(isinstance(leaf, nnx.Param) for _, leaf in nnx.to_flat_state(nnx.state(tiny())))


def test_loop_and_unrolled_stack_agree():
    blurred = golden.blurred()
    looped, unrolled = (jax.jit(tiny(unroll=n).__call__)(blurred) for n in (1, True))
    for a, b in zip(looped, unrolled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", ["mimo_unet", "svrnn"])
def test_rematerialisation_changes_no_gradient_and_keeps_less(name):
    if name == "mimo_unet":
        options = {"base_channels": 4, "num_res_blocks": 3}
    else:
        options = {"rnn_channels": 4, "guidance_channels": 2}
    blurred = jnp.asarray(np.random.default_rng(0).random((1, 16, 24, 3), np.float32))
    grads, kept = [], []
    for remat in (None, "blocks"):
        graphdef, params = nnx.split(build_model(name, rngs=nnx.Rngs(0), remat=remat, **options))

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
    graphdef, params = nnx.split(tiny())
    blurred = np.zeros((1, 32, 32, 3), np.float32)

    def operations(fn):
        return jax.jit(fn).lower(params, blurred).compile().cost_analysis()["flops"]

    full_only = operations(lambda p, x: nnx.merge(graphdef, p)(x)[0])
    all_three = operations(lambda p, x: nnx.merge(graphdef, p)(x))
    # Multiply-adds inside the picture: a 3x3 window loses its taps beyond the border.
    taps = {size: (3 * size - 2) ** 2 for size in (16, 8)}
    output_convolutions = 2 * 3 * (taps[16] * 8 + taps[8] * 16)
    assert all_three - full_only >= output_convolutions
    assert all_three - full_only < 1.1 * output_convolutions


def test_bfloat16_computes_in_bfloat16_and_restores_in_float32():
    model = tiny(dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(model)))
    outputs, expected = (jax.jit(m.__call__)(golden.blurred()) for m in (model, tiny()))
    assert outputs[0].dtype == jnp.float32
    error = golden.relative_error(outputs[0], expected[0])
    assert 1e-6 < error < 1e-2
    jaxpr = str(jax.make_jaxpr(lambda x: tiny(dtype=jnp.bfloat16)(x))(golden.blurred()))
    convolutions = [line for line in jaxpr.splitlines() if "= conv_general_dilated" in line]
    assert convolutions
    assert all(":bf16" in line for line in convolutions)


def test_dropout_is_in_plus_only_and_only_with_keys():
    blurred, keys = golden.blurred(), jax.random.split(jax.random.key(0), 1)
    for name, drops in (("mimo_unet", False), ("mimo_unet_plus", True)):
        model = tiny(name=name)
        plain, dropped = model(blurred)[0], model(blurred, dropout_keys=keys)[0]
        assert np.array_equal(plain, dropped) is not drops


def test_channel_dropout_zeroes_whole_maps_row_by_row():
    features = jnp.ones((3, 4, 5, 2000))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = np.asarray(channel_dropout(features, 0.1, keys))
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.9).item()}
    assert np.all(dropped == dropped[:, :1, :1])
    assert np.mean(dropped == 0) == pytest.approx(0.1, abs=0.02)
    assert not np.array_equal(dropped[0], dropped[1])
    alone = channel_dropout(features[1:2], 0.1, keys[1:2])
    np.testing.assert_array_equal(alone[0], dropped[1])


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 30, 3), (32, 32, 3), (1, 32, 32, 1)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"multiples of 4|shape \(b, h, w, 3\)"):
        tiny()(np.zeros(shape, np.float32))


def test_unknown_model_or_option():
    with pytest.raises(ValueError, match="unknown model 'unet': choose from mimo_unet"):
        build_model("unet", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="model mimo_unet has no option gate_limit"):
        build_model("mimo_unet", rngs=nnx.Rngs(0), gate_limit=0.5)
    with pytest.raises(ValueError, match="model svrnn has no option unroll"):
        build_model("svrnn", rngs=nnx.Rngs(0), unroll=1)
