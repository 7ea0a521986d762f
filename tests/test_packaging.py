import tomllib

from tests.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_room_is_in_the_package():
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "deblur_jax").rglob("*.py")}
    names = {".".join(folder.parts) for folder in folders} | {"deblur_jax.configs"}
    assert set(SETUPTOOLS["packages"]) == names
    assert SETUPTOOLS["package-dir"] == {"deblur_jax.configs": "configs"}


def test_files_that_are_no_code_are_in_the_package():
    suffixes = {file.suffix for file in (ROOT / "deblur_jax").rglob("*") if file.is_file()}
    assert suffixes - {".pyc"} == {".py", ".html", ".typed", ".safetensors", ".jpg", ".txt"}
    assert SETUPTOOLS["package-data"] == {
        "*": ["*.html", "py.typed"],
        "deblur_jax.demo": ["examples/*"],
        "deblur_jax.weights": ["files/*"],
    }
