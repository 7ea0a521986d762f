import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from deblur_jax.metrics import psnr


@given(st.integers(1, 9), st.integers(1, 9))
def test_psnr_is_that_of_scikit_image(h, w):
    rng = np.random.default_rng(h * 10 + w)
    restored, sharp = rng.random((2, h, w, 3), np.float32)
    expected = peak_signal_noise_ratio(sharp, restored, data_range=1)
    assert float(psnr(restored, sharp)) == pytest.approx(expected, abs=1e-4)


def test_the_restored_picture_is_clamped_and_not_rounded():
    sharp = np.full((4, 4, 3), 1.0, np.float32)
    assert np.isinf(psnr(sharp + 0.5, sharp))
    assert float(psnr(sharp - 0.001, sharp)) == pytest.approx(60, abs=0.01)


def test_each_picture_of_a_batch_has_its_own():
    pictures = np.random.default_rng(0).random((2, 3, 4, 5, 3), np.float32)
    scores = psnr(*pictures)
    assert scores.shape == (3,)
    assert float(scores[1]) == pytest.approx(float(psnr(pictures[0, 1], pictures[1, 1])), abs=1e-5)
