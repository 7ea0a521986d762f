"""Environments of their own, made with pip."""

import subprocess

import pytest


def run(*words, **options):
    options = {"capture_output": True, "text": True, "timeout": 900, **options}
    return subprocess.run([str(word) for word in words], **options)


def needs_index(result, first_package="setuptools"):
    """Skips where pip finds no index with the package that it looks for first."""
    if f"No matching distribution found for {first_package}" in result.stderr + result.stdout:
        pytest.skip("no package index is reached")
    assert result.returncode == 0, result.stderr[-3000:]
