"""Fixtures: embedded tiny data sets, made once per test session, and the folder of real clips where there is one."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

from reproduce.data import synthetic
from reproduce.engine.engines import NO_AMX
from reproduce.suites import SUITES

os.environ.setdefault(*NO_AMX.split("="))  # some tests train in bf16
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the other cores have workers of their own; what a test starts inherits it
torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", 2))))


@pytest.fixture(scope="session")
def shared(tmp_path_factory, request) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function of a name and of what fills a folder: the folder, filled by the first of all workers that asks for it.

    Tests must not write there.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if hasattr(request.config, "workerinput") else base  # that of all workers

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        out, filled = base / f"shared-{name}", base / f"shared-{name}.filled"
        with open(base / f"shared-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                fill(out)
                filled.touch()
        return out

    return folder


@pytest.fixture(scope="session")
def cache(shared) -> Path:
    """A cache folder with both tiny data sets."""

    def fill(folder: Path) -> None:
        for layout in ("kinetics", "ssv2"):
            synthetic.generate(f"synthetic-{layout}", folder / f"synthetic-{layout}-tiny", size="tiny")

    return shared("cache", fill)


@pytest.fixture(scope="session")
def kinetics_root(cache) -> Path:
    """Root of the tiny synthetic Kinetics."""
    return cache / "synthetic-kinetics-tiny"


@pytest.fixture(scope="session")
def tiny(kinetics_root):
    """The tiny suite and its manifests: (suite, train, test)."""
    suite = SUITES["kinetics-tiny"]
    return suite, suite.manifest("train", kinetics_root), suite.manifest("val", kinetics_root)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of a few real clips, named by REAL_CLIPS."""
    if not os.environ.get("REAL_CLIPS"):
        pytest.skip("REAL_CLIPS names no folder of real clips")
    return Path(os.environ["REAL_CLIPS"])
