import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax import Restorer
from deblur_jax.errors import ConfigError
from deblur_jax.inference.tiles import even_window, spans, tiles
from deblur_jax.models import build_model, initialize, model_config


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 30))
def test_spans_give_every_pixel_once_away_from_borders(length, between, overlap):
    window = between + 2 * overlap
    covered = []
    for span in spans(length, window, overlap):
        covered += range(span.first, span.end)
        end = min(span.start + window, length)
        assert 0 <= span.start <= span.first < span.end <= end
        assert span.start == 0 or span.first - span.start >= overlap
        assert end == length or end - span.end >= overlap
    assert covered == list(range(length))


def test_tiles_put_an_image_together_again():
    image = np.arange(50 * 70).reshape(50, 70)
    again = np.zeros_like(image)
    shapes = set()
    for tile in tiles(image.shape, (24, 40), 4):
        window = image[tile.window]
        shapes.add(window.shape)
        again[tile.target] = window[tile.kept]
    np.testing.assert_array_equal(again, image)
    assert shapes == {(24, 40)}


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 5), st.sampled_from([1, 2, 8]))
def test_even_windows_are_as_few_and_no_larger(length, between, overlap, multiple):
    length, overlap = length * multiple, overlap * multiple
    largest = between * multiple + 2 * overlap
    window = even_window(length, largest, overlap, multiple)
    assert window <= min(largest, length)
    assert window % multiple == 0
    count = len(spans(length, window, overlap))
    assert count == len(spans(length, largest, overlap))
    if count > 1 and window - multiple > 2 * overlap:
        assert len(spans(length, window - multiple, overlap)) > count


@pytest.fixture(scope="module")
def network():
    config = model_config("mimo_unet", base_channels=2, num_res_blocks=1)
    _, params = initialize(config, seed=0)
    return config, params


@pytest.mark.parametrize("size", [(200, 140), (60, 260), (180, 90)])
def test_with_the_exact_overlap_tiles_change_nothing(network, size):
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    whole, tiled = Restorer(*network, tile=0), Restorer(*network, tile=128)
    assert np.abs(whole(image) - image).max() > 0.01
    np.testing.assert_allclose(tiled(image), whole(image), atol=1e-6)


def test_all_tiles_share_one_program_beside_the_planned_sizes(network):
    restorer = Restorer(*network, tile=112)
    sizes = [(190 + i, 220 - i) for i in range(5)]
    restorer.plan_sizes(sizes, 1)
    for size in sizes:
        assert restorer(np.zeros((*size, 3), np.float32)).shape == (*size, 3)
    assert restorer.num_programs == 1


def test_tiles_of_images_planned_together_give_what_they_give_alone(network):
    """A low and a narrow one: each is smaller than what the other needs."""
    planned, alone = (Restorer(*network, tile=112) for _ in range(2))
    low = np.random.default_rng(0).random((88, 190, 3), np.float32)
    planned.plan_sizes([(88, 190), (190, 88)], 1)
    for image in (low, low.swapaxes(0, 1)):
        np.testing.assert_allclose(planned(image), alone(image), atol=1e-5)
    assert planned.num_programs == 1


@pytest.mark.parametrize("num_res_blocks", [1, 2])
def test_nothing_beyond_the_receptive_radius_has_influence(num_res_blocks):
    """And something at it has, so that it is no larger than it must be, but for alignment."""
    config = model_config("mimo_unet", base_channels=2, num_res_blocks=num_res_blocks)
    model = build_model(config, rngs=nnx.Rngs(0))
    radius = model.receptive_radius
    length = 4 * (radius // 2)
    image = np.random.default_rng(0).random((1, 4, length, 3), np.float32)
    reach = 0
    influence_on = jax.jit(jax.grad(lambda x, column: (model(x)[0][0, 2, column] ** 2).sum()))
    for centre in range(length // 2, length // 2 + 4):  # of every phase of the coarsest scale
        influence = influence_on(image, centre)
        seen = np.flatnonzero(np.abs(influence).sum((0, 1, 3)))
        reach = max(reach, centre - seen[0], seen[-1] - centre)
    assert radius - 8 <= reach <= radius


def test_tiles_without_a_middle_are_refused(network):
    with pytest.raises(
        ConfigError, match="tiles of 40 pixels leave nothing between overlaps of 48"
    ):
        Restorer(*network, tile=40)
