import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deblur_jax import Restorer
from deblur_jax.inference.restorer import make_restore_fn, plan_sizes
from deblur_jax.models import initialize


@pytest.fixture
def restorer(tiny_weights):
    return Restorer.load(tiny_weights)


def random_image(*shape, dtype=np.float32):
    values = np.random.default_rng(0).random(shape, np.float32)
    if dtype == np.float32:
        return values
    return np.round(values * np.iinfo(dtype).max).astype(dtype)


def test_an_aligned_image_is_the_networks_output(restorer, tiny_config):
    model = nnx.merge(*initialize(tiny_config.model, seed=0))
    image = random_image(16, 24, 3)
    expected = np.clip(jax.jit(lambda x: model(x)[0])(image[None])[0], 0, 1)
    np.testing.assert_allclose(restorer(image), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (16, 17), (19, 16)])
def test_other_sizes_are_padded_by_their_edge_and_cropped(restorer, size):
    image = random_image(*size, 3)
    aligned = [-(-n // 4) * 4 for n in size]
    padded = np.pad(image, ((0, aligned[0] - size[0]), (0, aligned[1] - size[1]), (0, 0)), "edge")
    expected = restorer(padded)[: size[0], : size[1]]
    np.testing.assert_allclose(restorer(image), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 1), (9, 10, 2), (9, 10, 3), (9, 10, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_shape_and_dtype_are_kept(restorer, shape, dtype):
    image = random_image(*shape, dtype=dtype)
    restored = restorer(image)
    assert restored.shape == image.shape
    assert restored.dtype == image.dtype
    if shape[-1] in (2, 4) and len(shape) == 3:
        np.testing.assert_array_equal(restored[..., -1], image[..., -1])


def test_grey_is_the_mean_of_a_grey_rgb_image(restorer):
    grey = random_image(8, 8)
    expected = restorer(np.repeat(grey[..., None], 3, -1)).mean(-1)
    np.testing.assert_allclose(restorer(grey), expected, atol=1e-6)


def test_integers_are_rounded_not_truncated(restorer):
    image = random_image(8, 8, 3, dtype=np.uint8)
    exact = restorer(image.astype(np.float32) / 255) * 255
    np.testing.assert_array_equal(restorer(image), np.round(exact))


def test_a_pillow_image_will_do(restorer):
    image = random_image(8, 8, 3, dtype=np.uint8)
    np.testing.assert_array_equal(restorer(Image.fromarray(image)), restorer(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "expected"),
        (np.zeros((8, 8, 5), np.float32), "expected"),
        (np.zeros((8, 8, 3), np.int32), "expected uint8, uint16 or floats"),
        (np.zeros((0, 8, 3), np.float32), "empty"),
        (np.full((8, 8, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_another_array_is_refused(restorer, image, message):
    with pytest.raises(ValueError, match=message):
        restorer(image)


def test_the_function_underneath_is_pure(restorer, tiny_config):
    """It may be taken out, and jitted, mapped over images or differentiated."""
    images = random_image(2, 8, 8, 3)
    at_once = restorer.restore_fn(restorer.params, images)
    one_by_one = jnp.stack([restorer.restore_fn(restorer.params, i[None])[0] for i in images])
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-6)
    graphdef, _ = initialize(tiny_config.model, seed=0)
    restore = make_restore_fn(graphdef)
    sensitivity = jax.grad(lambda x: restore(restorer.params, x)[0, 4, 4, 0])(images)
    assert np.isfinite(sensitivity).all()
    assert np.abs(sensitivity[0]).max() > 0


def test_many_sizes_share_few_compilations(restorer):
    sizes = [(8 + i, 30 - i) for i in range(10)]
    restorer.plan_sizes(sizes, max_compilations=2)
    for size in sizes:
        assert restorer(random_image(*size, 3)).shape == (*size, 3)
    assert restorer.restore_fn.count_programs() <= 2


SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 4))
@settings(max_examples=100)
def test_a_plan_holds_every_image_in_few_sizes(sizes, max_sizes):
    plan = plan_sizes(sizes, max_sizes)
    assert set(plan) == set(sizes)
    assert len(set(plan.values())) <= max_sizes
    assert all(p[0] >= s[0] and p[1] >= s[1] for s, p in plan.items())
    if len(set(sizes)) <= max_sizes:
        assert all(planned == size for size, planned in plan.items())


def test_a_plan_wastes_little():
    sizes = [(100, 100)] * 50 + [(100, 104), (400, 300), (396, 300)]
    plan = plan_sizes(sizes, 2)
    assert plan == {
        (100, 100): (100, 104),
        (100, 104): (100, 104),
        (400, 300): (400, 300),
        (396, 300): (400, 300),
    }
