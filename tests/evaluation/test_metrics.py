import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deblur_jax.evaluation import metrics
from deblur_jax.evaluation.alignment import AlignmentError
from deblur_jax.evaluation.metrics import MetricError, psnr, score
from tests.tpu import topology_mesh

GAUSSIAN = {"gaussian_weights": True, "use_sample_covariance": False}


def images(height=40, width=52):
    """A photograph, and the same blurred and noisy, partly out of range; not rounded."""
    sharp = data.chelsea()[100 : 100 + height, 120 : 120 + width].astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(0, 0.1, sharp.shape)
    blurred = scipy.ndimage.gaussian_filter(sharp, (1, 2, 0))
    return (blurred + noise).astype(np.float32), sharp


def rounded(image):
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_psnr_is_that_of_scikit_image(size):
    restored, sharp = np.random.default_rng(0).random((2, *size, 3), np.float32)
    expected = peak_signal_noise_ratio(sharp, restored, data_range=1)
    assert float(psnr(restored, sharp)) == pytest.approx(expected, abs=1e-4)
    assert score(restored, sharp, "float").psnr == pytest.approx(expected, abs=1e-4)
    expected = peak_signal_noise_ratio(rounded(sharp), rounded(restored))
    assert score(restored, sharp, "matlab").psnr == pytest.approx(expected, abs=1e-4)


def test_mode_float_clamps_and_does_not_round():
    sharp = np.full((12, 12, 3), 1.0, np.float32)
    assert score(sharp + 0.5, sharp, "float") == (np.inf, 1.0, True)
    assert score(sharp - 0.001, sharp, "float").psnr == pytest.approx(60, abs=0.01)
    assert score(sharp - 0.001, sharp, "matlab").psnr == np.inf


def test_each_image_of_a_batch_has_its_own_psnr():
    batch = np.random.default_rng(0).random((2, 3, 4, 5, 3), np.float32)
    scores = psnr(*batch)
    assert scores.shape == (3,)
    assert float(scores[1]) == pytest.approx(float(psnr(batch[0, 1], batch[1, 1])), abs=1e-5)


def slow_volume_ssim(x, y, data_range):
    """Straight from the definition: a full 11x11x11 kernel, every axis padded by repetition."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = np.einsum("i,j,k->ijk", line, line, line)
    kernel /= kernel.sum()

    def mean(values):
        return scipy.ndimage.convolve(values, kernel, mode="nearest")

    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ssim.mean()


@pytest.mark.parametrize("size", [(40, 52), (5, 3)])
def test_mode_matlab_is_a_gaussian_over_the_volume(size):
    restored, sharp = images(*size)
    expected = slow_volume_ssim(rounded(restored), rounded(sharp), 255)
    assert score(restored, sharp, "matlab").ssim == pytest.approx(expected, abs=1e-5)
    expected = slow_volume_ssim(np.clip(restored, 0, 1), sharp, 1.0)
    assert score(restored, sharp, "float").ssim == pytest.approx(expected, abs=1e-5)


@settings(max_examples=5)
@given(st.integers(11, 40), st.integers(11, 40))
def test_mode_skimage_is_scikit_image(height, width):
    restored, sharp = images(height, width)
    expected = structural_similarity(
        rounded(sharp), rounded(restored), channel_axis=-1, data_range=255, **GAUSSIAN
    )
    assert score(restored, sharp, "skimage").ssim == pytest.approx(expected, abs=1e-5)


def flat_images():
    """Where variances vanish: E[x^2] - E[x]^2 has no digits to lose."""
    sharp = np.full((64, 64, 3), 250 / 255, np.float32)
    sharp[::2] = 251 / 255
    return sharp[::-1].copy(), sharp


@pytest.mark.parametrize("mode", ["matlab", "skimage"])
def test_flat_images_keep_their_digits(mode):
    restored, sharp = flat_images()
    if mode == "matlab":
        expected = slow_volume_ssim(rounded(restored), rounded(sharp), 255)
    else:
        expected = structural_similarity(
            rounded(sharp), rounded(restored), channel_axis=-1, data_range=255, **GAUSSIAN
        )
    assert score(restored, sharp, mode).ssim == pytest.approx(expected, abs=1e-5)


def realblur_by_its_authors_steps(restored, sharp):
    """With OpenCV and scikit-image alone."""
    x, z = (rounded(image).astype(np.float32) / 255 for image in (sharp, restored))
    z = z * (np.sum(x * z) / np.sum(z * z))
    grey_x, grey_z = (cv2.cvtColor(a, cv2.COLOR_RGB2GRAY) for a in (x, z))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, warp = cv2.findTransformECC(
        grey_x, grey_z, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, stop, None, 5
    )
    size = (x.shape[1], x.shape[0])
    flags = cv2.INTER_CUBIC + cv2.WARP_INVERSE_MAP
    z = cv2.warpPerspective(z, warp, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
    flags = cv2.INTER_NEAREST + cv2.WARP_INVERSE_MAP
    ones = cv2.warpPerspective(np.ones_like(x), warp, size, flags=flags, borderValue=0)
    x, z = x * ones, z * ones
    expected_psnr = 10 * np.log10(1 / (np.sum((x - z) ** 2) / np.sum(ones)))
    _, ssim = structural_similarity(x, z, channel_axis=-1, data_range=1.0, full=True, **GAUSSIAN)
    inside = (slice(5, -5), slice(5, -5))
    sums = (ssim * ones)[inside].sum((0, 1)) / ones[inside].sum((0, 1))
    return expected_psnr, sums.mean()


@pytest.mark.parametrize("seed", range(3))
def test_mode_realblur_undoes_a_homography(seed):
    _, sharp = images(160, 200)
    rng = np.random.default_rng(seed)
    sharp = scipy.ndimage.gaussian_filter(sharp, (1, 1, 0))
    homography = np.eye(3) + rng.normal(0, 1, (3, 3)) * [
        [4e-3, 4e-3, 2],
        [4e-3, 4e-3, 2],
        [1e-5] * 3,
    ]
    noisy = (sharp + rng.normal(0, 0.02, sharp.shape)).astype(np.float32)
    moved = cv2.warpPerspective(
        noisy, homography, (200, 160), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    actual = score(0.9 * moved, sharp, "realblur")
    assert actual.aligned
    expected = realblur_by_its_authors_steps(0.9 * moved, sharp)
    assert actual.psnr == pytest.approx(expected[0], abs=1e-2)
    assert actual.ssim == pytest.approx(expected[1], abs=1e-4)
    assert actual.psnr > score(0.9 * moved, sharp, "skimage").psnr + 5


def test_where_nothing_aligns_the_image_is_compared_as_it_is():
    sharp = images()[1]
    result = score(np.zeros_like(sharp), sharp, "realblur")
    assert not result.aligned
    assert result.psnr == pytest.approx(peak_signal_noise_ratio(sharp, 0 * sharp), abs=1e-3)


def test_opencv_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(AlignmentError, match="pip install opencv-python-headless"):
        score(*images(), "realblur")


@pytest.mark.parametrize(
    ("restored", "mode", "message"),
    [
        (np.zeros((12, 13, 3)), "float", "expected"),
        (np.zeros((12, 12, 3)), "ssim", "unknown mode 'ssim'"),
    ],
)
def test_what_cannot_be_compared_is_refused(restored, mode, message):
    with pytest.raises(MetricError, match=message):
        score(restored, np.zeros((12, 12, 3)), mode)


@pytest.mark.parametrize("mode", ["skimage", "realblur"])
def test_a_window_needs_its_place(mode):
    with pytest.raises(MetricError, match="at least 11x11, got 12x10"):
        score(np.zeros((10, 12, 3)), np.zeros((10, 12, 3)), mode)


def test_no_tpu_rounds_to_bfloat16():
    sharding = jax.sharding.SingleDeviceSharding(topology_mesh("v5e:2x2").devices[0])

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    images = array(64, 96, 3), array(64, 96, 3)
    for lowered in (
        metrics._psnr_and_origin.lower(*images, array()),
        metrics._sum_of_ssim.lower(*images, array(54, 96, 1), array(), volume=True),
        metrics._sum_of_ssim.lower(*images, array(54, 86, 1), array(), volume=False),
    ):
        program = lowered.compile().as_text()
        assert "f32[" in program
        assert "bf16" not in program


@pytest.mark.parametrize("mode", ["float", "matlab", "skimage"])
@pytest.mark.parametrize("height", [11, 40, 61])
def test_bands_of_a_large_image_change_nothing(mode, height, monkeypatch):
    rng = np.random.default_rng(0)
    sharp = rng.random((height, 25, 3), np.float32)
    restored = (sharp + 0.1 * rng.standard_normal(sharp.shape)).astype(np.float32)
    whole = score(restored, sharp, mode)
    monkeypatch.setattr(metrics, "_PIXELS_AT_ONCE", 200)
    in_bands = score(restored, sharp, mode)
    assert in_bands.psnr == whole.psnr
    assert in_bands.ssim == pytest.approx(whole.ssim, rel=1e-6)


def test_bands_of_a_large_image_change_nothing_on_a_mask(monkeypatch):
    """The image is moved by 14 pixels, so that whole bands are outside."""
    _, sharp = images(80, 60)
    sharp = scipy.ndimage.gaussian_filter(sharp, (2, 2, 0))
    moved = np.roll(sharp, 14, axis=0)
    whole = score(0.9 * moved, sharp, "realblur")
    assert whole.aligned
    monkeypatch.setattr(metrics, "_PIXELS_AT_ONCE", 200)
    in_bands = score(0.9 * moved, sharp, "realblur")
    assert in_bands.psnr == whole.psnr
    assert in_bands.ssim == pytest.approx(whole.ssim, rel=1e-6)
