import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.inference.canvas import Canvas, RestorationError
from deblur_jax.inference.tiles import TileRestorer


@given(
    st.sampled_from([(), (1,), (2,), (3,), (4,)]),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 2),
)
def test_tiles_see_the_image_as_it_was(channels, dtype, height, width, overlap):
    """With a blur as the network: tiles have the result of the whole image."""
    rng = np.random.default_rng(0)
    image = (rng.random((height, width, *channels)) * 255).astype(dtype)
    if dtype == np.float32:
        image /= 255

    def blur(part):
        return np.pad(part, ((1, 1), (1, 1), (0, 0)), "edge")[:-2, 1:-1] * 0.5 + part * 0.5

    shares = []
    in_parts, whole = Canvas(image.copy(), 4), Canvas(image.copy(), 4)
    TileRestorer(4, 1, 32, 4 * (overlap + 1))(blur, in_parts, shares.append)
    everything = slice(0, whole.size[0]), slice(0, whole.size[1])
    whole.write(*everything, blur(whole.read(*everything)))
    np.testing.assert_array_equal(in_parts.finish(), whole.finish())
    assert sum(shares) == pytest.approx(1.0)
    if channels in ((2,), (4,)):
        np.testing.assert_array_equal(in_parts.finish()[..., -1], image[..., -1])


def test_a_part_is_replaced_when_no_later_one_can_see_it():
    image = np.zeros((64, 8), np.uint8)
    canvas = Canvas(image, 1)
    columns = slice(0, 8)
    canvas.write(slice(0, 30), columns, np.ones((30, 8, 3), np.float32))
    assert not canvas.read(slice(20, 60), columns).any()
    assert not image.any()
    canvas.read(slice(30, 60), columns)
    assert image[:30].all()
    assert not image[30:].any()


def test_numbers_that_are_not_finite_are_no_image():
    canvas = Canvas(np.zeros((4, 4, 3), np.uint8), 1)
    with pytest.raises(RestorationError, match="not finite"):
        canvas.write(slice(0, 4), slice(0, 4), np.full((4, 4, 3), np.nan, np.float32))
