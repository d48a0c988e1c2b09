"""The study of the planted optimum: its requirement, and the shape of its record."""

import pytest

from autotsnet.search.strategies import RandomSearch
from reproduce.studies import planted


@pytest.mark.slow
def test_fpnas_solves_nine_of_ten():
    """Within 1 % of the optimum and in the budget, on the record's own seeds."""
    steps = planted.FPNAS_LONG["steps"]
    options = planted.fpnas(**planted.FPNAS_LONG)
    runs = [planted.search_by_distribution(options, steps, seed) for seed in planted.SEEDS]
    assert sum(run["success"] for run in runs) >= 9
    assert all(run["budget_used"] <= 1 for run in runs)


def test_finalists_are_charged():
    run = planted.search_as_long_as(RandomSearch, samples=200, seed=0)
    assert 200 <= run["samples"] < 200 + planted.PARSEC_SAMPLES
    assert run["modelled_s"] == run["loop_s"] + planted.SECONDS_PER_SAMPLE * run["samples"]
    assert not run["success"]
