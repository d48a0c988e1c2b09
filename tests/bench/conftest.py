"""Saved timings say what the machine is, not which, and do not go into the reference by the way."""

from pathlib import Path

import pytest

from reproduce.evidence.reference import ReferenceError, apart


def pytest_configure(config):
    """Refuse to save timings in the reference."""
    if config.getoption("benchmark_save", None):
        try:
            apart(Path(config.getoption("benchmark_storage")))
        except ReferenceError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_benchmark_update_machine_info(config, machine_info):
    """Leave out the machine's name."""
    machine_info.pop("node", None)
