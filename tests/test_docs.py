import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import ROOT, run_command, run_script

FOLDERS = (ROOT, ROOT / "docs", ROOT / "benchmarks")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))


@pytest.fixture
def rooms():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs/rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_of_the_package_is_in_the_contributors_page(rooms):
    text = (ROOT / "docs/contributing.md").read_text()
    assert "\n".join(rooms.lines()) in text, "print the table anew: python docs/rooms.py"
    for file in rooms.PACKAGE.rglob("*.py"):
        name = str(file.relative_to(rooms.PACKAGE))
        room = name.removesuffix("/__init__.py")
        assert f"`{name}`" in text or f"`{room}/`" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_network_of_the_docs_trains(tmp_path):
    """The file as it stands in the page, for two steps."""
    text = (ROOT / "docs/networks.md").read_text()
    (code,) = re.findall(r"```python\n(# my_net\.py\n.*?)```", text, re.DOTALL)
    file = tmp_path / "my_net.py"
    file.write_text(code)
    words = ("--import", file, "--config", file, "--workdir", tmp_path / "run")
    fields = ("--config.num_steps=2", "--config.model.channels=12", "--config.data.length=4")
    result = run_command("train", *words, *fields, "--config.data.validation_limit=1")
    assert result.returncode == 0, result.stderr
    assert "trained 2 steps" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number", "expected"),
    [
        ("optimisation.md", 0, ["pixels that matter:", "mean change by brightness: 0.9"]),
        ("optimisation.md", 1, ["blurred 26.9", "the network alone 28.", "weight 0.1: 33."]),
        ("export.md", 0, []),
        ("export.md", 1, []),
    ],
)
def test_programs_of_the_docs_run(page, number, expected, tmp_path):
    """Each as it stands in the page, after the commands there."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    if page == "export.md":
        Image.new("RGB", (41, 30)).save(tmp_path / "blurred.png")
        for name in ("deblur.onnx", "deblur.stablehlo"):
            assert run_command("export", "--out", tmp_path / name).returncode == 0
    result = run_script("-c", programs[number], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in expected:
        assert words in result.stdout


def test_the_configs_say_their_command_hardware_and_expectation():
    for file in sorted(Path(ROOT / "configs").glob("*.py")):
        head = file.read_text().split('"""')[1]
        for word in ("train.py --config", "Hardware:", "Expected:"):
            assert word in head, f"{file.name}: {word}"


@pytest.mark.slow
def test_the_first_image_is_made_by_the_command_beside_it(tmp_path):
    readme = " ".join((ROOT / "README.md").read_text().split())
    (command,) = re.findall(r"`deblur-jax (restore [^`]*street\.jpg --out docs [^`]*)`", readme)
    words = command.replace("--out docs", f"--out {tmp_path}").split()
    result = run_command(*words)
    assert result.returncode == 0, result.stderr
    shown, made = (
        np.asarray(Image.open(folder / "street.jpg"), np.float32)
        for folder in (ROOT / "docs", tmp_path)
    )
    assert np.abs(shown - made).mean() < 0.5
