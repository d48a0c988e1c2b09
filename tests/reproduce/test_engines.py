"""Engines of a test, in a process of their own: see ``engines_apart``."""

import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("engines_apart.py")


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_engines(which, cache):
    command = [sys.executable, "-m", "pytest", "-q", "-m", which, str(FILE)]
    done = subprocess.run(command, cwd=FILE.parent.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
