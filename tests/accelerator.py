"""Which platform the tests run on: the CPU unless ``DEBLUR_JAX_TEST_PLATFORM`` names another.

    DEBLUR_JAX_TEST_PLATFORM=gpu python -m pytest -m accelerator -n 0 -W default

runs the tests marked ``accelerator`` on a GPU: operations, recurrence, networks, gradients, step.
"""

import os

import pytest

PLATFORM = os.environ.get("DEBLUR_JAX_TEST_PLATFORM", "cpu")
"""As JAX names it: "cpu", "gpu" or "tpu"."""

ON_CPU = PLATFORM == "cpu"

SLOW_ON_CPU = [pytest.mark.slow] if ON_CPU else []
"""Marks of tests of a kernel that is interpreted, slowly, where its device is missing."""
