import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deblur_jax import Restorer
from deblur_jax.inference.ensemble import ENSEMBLES, with_ensemble

IMAGES = np.random.default_rng(0).random((2, 6, 10, 3), np.float32)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_copies_are_rotated_back(name):
    identity = with_ensemble(lambda params, x: x, name)
    np.testing.assert_allclose(identity(None, IMAGES), IMAGES, atol=1e-6)


@pytest.mark.parametrize(("name", "count"), [("rot4", 4), ("dihedral8", 8)])
def test_the_mean_over_the_group_commutes_with_it(name, count):
    kernel = np.random.default_rng(1).standard_normal((3, 3, 3, 3)).astype(np.float32)
    shapes = []

    def convolution(params, x):
        shapes.append(x.shape)
        return jax.lax.conv_general_dilated(
            x, params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    restored = with_ensemble(convolution, name)(kernel, IMAGES)
    # Not square: upright and lying copies in two batches.
    assert shapes == [(count, 6, 10, 3), (count, 10, 6, 3)]
    mean = np.mean(
        [
            np.rot90(kernel[:, ::-1] if mirrored else kernel, turns)
            for turns, mirrored in ENSEMBLES[name]
        ],
        axis=0,
    )
    np.testing.assert_allclose(restored, convolution(mean, IMAGES), atol=1e-5)


def test_large_images_go_one_by_one(monkeypatch):
    monkeypatch.setattr("deblur_jax.inference.ensemble._PIXELS_AT_ONCE", 100)
    batches = []
    with_ensemble(lambda p, x: batches.append(len(x)) or x, "dihedral8")(None, IMAGES[:1])
    assert batches == [1] * 8


def test_a_network_in_an_ensemble_is_the_mean_of_its_copies(tiny_weights):
    image = IMAGES[0, :6, :9]
    alone, together = Restorer.load(tiny_weights), Restorer.load(tiny_weights, ensemble="rot4")
    padded = jnp.asarray(alone.padded(image[None]))
    copies = [
        np.rot90(alone.restore_fn(alone.params, jnp.rot90(padded, k, axes=(1, 2))), -k, axes=(1, 2))
        for k in range(4)
    ]
    expected = np.clip(np.mean(copies, axis=0)[0, :6, :9], 0, 1)
    np.testing.assert_allclose(together(image), expected, atol=1e-6)
