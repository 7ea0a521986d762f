import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import deblur_jax
from deblur_jax.commands.config_file import load_config
from tests.commands import ROOT, environment, run_command, run_script
from tests.environments import needs_index, run

FOLDERS = (ROOT, ROOT / "docs", ROOT / "benchmarks")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))
EXAMPLE = ROOT / "deblur_jax/demo/examples/street.jpg"

PROGRAMS = {
    "restore_one.py": ["(720, 1280, 3) uint8"],
    "restore_stack.py": ["restored (3, 90, 120, 3) uint8", "ensemble (3, 88, 120, 3)"],
    "measure.py": ["float    26.71 dB 0.9696", "skimage  26.71 dB 0.8441"],
    "own_loop.py": ["loss 0."],
    "sensitivity.py": ["pixels that matter:", "mean change by brightness: 0.9"],
    "prior.py": ["blurred 26.9", "the network alone 29.", "weight 0.1: 34."],
    "use_onnx.py": [],
    "use_stablehlo.py": [],
}
"""Programs in the pages, by their first line, and what they print."""

COMMANDS = {
    "deblur-jax restore photo.jpg  #": "1 image",
    "deblur-jax restore IMAGES_OR_FOLDERS": "1 image",
    "deblur-jax score RESTORED": '"psnr"',
    "python evaluate.py --weights WEIGHTS --data DATA": "mean of 2",
    "deblur-jax analyse --out": "",
    "deblur-jax export --out deblur.stablehlo": "",
    "pip install '.[export]'": "",
    "deblur-jax train --import": "trained 200 steps",
}
"""Commands in the pages, by their beginning, and what they print."""

RUN_BY_CI = ("python3 -m venv .venv &&",)
"""Blocks that make the environment in which tests run, or do what `.ci/run` does."""


def blocks(language):
    """Each code block of a language in the pages: its page, and its lines."""
    for page in PAGES:
        for code in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.M):
            yield page.name, code


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


def test_every_public_name_is_in_the_reference():
    names = re.findall(r"^::: deblur_jax\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.M)
    assert sorted(names) == sorted(deblur_jax.__all__)


def test_every_code_block_is_run_or_says_what_it_needs():
    for page, code in blocks("python"):
        first = code.splitlines()[0]
        is_readme = page == "README.md"
        assert is_readme or first.removeprefix("# ") in {*PROGRAMS, "my_net.py"}, (page, first)
    for page, code in blocks("bash"):
        known = ("# needs ", *COMMANDS, *RUN_BY_CI)
        assert code.startswith(known), (page, code)
    for name in COMMANDS:
        assert any(code.startswith(name) for _, code in blocks("bash")), name


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_scripts_and_manifests_have_no_errors_of_syntax():
    for page, code in blocks("bash"):
        checked = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True)
        assert checked.returncode == 0, (page, checked.stderr)
    manifests = [part for _, code in blocks("yaml") for part in yaml.safe_load_all(code)]
    assert {"Service", "Job"} <= {part.get("kind") for part in manifests}


def test_the_table_of_larger_batches_is_by_the_rule():
    text = (ROOT / "docs/pods.md").read_text()
    configs = [load_config(f"mimo_unet_plus_gopro:{batch}") for batch in (4, 64, 256, 1024)]
    steps = ", ".join(f"{config.num_steps:,}" for config in configs)
    assert f"| {steps} steps |" in text
    warmup = ", ".join(f"{config.optimizer.warmup_steps:,}" for config in configs)
    assert f"| {warmup} |" in text
    decay = ", ".join(f"{config.ema_decay:.3f}" for config in configs[1:])
    assert f"| none, {decay} |" in text


def test_the_network_of_the_docs_trains(tmp_path):
    """The file as it stands in the page, for two steps."""
    file = program("my_net.py", tmp_path)
    words = ("--import", file, "--config", file, "--workdir", tmp_path / "run")
    fields = ("--config.num_steps=2", "--config.model.channels=12", "--config.data.length=4")
    result = run_command("train", *words, *fields, "--config.data.validation_limit=1")
    assert result.returncode == 0, result.stderr
    assert "trained 2 steps" in result.stdout


def program(name, folder):
    """The program of a page in a file."""
    (code,) = (code for _, code in blocks("python") if code.startswith(f"# {name}\n"))
    file = folder / name
    file.write_text(code)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_the_docs_run(name, tmp_path):
    """Each as it stands in the page, after the commands there."""
    shutil.copy(EXAMPLE, tmp_path / "street.jpg")
    if name.startswith("use_"):
        Image.new("RGB", (41, 30)).save(tmp_path / "blurred.png")
        for file in ("deblur.onnx", "deblur.stablehlo"):
            assert run_command("export", "--out", tmp_path / file).returncode == 0
    result = run_script(program(name, tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in PROGRAMS[name]:
        assert words in result.stdout


READERS = {  # of exports, and the packages that the page asks for
    "use_onnx.py": ("deblur.onnx", ["onnxruntime", "numpy", "pillow"]),
    "use_stablehlo.py": ("deblur.stablehlo", [f"jax=={jax.__version__}", "flatbuffers"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_an_export_is_read_with_nothing_but_what_the_page_names(name, tmp_path):
    file, packages = READERS[name]
    named = " ".join(package.partition("=")[0] for package in packages)
    assert f"`pip install {named}`" in (ROOT / "docs/export.md").read_text()
    python = tmp_path / "environment/bin/python"
    assert run(sys.executable, "-m", "venv", python.parents[1]).returncode == 0
    needs_index(run(python, "-m", "pip", "install", "--quiet", *packages), packages[0])
    Image.new("RGB", (41, 30)).save(tmp_path / "blurred.png")
    assert run_command("export", "--out", tmp_path / file).returncode == 0
    result = run(python, program(name, tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_program_of_the_readme_runs(tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "photo.jpg")
    (code,) = (code for page, code in blocks("python") if page == "README.md")
    result = run_script("-c", code + "print(restored.shape)", cwd=tmp_path)
    assert result.stdout.strip() == "(720, 1280, 3)", result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("beginning", COMMANDS)
def test_commands_of_the_docs_run(beginning, tmp_path, make_pairs, tiny_weights):
    """Each as it stands in the page, with files in the place of WORDS."""
    (code,) = (code for _, code in blocks("bash") if code.startswith(beginning))
    make_pairs({"a": (24, 24), "b": (24, 24)}, root=tmp_path / "pairs")
    shutil.copy(EXAMPLE, tmp_path / "photo.jpg")
    program("my_net.py", tmp_path)
    for name in ("evaluate.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    places = {
        "IMAGES_OR_FOLDERS": "photo.jpg",
        "RESTORED_FOLDER": "pairs/blur",
        "SHARP_FOLDER": "pairs/sharp",
        "[MORE ...] ": "",
        "WEIGHTS": str(tiny_weights),
        "DATA": "pairs",
        "FOLDER": "out",
        "IMAGE": "photo.jpg",
        "deblur-jax ": f"{sys.executable} -m deblur_jax ",
        "python evaluate.py": f"{sys.executable} evaluate.py",
        "pip install '.[export]'\n": "",
    }
    for word, place in places.items():
        code = code.replace(word, place)
    result = subprocess.run(
        ["bash", "-ec", code],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert COMMANDS[beginning] in result.stdout + result.stderr


@pytest.mark.slow
def test_the_site_is_built_strictly_with_its_notebook_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -r docs/requirements.txt")
    folder = tmp_path / "site"
    words = ["--strict", "--config-file", ROOT / "mkdocs.yml", "--site-dir", folder]
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *words],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {page.name: page.read_text() for page in folder.rglob("*.html")}
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} <= set(pages)
    for name, page in pages.items():
        assert not re.findall(
            r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(?:https?:)?//', page
        ), name
        assert "import(" not in page, name
        assert "unpkg" not in page, name
    notebook = pages["first_network.html"]
    assert notebook.count("data:image/png;base64") >= 4
    before, after = re.search(r"([\d.]+) dB before, ([\d.]+) dB after", notebook).groups()
    assert float(after) > float(before)
    for name in deblur_jax.__all__:
        assert f'id="deblur_jax.{name}"' in pages["api.html"], name


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
