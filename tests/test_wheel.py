"""What a user gets who installs the package: in an environment of its own, outside the checkout."""

import json
import os
import sys
from pathlib import Path

import pytest

import deblur_jax
from tests.commands import ROOT
from tests.environments import needs_index, run

pytestmark = pytest.mark.slow

EXTRAS = ("align,tiff,heif,video,gcs,export,demo", "cuda12", "cuda13", "tpu")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    needs_index(run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT))
    (file,) = folder.glob("*.whl")
    assert file.name.startswith(f"deblur_jax-{deblur_jax.__version__}-py3")
    return file


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """The program in a fresh environment."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    assert run(sys.executable, "-m", "venv", environment).returncode == 0
    needs_index(run(environment / "bin/pip", "install", "--quiet", wheel))
    return environment / "bin/deblur-jax"


@pytest.fixture
def surroundings(tmp_path):
    """An environment without a trace of the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {"cwd": tmp_path, "env": {**kept, "JAX_PLATFORMS": "cpu"}}


def test_the_wheel_restores_trains_and_evaluates(program, surroundings):
    folder = surroundings["cwd"]
    example = next(Path(program).parents[1].rglob("examples/street.jpg"))
    restored = run(program, "restore", example, **surroundings)
    assert restored.returncode == 0, restored.stderr
    assert (folder / "restored/street.png").exists()

    fields = ("--config.num_steps=2", "--config.optimizer.warmup_steps=0", "--config.data.length=4")
    train = ("train", "--config", "quickstart", "--workdir", "run", *fields)
    trained = run(program, *train, **surroundings)
    assert trained.returncode == 0, trained.stderr
    assert "trained 2 steps" in trained.stdout

    evaluate = ("evaluate", "--weights", "run", "--data", "synthetic:pan", "--length", "2")
    evaluated = run(program, *evaluate, "--size", "64", "--json", **surroundings)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["count"] == 2
    assert len(list(folder.rglob("report.html"))) == 1


def test_the_program_says_its_version_and_has_types(program, surroundings):
    result = run(program, "--version", **surroundings)
    assert result.stdout == f"deblur-jax {deblur_jax.__version__}\n"
    package = next(Path(program).parents[1].rglob("deblur_jax/py.typed")).parent
    assert (package / "configs/mimo_unet_gopro.py").exists()


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_can_be_installed(extra):
    words = ("install", "--quiet", "--dry-run", "--ignore-installed", f"{ROOT}[{extra}]")
    needs_index(run(sys.executable, "-m", "pip", *words))
