import concurrent.futures
import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageCms

from deblur_jax import Restorer
from deblur_jax.inference.restorer import make_restore_fn
from deblur_jax.models import ComputeConfig, initialize, model_config


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
        (np.zeros((2, 2, 8, 8, 3), np.float32), "expected"),
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


NETWORKS = {
    "mimo_unet": model_config("mimo_unet", base_channels=2, num_res_blocks=1),
    "svrnn": model_config("svrnn", rnn_channels=2, guidance_channels=2),
    "svrnn, half-pixel resizing": model_config(
        "svrnn", rnn_channels=2, guidance_channels=2, resize="half_pixel"
    ),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mimo_unet", {}),
        pytest.param("svrnn", {}, marks=pytest.mark.slow),
        pytest.param("svrnn, half-pixel resizing", {}, marks=pytest.mark.slow),
        pytest.param("mimo_unet", {"ensemble": "dihedral8"}, marks=pytest.mark.slow),
        pytest.param(
            "mimo_unet", {"compute": ComputeConfig(backend="plain")}, marks=pytest.mark.slow
        ),
        pytest.param(
            "svrnn", {"compute": ComputeConfig(backend="gpu_interpreted")}, marks=pytest.mark.slow
        ),
    ],
)
def test_many_sizes_share_few_programs_and_change_no_image(name, options):
    _, params = initialize(NETWORKS[name], seed=0)
    rng = np.random.default_rng(1)  # biases that are not 0
    params = jax.tree.map(lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape), params)
    together, alone = (Restorer(NETWORKS[name], params, **options) for _ in range(2))
    sizes = [(8 + 9 * i, 50 - 11 * i) for i in range(4)]
    together.plan_sizes(sizes, max_compilations=2)
    for size in sizes:
        image = random_image(*size, 3)
        restored = together(image)
        assert np.abs(restored - image).max() > 0.01
        assert np.mean((restored > 0) & (restored < 1)) > 0.2
        np.testing.assert_allclose(restored, alone(image), atol=1e-5)
    assert together.num_programs <= 2


def test_a_network_that_does_not_mask_compiles_each_size(restorer):
    restorer._framed_fn = None  # as for a network that does not say computes_by_table
    sizes = [(8 + 4 * i, 30) for i in range(3)]
    restorer.plan_sizes(sizes, max_compilations=1)
    for size in sizes:
        assert restorer(random_image(*size, 3)).shape == (*size, 3)
    assert restorer.num_programs == 3


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_pillow_images_of_every_mode_are_taken_for_their_colours(mode, restorer):
    rgb = Image.fromarray(random_image(16, 20, 3, dtype=np.uint8))
    if mode == "LAB":
        spaces = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        image = ImageCms.profileToProfile(rgb, *spaces, outputMode="LAB")
    else:
        image = rgb.quantize(64) if mode == "P" else rgb.convert(mode)
    restored = restorer(image)
    shown = {"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA"}.get(mode, "RGB")
    assert restored.dtype == np.uint8
    assert restored.shape == np.asarray(rgb.convert(shown)).shape
    if mode not in ("LAB", "CMYK"):
        np.testing.assert_array_equal(restored, restorer(np.asarray(image.convert(shown))))


def test_files_and_batches_and_jax_arrays(restorer, tmp_path):
    images = random_image(2, 16, 20, 3, dtype=np.uint8)
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    one = restorer(images[0])
    np.testing.assert_array_equal(restorer(tmp_path / "image.png"), one)
    np.testing.assert_array_equal(restorer(str(tmp_path / "image.png")), one)
    np.testing.assert_array_equal(restorer(jnp.asarray(images[0])), one)
    np.testing.assert_array_equal(restorer(images), np.stack([one, restorer(images[1])]))
    assert restorer(images[0] / 255.0).dtype == np.float32


def test_floats_that_are_no_colours_are_refused(restorer):
    for image in (255 * random_image(8, 8, 3), random_image(8, 8, 3) - 1):
        with pytest.raises(
            ValueError, match=f"floats from .* to {image.max():.6g}: expected 0 to 1"
        ):
            restorer(image)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda restorer: pickle.loads(pickle.dumps(restorer))]
)
def test_a_copy_restores_the_same_on_the_same_device(tiny_weights, copied):
    device = jax.local_devices()[1]
    restorer = Restorer.load(tiny_weights, device=device, ensemble="rot4")
    image = np.random.default_rng(0).random((17, 22, 3), np.float32)
    other = copied(restorer)
    np.testing.assert_array_equal(other(image), restorer(image))
    assert (other.device, other.digest) == (device, restorer.digest)


def test_other_parameters_take_the_same_programs(tiny_weights):
    restorer = Restorer.load(tiny_weights)
    image = np.zeros((8, 8, 3), np.float32)
    restorer(image)
    other = restorer.with_params(jax.tree.map(lambda leaf: 2 * leaf, restorer.params))
    other(image)
    assert other.restore_fn is restorer.restore_fn
    assert restorer.restore_fn.count_programs() == 1


def test_a_copy_from_another_machine_says_where_it_is_now(tiny_weights):
    function, (kind, state) = Restorer.load(tiny_weights).__reduce__()
    with pytest.warns(UserWarning, match="a Restorer of device 3 of tpu is on .* now"):
        other = function(kind, {**state, "device": ("tpu", 3)})
    assert other.device == jax.local_devices()[0]


def test_programs_of_many_sizes_are_not_all_kept(tiny_weights, monkeypatch):
    monkeypatch.setattr("deblur_jax.inference.restorer._MOST_PROGRAMS", 2)
    restorer = Restorer.load(tiny_weights)
    sizes = [(8, 8), (8, 16), (16, 8), (8, 24)]
    images = [np.random.default_rng(0).random((*size, 3), np.float32) for size in sizes]
    first = [restorer(image) for image in images]
    assert restorer.restore_fn.count_programs() <= 2
    for image, expected in zip(images, first, strict=True):
        np.testing.assert_array_equal(restorer(image), expected)


def test_several_threads_may_call_it(tiny_weights):
    restorer = Restorer.load(tiny_weights)
    images = [
        np.random.default_rng(i).random((8, 8 * (1 + i % 3), 3), np.float32) for i in range(9)
    ]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        together = list(threads.map(restorer, images))
    for image, restored in zip(images, together, strict=True):
        np.testing.assert_array_equal(restored, restorer(image))


@pytest.mark.parametrize("size", [(9, 14), (40, 26)])
def test_devices_share_a_stack(tiny_weights, size):
    """The images are those of one device, bit for bit, tiles of large ones too."""
    restorer = Restorer.load(tiny_weights, tile=24, overlap=8)
    images = np.random.default_rng(0).integers(0, 256, (7, *size, 4), np.uint8)
    expected = restorer(images)
    np.testing.assert_array_equal(restorer(images, devices=jax.local_devices()[:3]), expected)
    assert expected.dtype == np.uint8
    other = restorer.with_params(jax.tree.map(lambda x: 2 * x, restorer.params))
    found = other(images, devices=jax.local_devices()[:3])
    np.testing.assert_array_equal(found, other(images))
    assert (found != expected).any()
