import json
import os

import numpy as np
import pytest
from PIL import Image

from deblur_jax.commands.targets import TargetError, plan_targets
from deblur_jax.errors import ConfigError
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import initialize
from deblur_jax.weights.folder import save_weights
from tests.commands import run_command, run_script


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


def test_a_dtype_may_be_named(photos, tiny_weights, tmp_path):
    words = ["--weights", tiny_weights, "--dtype", "bfloat16"]
    out = tmp_path / "out"
    result = run_command("restore", photos / "colour.jpg", *words, "--out", out)
    assert result.returncode == 0, result.stderr
    named, usual = Restorer.load(tiny_weights, dtype="bfloat16"), Restorer.load(tiny_weights)
    image = pixels(photos / "colour.jpg")
    np.testing.assert_array_equal(pixels(out / "colour.png"), named(image))
    difference = np.abs(named(image / np.float32(255)) - usual(image / np.float32(255))).max()
    assert 1e-6 < difference < 0.02
    data = ["--data", "synthetic:pan", "--length", "1", "--size", "32"]
    words += [*data, "--out", tmp_path / "eval"]
    result = run_command("evaluate", *words, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="dtype can't be 'float16'"):
        Restorer.load(tiny_weights, dtype="float16")


def test_a_page_shows_every_image_before_and_after(photos, tiny_weights, tmp_path):
    out = tmp_path / "out"
    assert run(tiny_weights, out, photos / "grey.png", photos / "deep.png").returncode == 0
    (photos / "broken.jpg").write_bytes(b"not an image")
    result = run(tiny_weights, out, photos, "--compare", "--skip_existing")
    assert result.returncode == 1
    assert f"before and after: {out / 'compare.html'}" in result.stdout
    page = (out / "compare.html").read_text()
    assert page.count('class="slider"') == 4  # two of them had been restored before
    assert "not shown: " in page
    assert f"weights: {tiny_weights}" in page
    for name in ("colour.png", "grey.png", "trip/alpha.png", "deep.png"):
        assert f'href="{name}"' in page
        for when, source in (("before", photos / name), ("after", out / name)):
            assert f"compare/{name}.{when}.jpg" in page
            if name == "grey.png":
                shown = pixels(out / f"compare/{name}.{when}.jpg").astype(int)
                assert np.abs(shown - pixels(source)).mean() < 12


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
    return {str(s): str(t) for s, t in plan_targets([str(i) for i in inputs], out).jobs}


def test_names_that_differ_in_capitals_only_keep_apart(tmp_path):
    for name in ("a.jpg", "A.JPG", "a_jpg.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    targets = plan([tmp_path], tmp_path / "out")
    names = [os.path.basename(target) for target in targets.values()]
    assert len({name.casefold() for name in names}) == 3
    assert targets[str(tmp_path / "a_jpg.png")] == str(tmp_path / "out/a_jpg.png")


def test_long_names_get_shorter_ones(tmp_path):
    name = 251 * "n" + ".jpg"
    Image.new("RGB", (4, 4)).save(tmp_path / name, "jpeg")
    (target,) = plan([tmp_path], tmp_path / "out").values()
    assert len(os.path.basename(target)) <= 255
    long = 250 * "n"
    assert long[:200] in target


@pytest.mark.parametrize(
    ("form", "suffixes"),
    [
        (None, [".png", ".png", ".tif", ".png"]),
        ("jpeg", [".jpg", ".jpg", ".jpg", ".jpg"]),
        ("same", [".jpeg", ".png", ".tif", ".webp"]),
    ],
)
def test_the_format_names_the_files(form, suffixes, tmp_path):
    for name in ("a.jpeg", "b.gif", "c.tif", "d.webp"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    jobs = plan_targets([str(tmp_path)], tmp_path / "out", form=form).jobs
    assert [job.target.suffix for job in jobs] == suffixes


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
    with pytest.raises(TargetError, match="would both become"):
        plan([tmp_path / "one", tmp_path / "two"], tmp_path / "out")


def test_a_image_named_twice_is_restored_once(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert len(plan([tmp_path, tmp_path / "a.png"], tmp_path / "out")) == 1


@pytest.mark.slow
def test_the_output_may_lie_in_the_input_and_a_stop_costs_nothing(photos, tiny_weights):
    out = photos / "restored"
    for count, more in ((4, ""), (0, "; 4 were there already")):
        words = ["restore", photos, "--weights", tiny_weights, "--out", out, "--skip_existing"]
        result = run_command(*words)
        assert result.returncode == 0, result.stderr
        assert f"{count} of {count} images restored" in result.stdout
        assert result.stdout.endswith(f"{more}\n")
    (out / "grey.png").unlink()
    assert "1 of 1 images" in run_command(*words).stdout


def test_formats_with_loss_say_what_they_lose(photos, tiny_weights, tmp_path):
    out = tmp_path / "out"
    options = ("--weights", tiny_weights, "--out", out, "--format", "jpeg", "--quality", "80")
    result = run_command("restore", photos, *options)
    assert result.returncode == 0, result.stderr
    assert "deep.png has more than 8 bits: jpg keeps 8" in result.stderr
    assert "alpha.png has alpha: jpg does not keep it" in result.stderr
    restored = Restorer.load(tiny_weights)(pixels(photos / "grey.png")).astype(float)
    assert np.abs(pixels(out / "grey.jpg") - restored).mean() < 12


def test_an_image_that_is_too_large_names_the_flag(tiny_weights, tmp_path):
    Image.new("1", (2000, 1001)).save(tmp_path / "large.png")
    Image.new("L", (20, 16)).save(tmp_path / "small.png")
    out = ("--weights", tiny_weights, "--out", tmp_path / "out", "--max_megapixels", "2")
    result = run_command("restore", tmp_path / "large.png", tmp_path / "small.png", *out)
    assert result.returncode == 1
    assert (
        "large.png: can't be read: it has 2 megapixels, more than 2: if that is right, give "
        "--max_megapixels 3" in result.stderr
    )
    assert (tmp_path / "out/small.png").exists()


@pytest.mark.slow
def test_all_devices_share_a_folder(photos, tiny_weights, tmp_path, monkeypatch):
    one, three = tmp_path / "one", tmp_path / "three"
    assert run(tiny_weights, one, photos).returncode == 0
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 3); "
        "from deblur_jax.cli import main; main()"
    )
    words = ["restore", photos, "--weights", tiny_weights, "--out", three]
    result = run_script("-c", code, *words)
    assert result.returncode == 0, result.stderr
    for file in one.rglob("*.png"):
        np.testing.assert_array_equal(pixels(three / file.relative_to(one)), pixels(file))


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
