"""Fixtures: embedded tiny data sets, made once per test session, and the folder of real clips where there is one."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from reproduce.data import synthetic
from reproduce.suites import SUITES

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", 2))))


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache folder with both tiny data sets."""
    folder = tmp_path_factory.mktemp("cache")
    for layout in ("kinetics", "ssv2"):
        synthetic.generate(f"synthetic-{layout}", folder / f"synthetic-{layout}-tiny", size="tiny")
    return folder


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
