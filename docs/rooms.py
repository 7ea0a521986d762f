"""Prints the table of rooms and files in docs/contributing.md: ``python docs/rooms.py``."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "deblur_jax"
ROOMS = (
    "__init__",
    "__main__",
    "cli",
    "commands",
    "demo",
    "export",
    "planning",
    "training",
    "analysis",
    "evaluation",
    "inference",
    "weights",
    "models",
    "ops",
    "data",
    "pages",
    "images",
    "config",
    "extensions",
    "runtime",
    "errors",
)
"""From the door down: an import goes to the same room or to one that stands later here."""


def main() -> None:
    """Prints the table."""
    print("\n".join(lines()))


def lines() -> list[str]:
    """The lines of the table: a file and the first sentence of its docstring."""
    found = ["| file | what it is |", "|---|---|"]
    for room in ROOMS:
        file = PACKAGE / f"{room}.py"
        if file.exists():
            found.append(_line(f"`{room}.py`", file))
            continue
        found.append(_line(f"**`{room}/`**", PACKAGE / room / "__init__.py"))
        for inner in sorted((PACKAGE / room).rglob("*.py")):
            if inner != PACKAGE / room / "__init__.py":
                found.append(_line(f"`{inner.relative_to(PACKAGE)}`", inner))
    return found


def _line(name: str, file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    summary = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    return f"| {name} | {summary} |"


if __name__ == "__main__":
    main()
