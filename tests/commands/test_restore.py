import numpy as np
import pytest
from PIL import Image

from deblur_jax.commands import restore
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import initialize
from deblur_jax.weights.folder import save_weights
from tests.commands import run_command


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (17, 23, 3), np.uint8)).save(folder / "colour.jpg")
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (9, 30, 4), np.uint8)).save(folder / "trip/alpha.png")
    Image.fromarray(rng.integers(0, 65536, (12, 8), np.uint16)).save(folder / "deep.png")
    return folder


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image)


def run(tiny_weights, out, *images):
    words = ["restore", *images, "--weights", tiny_weights, "--out", out]
    return run_command(*words)


def test_a_folder_of_all_kinds(photos, tiny_weights, tmp_path):
    out = tmp_path / "out"
    result = run(tiny_weights, out, photos)
    assert result.returncode == 0, result.stderr
    assert "4 of 4 images restored" in result.stdout
    restorer = Restorer.load(tiny_weights)
    for name in ("grey.png", "trip/alpha.png", "deep.png"):
        original, restored = pixels(photos / name), pixels(out / name)
        assert restored.dtype == original.dtype
        np.testing.assert_array_equal(restored, restorer(original))
    assert pixels(out / "colour.png").shape == (17, 23, 3)


def test_unreadable_files_are_named_and_the_rest_go_on(photos, tiny_weights, tmp_path):
    (photos / "broken.jpg").write_bytes(b"not an image")
    cut = (photos / "colour.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    result = run(tiny_weights, tmp_path / "out", photos, tmp_path / "missing.png")
    assert result.returncode == 1
    assert "4 of 7 images restored" in result.stdout
    for name in ("broken.jpg", "cut.jpg", "missing.png"):
        assert f"{name}: " in result.stderr
    assert result.stderr.splitlines()[-1] == "error: 3 of 7 images could not be restored"
    assert sorted(f.name for f in (tmp_path / "out").rglob("*.*")) == [
        "alpha.png",
        "colour.png",
        "deep.png",
        "grey.png",
    ]


def test_an_input_is_never_overwritten(photos, tiny_weights):
    before = (photos / "grey.png").read_bytes()
    result = run(tiny_weights, photos, photos)
    assert result.returncode == 1
    assert "is an input" in result.stderr
    assert "choose another --out" in result.stderr
    assert (photos / "grey.png").read_bytes() == before
    assert not (photos / "colour.png").exists(), "nothing is begun"


def test_nothing_to_restore_is_an_error(tmp_path, tiny_weights):
    result = run(tiny_weights, tmp_path / "out", tmp_path)
    assert result.returncode == 1
    assert "no images there" in result.stderr or "images could not" in result.stderr


def plan(inputs, out):
    return {str(s): str(t) for s, t in restore.plan_targets([str(i) for i in inputs], out)}


def test_same_stem_different_suffix_keep_apart(tmp_path):
    for name in ("a.jpg", "a.png", "b.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    targets = plan([tmp_path], tmp_path / "out")
    assert targets == {
        str(tmp_path / "a.jpg"): str(tmp_path / "out/a_jpg.png"),
        str(tmp_path / "a.png"): str(tmp_path / "out/a_png.png"),
        str(tmp_path / "b.tif"): str(tmp_path / "out/b.tif"),
    }


def test_one_name_from_two_folders_is_an_error(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "a.png")
    with pytest.raises(restore.RestoreError, match="would both become"):
        plan([tmp_path / "one", tmp_path / "two"], tmp_path / "out")


def test_a_image_named_twice_is_restored_once(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert len(plan([tmp_path, tmp_path / "a.png"], tmp_path / "out")) == 1


def test_weights_and_out_have_defaults(photos, tmp_path):
    where = tmp_path / "where"
    where.mkdir()
    result = run_command("restore", photos / "colour.jpg", "--dry_run", cwd=where)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{photos / 'colour.jpg'} -> restored/colour.png\n"
    assert list(where.iterdir()) == []
    result = run_command("restore", photos / "colour.jpg", cwd=where)
    assert result.returncode == 0, result.stderr
    assert pixels(where / "restored/colour.png").shape == (17, 23, 3)


def test_weights_of_a_narrow_family_say_so(photos, tiny_config, tmp_path):
    _, params = initialize(tiny_config.model, seed=0)
    weights = tmp_path / "weights"
    save_weights(weights, params, tiny_config.model, trained_on="synthetic:pan")
    result = run(weights, tmp_path / "out", photos / "grey.png")
    assert result.returncode == 0
    assert "note: these weights were trained on synthetic:pan and undo that kind" in result.stderr


def test_how_an_image_was_read_is_said_after_the_progress(tiny_weights, tmp_path):
    Image.new("CMYK", (20, 16)).save(tmp_path / "print.jpg")
    result = run(tiny_weights, tmp_path / "out", tmp_path / "print.jpg")
    assert result.returncode == 0, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"note: {tmp_path / 'print.jpg'} is CMYK without a profile")
