import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import ComputeConfig, MIMOUNetConfig, SVRNNConfig, build_model
from deblur_jax.ops.backend import BACKENDS, operations_for
from deblur_jax.ops.operations import PLAIN, Operations
from deblur_jax.runtime.differentiation import ForwardModeError
from tests.accelerator import ON_CPU, PLATFORM

NETWORKS = {
    "mimo_unet": MIMOUNetConfig(base_channels=2, num_res_blocks=1),
    "svrnn": SVRNNConfig(rnn_channels=2, guidance_channels=1),
}
IMAGE = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)


@functools.cache
def restore_by(name, backend):
    """``(params, images) -> restored`` and its parameters."""
    compute = ComputeConfig(backend=backend, precision="highest")
    graphdef, params = nnx.split(
        build_model(NETWORKS[name], rngs=nnx.Rngs(0), compute=compute, platform=PLATFORM)
    )
    return lambda params, images: nnx.merge(graphdef, params)(images)[0], params


def smooth_loss(name, backend):
    restore, params = restore_by(name, backend)
    return lambda images: jnp.sum(jnp.sin(restore(params, images)))


def test_every_table_has_every_operation():
    for table in BACKENDS.values():
        for field in dataclasses.fields(Operations):
            assert getattr(table, field.name) is not None


@pytest.mark.parametrize(
    ("platform", "name"),
    [("cpu", "cpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("tpu", "tpu"), ("METAL", "plain")],
)
def test_the_platform_decides_once_unless_a_backend_is_named(platform, name):
    assert operations_for("auto", platform).name == name
    assert operations_for("plain", platform) is PLAIN


def _of_networks_and_backends():
    for name in NETWORKS:
        for backend in ["cpu", "gpu_interpreted", "tpu_interpreted"] if ON_CPU else ["auto"]:
            quick = backend in ("cpu", "auto") or (name, backend) == (
                "mimo_unet",
                "tpu_interpreted",
            )
            yield pytest.param(name, backend, marks=() if quick else pytest.mark.slow)


@pytest.mark.accelerator
@pytest.mark.parametrize(("name", "backend"), list(_of_networks_and_backends()))
def test_every_backend_computes_what_the_plain_one_does(name, backend):
    results = []
    for table in ("plain", backend):
        restore, params = restore_by(name, table)

        def loss(params, images, restore=restore):
            restored = restore(params, images)
            return jnp.sum(jnp.sin(restored)), restored

        value_and_gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        results.append(jax.jit(value_and_gradients)(params, IMAGE))
    for ours, plain in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def forward_modes(loss, image, direction):
    """Derivatives along a direction and second derivatives, in several ways."""
    gradient = jax.grad(loss)
    _, linear = jax.linearize(loss, image)

    def of_two_pixels(pixels):
        return loss(image.at[0, 3, 3:5, 0].set(pixels))

    return {
        "gradient": gradient(image),
        "jvp": jax.jvp(loss, (image,), (direction,))[1],
        "linearize": linear(direction),
        "second": jax.jvp(gradient, (image,), (direction,))[1],
        "hessian": jax.hessian(of_two_pixels)(image[0, 3, 3:5, 0]),
        "vmap of grad": jax.vmap(lambda one: gradient(one[None])[0])(
            jnp.concatenate([image, image[:, ::-1]])
        ),
        "vmap of jvp": jax.vmap(lambda d: jax.jvp(loss, (image,), (d,))[1])(
            jnp.stack([direction, 2 * direction])
        ),
    }


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("mimo_unet", "plain"),
        pytest.param("svrnn", "plain", marks=pytest.mark.slow),
        pytest.param("mimo_unet", "gpu", marks=pytest.mark.slow),
    ],
)
def test_forward_mode_agrees_with_finite_differences(name, backend):
    loss = smooth_loss(name, backend)
    direction = np.random.default_rng(1).standard_normal(IMAGE.shape).astype(np.float32)
    results = jax.jit(functools.partial(forward_modes, loss))(IMAGE, direction)
    step = 3e-3
    value = jax.jit(loss)
    forward, backward = (float(value(IMAGE + s * direction)) for s in (step, -step))
    along = float(np.sum(results["gradient"] * direction))
    assert along == pytest.approx((forward - backward) / (2 * step), rel=0.02, abs=0.05)
    for way in ("jvp", "linearize"):
        assert float(results[way]) == pytest.approx(along, rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(results["vmap of jvp"], along * np.array([1, 2]), rtol=1e-4)
    assert results["hessian"].shape == (2, 2)
    np.testing.assert_allclose(results["hessian"], results["hessian"].T, atol=1e-4)
    np.testing.assert_allclose(results["vmap of grad"][:1], results["gradient"], atol=1e-5)
    gradient, errors = jax.jit(jax.grad(loss)), []
    for step in (1e-3, 2e-4, 5e-5):  # where a ReLU changes sides on the way, a difference is wrong
        moved = (gradient(IMAGE + s * direction) for s in (step, -step))
        second = np.subtract(*moved) / (2 * step)
        errors.append(np.linalg.norm(results["second"] - second) / np.linalg.norm(second))
    assert min(errors) < 0.1, "the second derivative along the direction"


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("mimo_unet", "cpu"),
        ("svrnn", "cpu"),
        ("svrnn", "gpu_interpreted"),
        ("mimo_unet", "tpu"),
        pytest.param("svrnn", "tpu", marks=pytest.mark.slow),
    ],
)
def test_a_backend_without_forward_mode_names_the_one_that_has_it(name, backend):
    loss = smooth_loss(name, backend)
    with pytest.raises(ForwardModeError, match='backend="plain"'):
        jax.jvp(loss, (IMAGE,), (IMAGE,))


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu_interpreted", "tpu", "tpu_interpreted"])
def test_a_backend_that_lacks_forward_mode_says_so(name):
    module = __import__(f"deblur_jax.ops.{name.partition('_')[0]}", fromlist=["*"])
    assert "no forward mode" in module.__doc__
    assert 'backend="plain"' in module.__doc__
