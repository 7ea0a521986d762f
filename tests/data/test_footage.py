import numpy as np
import pytest
from PIL import Image

from deblur_jax.data.exposure import GAMMA
from deblur_jax.data.footage import (
    Clip,
    FootageError,
    FootageScenes,
    clips_in,
    is_footage,
    survey_clip,
)
from tests.photographs import write_photograph

cv2 = pytest.importorskip("cv2", reason="OpenCV, of the extra video, is not installed")
STEP = 4


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two sequences of a view that moves by four pixels a frame, and one in which nothing moves."""
    folder = tmp_path_factory.mktemp("frames")
    photograph = write_photograph(folder.parent / "whole.png", (120, 400))
    for sequence, start in (("a", 0), ("b", 100)):
        (folder / sequence).mkdir()
        for i in range(15):
            view = photograph[:, start + STEP * i : start + STEP * i + 160]
            Image.fromarray(view).save(folder / sequence / f"{100 + i:06d}.png")
    (folder / "still").mkdir()
    for i in range(8):
        Image.fromarray(photograph[:, :160]).save(folder / "still" / f"{i:06d}.png")
    return folder


def test_sequences_are_found_and_gaps_end_them(frames, tmp_path):
    clips, refused = clips_in(frames)
    assert [clip.length for clip in clips] == [15, 15, 8]
    assert not refused
    for i in (1, 2, 3, 7, 8, 9, 10):
        write_photograph(tmp_path / f"f{i}.png", (24, 30))
    write_photograph(tmp_path / "title.png", (24, 30))
    clips, refused = clips_in(tmp_path)
    assert [clip.length for clip in clips] == [3, 4]
    assert "title.png: its name has no number" in refused[0]
    assert not is_footage(tmp_path)
    assert is_footage(frames)


def test_what_can_not_serve_is_named(frames):
    clips, _ = clips_in(frames)
    assert survey_clip(clips[0], 7) == clips[0]
    assert "nothing moves in its sequence" in survey_clip(clips[2], 7)
    assert "8 frames, of 9 that a pair needs" in survey_clip(clips[2], 9)


@pytest.mark.parametrize("size", [64, None])
def test_a_pair_is_the_mean_of_an_odd_number_of_frames(frames, size):
    clips = clips_in(frames)[0][:1]
    scenes = FootageScenes(clips, size, (7, 7), interpolate=False, seed=0)
    whole = [clips[0].frame(i).astype(np.float64) / 255 for i in range(15)]
    for number in range(4):
        pair = scenes(number)
        again = scenes(number)
        np.testing.assert_array_equal(pair.blurred, again.blurred)
        if size is None:
            (first,) = [i for i in range(9) if (whole[i + 3] * 255 == pair.sharp).all()]
            run = np.stack(whole[first : first + 7])
            means = [run.mean(0), (run**GAMMA).mean(0) ** (1 / GAMMA)]
            assert min(np.abs(mean * 255 - pair.blurred).max() for mean in means) < 0.51
        else:
            assert pair.sharp.shape == pair.blurred.shape == (64, 64, 3)


def test_interpolated_frames_are_between(frames):
    """With gaps of four pixels, the mean of 7 frames has copies; the filled one is smooth."""
    clips = clips_in(frames)[0][:1]
    pairs = {
        kind: FootageScenes(clips, None, (7, 7), interpolate=kind, seed=0)(0)
        for kind in (False, True)
    }
    np.testing.assert_array_equal(pairs[True].sharp, pairs[False].sharp)
    assert 15 < pairs[True].displacement < 35
    inside = (slice(10, -10), slice(30, -30))
    steps = {
        kind: np.abs(np.diff(pair.blurred[inside].astype(float), axis=1)).mean()
        for kind, pair in pairs.items()
    }
    assert steps[True] < 0.9 * steps[False]


def test_frames_smaller_than_a_pair_are_named(frames):
    clips = clips_in(frames)[0][:1]
    with pytest.raises(FootageError, match=r"frames of 160x120 are smaller than --size 128"):
        FootageScenes(clips, 128, (7, 7), interpolate=False, seed=0)(0)


def test_a_video_is_read_frame_by_frame(frames, tmp_path):
    path = str(tmp_path / "clip.avi")
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 240, (160, 120))
    for i in range(15):
        video.write(np.asarray(Image.open(frames / "a" / f"{100 + i:06d}.png"))[..., ::-1].copy())
    video.release()
    assert is_footage(tmp_path / "clip.avi")
    (clip,), refused = clips_in(tmp_path / "clip.avi")
    assert (clip.length, refused) == (15, [])
    for index in (7, 3, 4, 14, 0):
        stored = np.asarray(Image.open(frames / "a" / f"{100 + index:06d}.png")).astype(int)
        difference = np.abs(clip.frame(index).astype(int) - stored).mean()
        assert difference < 12
    pair = FootageScenes([clip], 64, (7, 13), interpolate=True, seed=0)(0)
    assert pair.sharp.shape == (64, 64, 3)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_damaged_video_is_named(tmp_path, content, capfd):
    (tmp_path / "clip.mp4").write_bytes(content)
    clips, refused = clips_in(tmp_path / "clip.mp4")
    assert clips == []
    assert "clip.mp4: not a video that can be read, or damaged" in refused[0]
    assert "clip.mp4" in str(survey_clip(Clip((str(tmp_path / "clip.mp4"),), 9), 7))
