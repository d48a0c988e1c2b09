"""How long a user waits for commands on committed records."""

import shutil
from pathlib import Path

import pytest
import typer.testing

from reproduce.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path) -> Path:
    """A copy of the committed results."""
    return shutil.copytree(ROOT / "results", tmp_path / "results")


def ran(*words: object) -> str:
    """What a command prints."""
    done = typer.testing.CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.exception
    return done.stdout


@pytest.mark.slow
def test_report(benchmark, results, tmp_path):
    benchmark.pedantic(ran, args=("report", "--results", results, "--runs", tmp_path), rounds=1)


@pytest.mark.slow
def test_verify(benchmark, results):
    benchmark.pedantic(ran, args=("verify", results), rounds=1)


@pytest.mark.slow
def test_compare_with_a_model_of_ones_own(benchmark, results, tmp_path, monkeypatch):
    """The example is trained and tested, the others have their records."""
    monkeypatch.delenv("KINETICS_ROOT", raising=False)
    words = ["compare", ROOT / "configs" / "examples" / "my_model.py", "--dataset", "kinetics", "--budget", "4.7"]
    words += ["--against", "x3d,slowfast,auto_tsnet", "--results", results, "--runs", tmp_path / "runs"]
    words += ["--cache", tmp_path / "cache"]
    assert "my_model" in benchmark.pedantic(ran, args=words, rounds=1)
