"""An import goes to the same package or to a floor below: never up, and never in a circle."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deblur_jax"
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("demo",),
    ("export",),
    ("planning",),
    ("training",),
    ("analysis",),
    ("evaluation",),
    ("inference",),
    ("weights",),
    ("models",),
    ("ops",),
    ("data",),
    ("pages",),
    ("images",),
    ("config",),
    ("extensions",),
    ("runtime",),
    ("errors",),
)
"""From the door down."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(file):
    """Every module that a file imports, also inside functions; names resolved to modules."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in MODULES} - {None}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_goes_up(file):
    own = room_of(module_of(file))
    if own is None:
        return  # the package itself names public things, and imports them at their first use
    for module in imports_of(file):
        if module == "deblur_jax" or not module.startswith("deblur_jax."):
            assert module.split(".")[0] not in ("configs", "tests", "benchmarks"), module
            continue
        room = room_of(module)
        assert room == own or FLOOR_OF[room] > FLOOR_OF[own], f"{own} imports {module}"


def test_no_imports_form_a_circle():
    graph = {
        name: {m for m in imports_of(file) if m in MODULES and m not in (name, "deblur_jax")}
        for name, file in MODULES.items()
        if name != "deblur_jax"
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("script", [ROOT / "quickstart.py", *sorted(ROOT.glob("benchmarks/*.py"))])
def test_scripts_beside_the_package_import_what_it_has(script):
    """They are not run by the tests, and must not be left behind when something moves."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deblur_jax"):
            module = importlib.import_module(node.module)
            for name in node.names:
                found = hasattr(module, name.name) or importlib.util.find_spec(
                    f"{node.module}.{name.name}"
                )
                assert found, f"{script.name}: {node.module} has no {name.name}"
