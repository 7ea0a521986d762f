"""Whole networks in packed maps against the plain form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import ComputeConfig, MIMOUNetConfig, SVRNNConfig, build_model
from tests.ops.tpu.packing import random_arrays

pytestmark = pytest.mark.slow
MIMO_UNET = MIMOUNetConfig(base_channels=32, num_res_blocks=2, dropout_rate=0.3)
NARROW = MIMOUNetConfig(base_channels=12, num_res_blocks=1)
WIDE = MIMOUNetConfig(base_channels=64, num_res_blocks=1)
SVRNN = SVRNNConfig(rnn_channels=32, guidance_channels=16)


@pytest.mark.parametrize(
    ("config", "size", "dtype"),
    [
        pytest.param(MIMO_UNET, (36, 20), "float32", id="MIMO-UNet, no multiple"),
        pytest.param(MIMO_UNET, (32, 48), "float32", id="MIMO-UNet"),
        pytest.param(MIMO_UNET, (32, 48), "bfloat16", id="MIMO-UNet, bfloat16"),
        pytest.param(NARROW, (36, 20), "float32", id="MIMO-UNet, 12 channels"),
        pytest.param(WIDE, (20, 36), "float32", id="MIMO-UNet, 64 channels"),
        pytest.param(SVRNN, (40, 24), "float32", id="SVRNN, no multiple"),
        pytest.param(SVRNN, (32, 64), "bfloat16", id="SVRNN, bfloat16"),
        pytest.param(
            SVRNNConfig(rnn_channels=8, guidance_channels=4, resize="half_pixel"),
            (32, 40),
            "float32",
            id="SVRNN, half pixel",
        ),
    ],
)
def test_the_network_computes_what_the_plain_one_does(config, size, dtype):
    assert_same_as_plain(config, 2, size, dtype)


@pytest.mark.parametrize(
    ("config", "images", "strips"),
    [(SVRNN, 8, 1), (SVRNN, 4, 2), (MIMO_UNET, 8, 1), (MIMO_UNET, 1, 16)],
    ids=["SVRNN, 1", "SVRNN, 2", "MIMO-UNet, 1", "MIMO-UNet, 16"],
)
def test_it_does_in_another_number_of_strips(config, images, strips, monkeypatch):
    monkeypatch.setattr("deblur_jax.ops.tpu.packed.strips_of", lambda *_: strips)
    assert_same_as_plain(config, images, (24, 16), "float32")


def assert_same_as_plain(config, images, size, dtype):
    """With gradients of a smooth loss, and dropout.

    In bfloat16 the outputs only: its gradients are sums of many rounded numbers in any form.
    """
    (blurred,) = random_arrays((images, *size, 3))
    keys = jax.random.split(jax.random.key(0), images)

    def results(backend):
        compute = ComputeConfig(precision="highest", backend=backend, dtype=dtype)
        graphdef, params = nnx.split(build_model(config, rngs=nnx.Rngs(0), compute=compute))

        def loss(params):
            outputs = nnx.merge(graphdef, params)(blurred, dropout_keys=keys)
            return sum(jnp.sum(jnp.sin(output)) for output in outputs), outputs

        gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
        return (gradients, outputs) if dtype == "float32" else outputs

    limit = 1e-5 if dtype == "float32" else 0.05
    for actual, expected in zip(
        *(jax.tree.leaves(results(backend)) for backend in ("tpu_interpreted", "plain")),
        strict=True,
    ):
        difference = np.abs(np.asarray(actual) - np.asarray(expected)).max()
        assert difference <= limit * np.abs(np.asarray(expected)).max()
