"""The study of the planted optimum: its requirement, and the shape of its record."""

import json
from pathlib import Path

import pytest
import torch

from autotsnet.search.strategies import RandomSearch
from reproduce.studies import planted

RECORD = Path(__file__).parents[3] / "results" / "studies" / "planted.json"


@pytest.mark.slow
def test_fpnas_solves_nine_of_ten():
    """Within 1 % of the optimum's score and in the budget, on the record's own seeds."""
    options = planted.fpnas(**planted.FPNAS_TUNED)
    steps = planted.FPNAS_TUNED["steps"]
    runs = [planted.search_by_distribution(options, steps, seed) for seed in planted.SEEDS]
    assert planted.summary(runs)["within_1_percent"] >= 9
    assert all(run["budget_used"] <= 1 for run in runs)


def test_the_record_shows_what_the_readme_says():
    record = json.loads(RECORD.read_text())
    assert record["config"]["seeds"] == list(planted.SEEDS)
    assert record["config"]["fpnas"] == planted.FPNAS_TUNED
    found = record["methods"]["fpnas"]["runs"]
    assert sum(run["score"] >= planted.SUCCESS and run["budget_used"] <= 1 for run in found) >= 9
    assert record["ratios"]["samples_fpnas_over_parsec"] <= 0.5
    assert record["ratios"]["modelled_speedup"] >= 1.8
    assert RECORD.with_suffix(".md").read_text() == planted.table(record)


def test_the_architectures_of_the_record_score_what_it_says():
    record = json.loads(RECORD.read_text())
    for seed, run in zip(record["config"]["seeds"], record["methods"]["fpnas"]["runs"], strict=True):
        oracle = planted.PlantedJudge(seed)
        code = torch.tensor(run["architecture"])[None]
        assert oracle.quality(code).item() == pytest.approx(run["quality"], abs=1e-6)
        assert oracle.score(code).item() / oracle.optimum_score == pytest.approx(run["score"])
        assert oracle.gmacs(code).item() / oracle.target == pytest.approx(run["budget_used"])


def test_finalists_are_charged():
    run = planted.search_as_long_as(RandomSearch, samples=200, seed=0)
    assert 200 <= run["samples"] < 200 + planted.PARSEC_SAMPLES
    assert run["modelled_s"] == run["loop_s"] + planted.SECONDS_PER_SAMPLE * run["samples"]
    assert not run["success"]
