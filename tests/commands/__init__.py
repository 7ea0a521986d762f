import os
import subprocess
import sys
from pathlib import Path

import pytest

from deblur_jax.cli import make_parser
from deblur_jax.errors import UserError
from tests.compilation import FAST

ROOT = Path(__file__).parents[2]


def environment():
    """One device, compiled fast; a crash shows where each thread was."""
    return {**os.environ, "XLA_FLAGS": FAST, "PYTHONFAULTHANDLER": "1"}


def run_script(*arguments, timeout=300, cwd=ROOT, variables=None, **options):
    """Runs ``python *arguments``, from the project's root unless ``cwd`` names another folder."""
    words = [sys.executable, *(str(argument) for argument in arguments)]
    found = {} if cwd == ROOT else {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words,
        cwd=cwd,
        env={**environment(), **found, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def run_command(*arguments, **options):
    """Runs ``python -m deblur_jax *arguments``."""
    return run_script("-m", "deblur_jax", *arguments, **options)


def error_of(*arguments):
    """Runs a command within this process, where it fails; returns the line that it would print."""

    def run(words):
        args = make_parser(words).parse_args(words)
        args.run(args)

    with pytest.raises(UserError) as caught:
        run([str(argument) for argument in arguments])
    return " ".join(str(caught.value).splitlines())
