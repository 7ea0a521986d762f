import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from deblur_jax.inference.restorer import Restorer
from tests.browser import CHROMIUM, needs_browser
from tests.commands import ROOT, environment

pytestmark = [pytest.mark.slow, needs_browser]

DRIVER = shutil.which("chromedriver")


@pytest.fixture
def address(tiny_weights, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "deblur_jax", "demo", "--port", str(port), "--weights", str(tiny_weights)]
    words += ["--max_megapixels", "1"]
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**environment(), "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}" in line, process.communicate()
    yield f"http://127.0.0.1:{port}", tmp_path / "temporary"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not files_in(tmp_path / "temporary")


@pytest.fixture
def browser(tmp_path):
    if DRIVER is None:
        pytest.skip("chromedriver is not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(30)
    yield driver
    driver.quit()


def wait_until(found, seconds=90):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
    return value


def addresses_asked(browser):
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def restore(browser, file):
    browser.find_element("css selector", "#upload input[type=file]").send_keys(str(file))
    wait_until(lambda: file.name.partition(".")[0] in browser.page_source)
    browser.find_element("css selector", "#restore").click()


def files_in(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def test_an_image_goes_in_and_a_restored_one_comes_out(address, browser, tmp_path, tiny_weights):
    url, temporary = address
    browser.get(url)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    restore(browser, tmp_path / "mine.png")

    words = browser.find_element("css selector", "#words textarea")
    said = wait_until(lambda: words.get_attribute("value"))
    assert said.startswith("80x60 pixels restored in ")
    (restored,) = [file for file in files_in(temporary) if file.name == "mine_restored.png"][:1]
    expected = Restorer.load(tiny_weights)(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(restored)), expected)
    assert not [file for file in files_in(temporary) if file.name == "mine.png"]
    shown = browser.find_elements("css selector", "img[src*='/file=']")
    wait_until(lambda: all(image.get_property("naturalWidth") == 80 for image in shown))
    assert len(shown) == 2

    (tmp_path / "broken.jpg").write_bytes(b"no image")
    restore(browser, tmp_path / "broken.jpg")
    wait_until(lambda: "broken.jpg: not an image" in browser.page_source)
    assert str(temporary) not in browser.find_element("css selector", "body").text

    asked = set(addresses_asked(browser))
    assert any(url in one for one in asked)
    hosts = {urlparse(one).hostname for one in asked if one.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}


def test_the_example_can_be_taken_twice(address, browser):
    url, temporary = address
    browser.get(url)
    for times in (1, 2):
        browser.find_element("css selector", "#example").click()
        upload = browser.find_element("css selector", "#upload")
        wait_until(lambda upload=upload: "street" in upload.text)
        browser.find_element("css selector", "#restore").click()
        wait_until(
            lambda times=times: (
                sum(file.name == "street_restored.png" for file in files_in(temporary)) >= times
            )
        )
        wait_until(lambda upload=upload: "street" not in upload.text)
    assert not [file for file in files_in(temporary) if file.name == "street.jpg"]


def test_a_port_in_use_is_one_line(address, tiny_weights):
    port = address[0].rpartition(":")[2]
    words = ["-m", "deblur_jax", "demo", "--port", port, "--weights", str(tiny_weights)]
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: --host 127.0.0.1 --port {port}: ")
    assert "Traceback" not in result.stderr


def test_the_example_ships_with_who_made_it():
    folder = Path(ROOT) / "deblur_jax/demo/examples"
    for image in folder.glob("*.jpg"):
        assert "CC BY 4.0" in image.with_suffix(".txt").read_text()
