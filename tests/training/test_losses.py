import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from deblur_jax.training.losses import (
    content_loss,
    frequency_loss,
    mimo_unet_loss,
    multi_scale_targets,
    squared_error,
)
from tests import golden


def images(h, w, seed=0):
    return np.random.default_rng(seed).random((2, h, w, 3), np.float32)


@pytest.mark.parametrize("name", golden.MODELS)
def test_losses_equal_the_official_codes(name):
    graphdef, params = golden.network(name)
    outputs = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, golden.blurred())
    loss, terms = mimo_unet_loss(outputs, golden.sharp())
    recorded = golden.recorded(name)
    assert float(loss) == pytest.approx(float(recorded["loss"]), rel=1e-5)
    assert float(terms["content_loss"]) == pytest.approx(float(recorded["loss_content"]), rel=1e-5)
    assert float(terms["frequency_loss"]) == pytest.approx(float(recorded["loss_freq"]), rel=1e-5)


@settings(max_examples=8)
@given(st.integers(1, 9), st.integers(1, 9))
def test_frequency_loss_is_the_mean_over_the_full_spectrum(h, w):
    restored, sharp = images(h, w), images(h, w, seed=1)
    spectrum = np.fft.fft2(restored.astype(np.float64) - sharp, axes=(1, 2))
    expected = (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean() / 2
    assert float(frequency_loss([restored], [sharp])) == pytest.approx(expected, rel=1e-5)


def test_scales_are_summed():
    restored, sharp = images(8, 8), images(8, 8, seed=1)
    one = content_loss([restored], [sharp])
    assert float(content_loss([restored] * 3, [sharp] * 3)) == pytest.approx(3 * float(one))
    assert float(one) == pytest.approx(np.abs(restored - sharp).mean())


def test_l2_is_a_choice_and_anything_else_an_error():
    restored, sharp = images(8, 8), images(8, 8, seed=1)
    squared = content_loss([restored], [sharp], "l2")
    assert float(squared) == pytest.approx(np.square(restored - sharp).mean())
    with pytest.raises(ValueError, match="unknown content loss 'l3'"):
        content_loss([restored], [sharp], "l3")


def test_weight_of_the_frequency_loss():
    restored, sharp = multi_scale_targets(images(8, 8)), images(8, 8, seed=1)
    loss, terms = mimo_unet_loss(restored, sharp, frequency_weight=0.0)
    assert float(loss) == float(terms["content_loss"])


def test_losses_are_float32_for_a_bfloat16_network():
    sharp = images(8, 8, seed=1)
    restored = tuple(x.astype(jnp.bfloat16) for x in multi_scale_targets(images(8, 8)))
    loss, terms = mimo_unet_loss(restored, sharp)
    assert {x.dtype for x in (loss, *terms.values())} == {jnp.dtype(jnp.float32)}
    exact = [np.asarray(x, np.float32) for x in restored]
    assert float(loss) == pytest.approx(float(mimo_unet_loss(exact, sharp)[0]), rel=1e-6)


def test_the_gradient_of_a_perfect_restoration_is_finite():
    targets = multi_scale_targets(images(8, 8))
    grads = jax.grad(lambda x: mimo_unet_loss(x, targets[0])[0])(targets)
    assert all(np.isfinite(g).all() for g in grads)


def of_mimo_unet(restored, sharp):
    scales = (restored, restored[:, ::2, ::2], restored[:, ::4, ::4])
    return mimo_unet_loss(scales, sharp)[0]


def of_svrnn(restored, sharp):
    return squared_error((restored,), sharp)[0]


@pytest.mark.parametrize("loss", [pytest.param(of_mimo_unet, marks=pytest.mark.slow), of_svrnn])
def test_a_loss_works_inside_every_transformation(loss):
    """Its value, and its gradient; equal parts of a batch have their own."""
    rng = np.random.default_rng(0)
    restored, sharp = jnp.asarray(rng.random((2, 2, 16, 16, 3), np.float32))
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    def of_one(pair):
        return loss(pair[0][None], pair[1][None])

    pairs, value = (restored, sharp), loss(restored, sharp)
    each = jnp.stack([of_one((restored[i], sharp[i])) for i in range(2)])
    sharded = jax.shard_map(
        lambda *pair: loss(*pair)[None],
        mesh=mesh,
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
        check_vma=False,
    )
    whole = {
        "jit": jax.jit(loss),
        "nnx.jit": nnx.jit(loss),
        "checkpoint": jax.checkpoint(loss),
        "value_and_grad": lambda *pair: jax.value_and_grad(loss)(*pair)[0],
        "linearize": lambda *pair: jax.linearize(loss, *pair)[0],
    }
    for name, function in whole.items():
        np.testing.assert_allclose(function(*pairs), value, rtol=1e-6, err_msg=name)
    parts = {
        "vmap": jax.vmap(of_one)(pairs),
        "lax.map": jax.lax.map(of_one, pairs),
        "pmap": jax.pmap(of_one, devices=jax.devices()[:2])(pairs),
        "shard_map": jax.jit(sharded)(*pairs),
    }
    for name, found in parts.items():
        np.testing.assert_allclose(found, each, rtol=1e-6, err_msg=name)

    gradient = jax.grad(loss)(*pairs)
    for name in ("jit", "nnx.jit", "checkpoint"):
        found = jax.grad(whole[name])(*pairs)
        np.testing.assert_allclose(found, gradient, atol=1e-7, err_msg=name)
    direction = jnp.asarray(rng.standard_normal(restored.shape, np.float32))
    _, along = jax.jvp(lambda x: loss(x, sharp), (restored,), (direction,))
    np.testing.assert_allclose(along, jnp.vdot(gradient, direction), rtol=1e-4)
    exported = jax.export.export(jax.jit(loss))(*pairs)
    np.testing.assert_allclose(exported.call(*pairs), value, rtol=1e-6)
