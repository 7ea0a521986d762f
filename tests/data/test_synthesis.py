import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deblur_jax.data.exposure import Layer, averaged
from deblur_jax.data.motion import Camera, Motion, Plane, moved, own_poses
from deblur_jax.data.photographs import (
    Photograph,
    detail,
    random_view,
    sharpness,
    survey,
    validation_share,
)
from deblur_jax.data.synthesis import PhotographScenes, Shutter
from tests.photographs import write_photograph

TIMES = np.linspace(-0.5, 0.5, 33)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        write_photograph(folder / f"{number}.png", seed=number)
    return [Photograph(str(folder / f"{number}.png"), 1.0) for number in range(3)]


def psnr(pair):
    difference = pair.blurred.astype(float) - pair.sharp.astype(float)
    return -10 * np.log10(np.mean(difference**2) / 255**2 + 1e-12)


def test_a_camera_stands_where_it_was_in_the_middle_of_the_exposure():
    camera = Camera(np.random.default_rng(0), 30.0, 256)
    for plane in (Plane(), Plane(0.5), Plane(1.0, (0.4, -0.3))):
        np.testing.assert_allclose(camera.poses(np.zeros(1), plane)[0], np.eye(3), atol=1e-12)


@pytest.mark.parametrize("displacement", [5.0, 20.0, 60.0])
def test_displacements_are_as_asked_for(displacement):
    middle = np.array([[128.0, 128.0]])
    lengths = []
    for seed in range(60):
        poses = Camera(np.random.default_rng(seed), displacement, 256).poses(TIMES, Plane())
        path = moved(poses, middle)[:, 0]
        lengths.append(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    assert 0.8 * displacement < np.mean(lengths) < 1.8 * displacement


def test_what_is_near_moves_more_where_the_camera_shifts():
    middle = np.array([[128.0, 128.0]])
    extents = dict.fromkeys((1.0, 0.5), 0.0)
    for seed in range(20):
        camera = Camera(np.random.default_rng(seed), 20.0, 256)
        for depth in extents:
            extents[depth] += np.ptp(
                moved(camera.poses(TIMES, Plane(depth)), middle)[:, 0], 0
            ).sum()
    assert 1.2 < extents[0.5] / extents[1.0] < 2.0


def test_a_tilted_plane_moves_more_where_it_is_nearer():
    """A shift of the camera moves a plane by T / depth, in focal lengths."""
    camera = Camera(np.random.default_rng(3), 20.0, 256)
    points = np.array([[0.0, 128.0], [256.0, 128.0]])
    for tilt, sign in ((0.8, 1), (-0.8, -1)):
        flat = moved(camera.poses(TIMES[-1:], Plane()), points)[0] - points
        tilted = moved(camera.poses(TIMES[-1:], Plane(tilt=(tilt, 0.0))), points)[0] - points
        more = np.linalg.norm(tilted, axis=1) - np.linalg.norm(flat, axis=1)
        assert sign * (more[1] - more[0]) > 0


def test_an_object_rotates_about_its_centre():
    centre = np.array([100.0, 60.0])
    poses = own_poses(np.random.default_rng(0), 25.0, centre)
    np.testing.assert_allclose(poses(np.zeros(1))[0], np.eye(3), atol=1e-12)
    maps = poses(TIMES)
    np.testing.assert_allclose(np.linalg.det(maps), 1.0)  # no zoom, no shear


@pytest.mark.parametrize(
    ("motion", "least", "greatest"),
    [(Motion(share_still=0.999), 0, 0), (Motion(10, 12, 0.999, 0.0), 10, 12), (Motion(), 0, 80)],
)
def test_the_distribution_can_be_set(motion, least, greatest):
    rng = np.random.default_rng(0)
    values = [motion.displacement(rng) for _ in range(200)]
    assert min(values[:20]) >= least
    assert max(values) <= greatest + 80 * (greatest == 0)
    assert np.median(values) <= greatest


def test_a_pair_is_a_function_of_seed_and_number(photographs):
    scenes = PhotographScenes(photographs, 64, Motion(), seed=5)
    first, again = scenes(3), PhotographScenes(photographs, 64, Motion(), seed=5)(3)
    np.testing.assert_array_equal(first.blurred, again.blurred)
    np.testing.assert_array_equal(first.sharp, again.sharp)
    assert (scenes(4).sharp != first.sharp).any()
    assert (PhotographScenes(photographs, 64, Motion(), seed=6)(3).sharp != first.sharp).any()
    assert first.blurred.shape == first.sharp.shape == (64, 64, 3)
    assert first.blurred.dtype == first.sharp.dtype == np.uint8


def test_larger_displacements_blur_more(photographs):
    def mean(typical):
        motion = Motion(typical, 80.0, 0.0, 0.0)
        return np.mean([psnr(PhotographScenes(photographs, 64, motion, 0)(i)) for i in range(8)])

    assert mean(24.0) < mean(8.0) < mean(2.0)


def test_in_frames_copies_of_an_edge_lie_side_by_side():
    """Between the copies of a line there is nothing of it; in one exposure it is smeared."""
    line = np.zeros((64, 64, 3), np.uint8)
    line[:, 31:33] = 255
    for share, least, most in ((1.0, 0.0, 0.1), (0.0, 0.7, 1.0)):
        shutter = Shutter(share, (7, 7))
        times, middle = shutter.times(np.random.default_rng(0), 40.0)
        poses = np.tile(np.eye(3)[:2], (len(times), 1, 1))
        poses[:, 0, 2] = 40.0 * times
        blurred, sharp = averaged(
            [Layer(Image.fromarray(line), poses)], 64, linear=False, middle=middle
        )
        along = blurred[32, 18:46, 0]
        assert least <= along.min() / along.max() <= most
        assert len(times) % 2 == 1
        assert times[len(times) // 2] == 0
        assert 0.9 < sharp[32, :, 0].sum() / line[32, :, 0].sum() * 255 < 1.1


@given(
    share=st.sampled_from([0.0, 1.0]),
    least=st.integers(3, 9),
    more=st.integers(1, 6),
    displacement=st.floats(0.0, 200.0),
)
def test_times_are_within_the_exposure_and_the_same_before_and_after_its_middle(
    share, least, more, displacement
):
    shutter = Shutter(share, (least, least + more))
    times, middle = shutter.times(np.random.default_rng(0), displacement)
    assert len(times) % 2 == middle % 2 == 1
    np.testing.assert_allclose(times, -times[::-1], atol=1e-12)
    assert np.abs(times).max() <= 0.5
    assert (np.diff(times) > 0).all()


def test_without_motion_a_pair_is_equal_but_for_what_the_camera_stores(photographs):
    scenes = PhotographScenes(photographs, 64, Motion(share_still=1.0, share_large=0.0), 0)
    pairs = [scenes(i) for i in range(12)]
    still = [pair for pair in pairs if pair.displacement == 0]
    assert still
    assert min(psnr(pair) for pair in still) > 30


def test_the_sharp_image_is_not_resampled(photographs):
    """The middle sub-frame holds pixels of the view as they are: as sharp as the photograph."""
    motion = Motion(20.0, 40.0, 0.0, 0.0)
    sharp = [PhotographScenes(photographs, 64, motion, 0)(i) for i in range(8)]
    grey = [np.asarray(Image.fromarray(p.sharp).convert("L"), np.float32) for p in sharp]
    blurred = [np.asarray(Image.fromarray(p.blurred).convert("L"), np.float32) for p in sharp]
    assert np.median([detail(g) for g in grey]) > 2 * np.median([detail(b) for b in blurred])


def test_highlights_are_clipped_after_averaging(photographs):
    scenes = PhotographScenes(photographs, 64, Motion(20.0, 40.0, 0.0, 0.0), 0)
    layers, _, _ = scenes._layers(np.random.default_rng(0))
    plain, _ = averaged(layers, 64, linear=True)
    bright, sharp = averaged(layers, 64, linear=True, highlights=3.0)
    assert bright.max() <= 1.0
    assert sharp.max() <= 1.0
    assert (bright >= plain - 1e-6).all()


def test_sharpness_tells_a_sharp_photograph_from_an_enlarged_one(photographs):
    image = Image.open(photographs[0].path).convert("L")
    enlarged = image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)
    assert sharpness(np.asarray(image, np.float32)) > 0.48
    assert sharpness(np.asarray(enlarged, np.float32)) < 0.45


def test_an_enlarged_photograph_is_reduced_until_it_is_sharp(photographs, tmp_path):
    image = Image.open(photographs[0].path)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(
        tmp_path / "enlarged.png"
    )
    assert survey(photographs[0].path).reduction == 1.0
    assert survey(str(tmp_path / "enlarged.png")).reduction < 1.0


def test_what_can_not_serve_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (200, 200), "red").save(tmp_path / "plain.png")
    assert "broken.png: not an image" in survey(str(tmp_path / "broken.png"))
    assert "plain.png: not sharp" in survey(str(tmp_path / "plain.png"))


def test_a_small_photograph_is_continued(tmp_path):
    write_photograph(tmp_path / "small.png", size=(80, 100))
    view = random_view(np.random.default_rng(0), Photograph(str(tmp_path / "small.png"), 1.0), 128)
    assert view.size == (128, 128)


def test_validation_takes_its_share_by_name():
    names = [f"{i}.jpg" for i in range(40)]
    kept = validation_share(names, names, 0.1)
    assert len(kept) == 4
    assert validation_share(names[::-1], names[::-1], 0.1) == kept
    assert not validation_share(names, names, 0.0)
    assert len(validation_share(names[:2], names[:2], 0.1)) == 1
    assert not validation_share(names[:1], names[:1], 0.1)
