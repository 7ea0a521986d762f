import numpy as np
import pytest

from deblur_jax.data import scenes
from deblur_jax.data.layouts import PairError
from deblur_jax.data.synthetic import FAMILIES, SPLITS, SyntheticPairs


def pairs(family="dynamic", split="train", *, length=8, size=96, seed=0):
    return SyntheticPairs(family, split, length=length, size=size, seed=seed)


def psnr(pair):
    error = pair["blurred"] / 255.0 - pair["sharp"] / 255.0
    return -10 * np.log10(np.mean(error**2))


@pytest.mark.parametrize("family", FAMILIES)
def test_item_i_is_a_function_of_seed_and_i(family):
    source = pairs(family)
    later_first = [source[i] for i in (5, 2)][::-1]
    again = [pairs(family, length=100)[i] for i in (2, 5)]
    for a, b in zip(later_first, again, strict=True):
        np.testing.assert_array_equal(a["blurred"], b["blurred"])
        np.testing.assert_array_equal(a["sharp"], b["sharp"])
    other = pairs(family, seed=1)
    assert not np.array_equal(source[2]["sharp"], other[2]["sharp"])
    assert not np.array_equal(source[2]["sharp"], source[5]["sharp"])


def test_no_scene_is_in_two_splits():
    for materials in (scenes.PHOTOGRAPHS, scenes.SURFACES):
        names = [name for split in SPLITS for name in materials[split]]
        assert len(names) == len(set(names))
    of_motorcycle = [s for s in SPLITS if any("motorcycle" in n for n in scenes.PHOTOGRAPHS[s])]
    assert of_motorcycle == ["train"]


@pytest.mark.slow
def test_strength_is_like_gopros():
    """Mean near 24 dB, most between 20 and 30."""
    values = [psnr(pair) for split in SPLITS for pair in pairs(split=split, length=10, size=256)]
    assert np.mean(values) == pytest.approx(24, abs=1.5)
    assert np.mean([18 < value < 32 for value in values]) > 0.9


def test_pan_is_one_motion_for_all():
    """The blurred image is the mean of shifted sharp ones, the same shifts for every item."""
    for pair in pairs("pan", "test", length=3):
        sharp = pair["sharp"].astype(float)
        shifts = [(round(4 * t), round(9 * t)) for t in np.linspace(-0.5, 0.5, 25)]
        average = np.mean([np.roll(sharp, shift, (0, 1)) for shift in shifts], axis=0)
        error = (average - pair["blurred"])[8:-8, 8:-8] / 255
        assert -10 * np.log10(np.mean(error**2)) > 35


def test_dynamic_objects_move_against_the_background():
    """Somewhere an object covers in part of the exposure what it leaves free in another."""
    with_objects = pairs("dynamic", size=128)
    layers = [with_objects.layers(i)[0] for i in range(4)]
    assert all(len(scene) > 1 for scene in layers)
    background, nearest = layers[0][0], layers[0][-1]
    assert not np.allclose(np.diff(background.poses, axis=0), np.diff(nearest.poses, axis=0))
    assert nearest.image.mode == "RGBA"


def test_the_camera_never_sees_beyond_the_background():
    source = pairs("shake", size=400, length=40)
    for index in range(len(source)):
        (background,), _ = source.layers(index)
        for pose in background.poses:
            corners = np.array([[x, y] for x in (0, 400) for y in (0, 400)]) - pose[:, 2]
            seen = np.linalg.solve(pose[:, :2], corners.T)
            assert seen.min() >= 0
            assert seen.max() <= background.image.width


@pytest.mark.parametrize("size", [64, 65])
def test_the_middle_subframe_is_not_resampled(size):
    for scene, _ in (pairs(size=size).layers(i) for i in range(8)):
        for layer in scene:
            middle = layer.poses[len(layer.poses) // 2]
            np.testing.assert_allclose(middle[:, :2], np.eye(2), atol=1e-9)
            np.testing.assert_allclose(middle[:, 2], np.round(middle[:, 2]), atol=1e-6)


@pytest.mark.parametrize("size", [31, 64])
def test_images_are_of_the_size_asked_for(size):
    pair = pairs(size=size)[0]
    for image in pair.values():
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8


def test_an_unknown_family_or_split_is_named():
    with pytest.raises(PairError, match="unknown family 'fast': choose from pan, shake, dynamic"):
        pairs("fast")
    with pytest.raises(PairError, match="unknown split 'all'"):
        pairs(split="all")
    with pytest.raises(IndexError):
        pairs()[8]
