import concurrent.futures
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image

from deblur_jax.demo.page import DemoError, delete_older, gradio
from deblur_jax.demo.service import Service
from deblur_jax.errors import UserError
from deblur_jax.images.reading import read_image
from deblur_jax.inference.restorer import Restorer
from tests.commands import run_command


@pytest.fixture
def service(tiny_weights):
    return Service([str(tiny_weights)], max_megapixels=0.01)


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def restore(service, image, folder, **options):
    return service(
        image,
        folder,
        **{"weights": service.weights[0], "ensemble": None, "progress": lambda _: None, **options},
    )


def test_an_image_is_restored_as_by_the_library(service, image, tmp_path, tiny_weights):
    progress = []
    result = restore(service, image, tmp_path / "out", progress=progress.append)
    assert result.file == tmp_path / "out/street_restored.png"
    restored = read_image(result.file).pixels
    np.testing.assert_array_equal(
        restored, Restorer.load(tiny_weights)(np.asarray(Image.open(image)))
    )
    np.testing.assert_array_equal(np.asarray(result.before), np.asarray(Image.open(image)))
    np.testing.assert_array_equal(np.asarray(result.after), restored)
    assert result.words.startswith("44x30 pixels restored in ")
    assert progress[-1] == pytest.approx(1.0)


def test_an_ensemble_can_be_asked_for(service, image, tmp_path, tiny_weights):
    result = restore(service, image, tmp_path / "out", ensemble="rot4")
    expected = Restorer.load(tiny_weights, ensemble="rot4")(np.asarray(Image.open(image)))
    np.testing.assert_array_equal(read_image(result.file).pixels, expected)


def test_what_can_not_be_restored_is_one_line_without_folders(service, image, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^broken\.jpg: "):
        restore(service, tmp_path / "broken.jpg", tmp_path / "out")
    Image.new("RGB", (200, 100)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"^large\.png: 200x100 pixels are more than this page"):
        restore(service, tmp_path / "large.png", tmp_path / "out")
    with pytest.raises(UserError, match="not among the weights"):
        restore(service, image, tmp_path / "out", weights="/etc/passwd")
    restore(service, image, tmp_path / "out")  # the device is free again


@pytest.mark.slow
def test_several_users_at_once_all_get_their_image(service, image, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(6) as users:
        results = list(users.map(lambda i: restore(service, image, tmp_path / str(i)), range(6)))
    images = [read_image(result.file).pixels for result in results]
    for restored in images[1:]:
        np.testing.assert_array_equal(restored, images[0])


def test_old_files_are_deleted_wherever_they_lie(tmp_path):
    (tmp_path / "a").mkdir()
    for name, age in (("a/old", 1900), ("old", 1801), ("a/new", 1700)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    delete_older(tmp_path, 1800)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["new"]


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(DemoError, match=r"pip install gradio"):
        gradio()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "0"], "--port is 1 to 65535, not 0"),
        (["--max_waiting", "0"], "--max_waiting must be above 0, not 0"),
    ],
)
def test_wrong_numbers_are_one_line(words, message):
    result = run_command("demo", *words)
    assert result.returncode == 1
    assert result.stderr == f"error: {message}\n"
