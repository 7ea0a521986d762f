import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.images.files import StoredImage
from deblur_jax.images.metadata import Metadata
from deblur_jax.pages.comparison import Comparison
from deblur_jax.pages.images import preview
from deblur_jax.pages.template import link, number
from tests.browser import needs_browser, run_in_browser


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([None, 1, 2, 3, 4]),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.integers(1, 300),
)
def test_a_preview_is_small_in_8_bits_and_as_bright(height, width, channels, dtype, longest):
    shape = (height, width) if channels is None else (height, width, channels)
    largest = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    small = preview(StoredImage(np.full(shape, 0.4 * largest).astype(dtype)), longest)
    assert max(small.size) <= max(longest, 1)
    assert small.mode == ("RGB" if channels in (3, 4) else "L")
    assert abs(int(np.asarray(small).mean()) - 102) <= 1


def test_a_preview_shows_the_whole_image_and_keeps_its_profile():
    pixels = np.zeros((1000, 1400, 3), np.uint8)
    pixels[:500, :700] = 255
    small = preview(StoredImage(pixels, Metadata(icc_profile=b"profile")), 140)
    assert small.size == (140, 100)
    assert small.info["icc_profile"] == b"profile"
    assert np.asarray(small)[:45, :65].min() > 250
    assert np.asarray(small)[55:].max() < 5


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "1.00"), (float("inf"), "∞"), (float("nan"), "not a number"), (None, "not a number")],
)
def test_numbers_that_are_not_finite_are_words(value, words):
    assert number(value) == words


def test_links_hold_any_bytes():
    assert link("a b/\udce9#.png") == "a%20b/%E9%23.png"


@pytest.mark.slow
@needs_browser
def test_before_and_after_are_seen_in_a_browser(tmp_path):
    comparison = Comparison(tmp_path)
    image = StoredImage(np.full((90, 120, 3), 200, np.uint8))
    targets = [tmp_path / "b.png", tmp_path / "trip/ä #1.png"]
    for target in targets:
        for when in ("before", "after"):
            comparison.add(when, target, target.stem, image)
    page = comparison.write(targets, ["c.png: damaged <b>"], {"weights": "w"})
    loaded, names, failures = run_in_browser(
        page,
        """return [
          [...document.images].map(image => image.naturalWidth),
          [...document.querySelectorAll("h2")].map(heading => heading.innerText),
          [...document.querySelectorAll(".remark")].map(remark => remark.innerText)];""",
    )
    assert loaded == [120] * 4
    assert names == ["b", "ä #1"]
    assert failures == ["not shown: c.png: damaged <b>"]
