"""The study of the planted optimum: its requirement, and the shape of its record."""

import json
from pathlib import Path

import pytest

from autotsnet.search.strategies import RandomSearch
from reproduce.studies import planted


@pytest.mark.slow
def test_fpnas_solves_nine_of_ten():
    """Within 1 % of the optimum and in the budget, on the record's own seeds."""
    steps = planted.FPNAS_TUNED["steps"]
    options = planted.fpnas(**planted.FPNAS_TUNED)
    runs = [planted.search_by_distribution(options, steps, seed) for seed in planted.SEEDS]
    assert sum(run["success"] for run in runs) >= 9
    assert all(run["budget_used"] <= 1 for run in runs)


def test_finalists_are_charged():
    run = planted.search_as_long_as(RandomSearch, samples=200, seed=0)
    assert 200 <= run["samples"] < 200 + planted.PARSEC_SAMPLES
    assert run["modelled_s"] == run["loop_s"] + planted.SECONDS_PER_SAMPLE * run["samples"]
    assert not run["success"]


def test_committed_record_meets_the_requirements():
    record = json.loads(Path("results/studies/planted.json").read_text())
    for method, steps in (("fpnas", planted.FPNAS_TUNED), ("parsec", planted.PARSEC_TUNED)):
        runs = record["methods"][method]["runs"]
        assert len(runs) == len(planted.SEEDS)
        assert all(run["steps"] == steps["steps"] for run in runs)
    assert record["methods"]["fpnas"]["summary"]["successes"] >= 9
    assert record["ratios"]["samples_fpnas_over_parsec"] <= 0.5
    assert record["ratios"]["modelled_speedup"] >= 1.8
    assert planted.table(record) == Path("results/studies/planted.md").read_text()
