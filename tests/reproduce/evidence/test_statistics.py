"""Intervals and tests: against the textbook, and on worlds whose truth is known."""

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer.testing
from scipy.stats import binomtest, norm

from reproduce.cli import app
from reproduce.evidence.statistics import (
    accuracy_interval,
    chance_level,
    holm,
    learned,
    mcnemar,
    outcomes,
    paired_difference,
    per_architecture,
    spreads,
    spreads_of,
    wilson,
)
from reproduce.records import RecordError, RunRecord, load_all, predictions, sha256
from reproduce.studies import verdicts

RECORDS = Path(__file__).parents[3] / "results" / "records" / "ssv2-quick"


def test_wilson_against_the_textbook():
    low, high = wilson(8, 10)  # Brown, Cai, DasGupta 2001: 0.4902, 0.9433
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))
    for correct, n in ((0, 7), (7, 7), (131, 400)):
        expected = binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson(correct, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_mcnemar_against_the_binomial():
    a, b = np.ones(100), np.ones(100)
    assert mcnemar(a, b) == 1.0
    b[:8], a[8:10] = 0, 0  # 8 against 2
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 10 + 45) / 2**10)


def test_holm_against_its_steps():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]).tolist() == [1.0, 1.0]
    assert holm([]).size == 0


def test_a_model_does_not_differ_from_itself():
    a = np.random.default_rng(0).integers(0, 2, (1, 200)).astype(float)
    d = paired_difference(a, a)
    assert (d.points, d.low, d.high, d.p) == (0, 0, 0, 1)


def test_pairing_takes_the_difficulty_of_videos_out():
    rng = np.random.default_rng(0)
    b = (rng.random((1, 400)) < 0.5).astype(float)
    a = b.copy()
    a[0, np.flatnonzero(b[0] == 0)[:20]] = 1  # right wherever b is, and on 20 more
    d = paired_difference(a, b)
    assert d.points == pytest.approx(5.0)
    assert 0 < d.low < 5 < d.high
    assert d.high - d.low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.05 * 0.95 / 400), rel=0.1)
    assert d.p == pytest.approx(2**-19)


def test_spread_over_runs_widens_the_interval():
    rng = np.random.default_rng(0)
    rates = np.array([0.3, 0.5, 0.7])[:, None]
    a, b = (rng.random((3, 400)) < rates), (rng.random((3, 400)) < 0.5)
    d = paired_difference(a.astype(float), b.astype(float))
    assert d.high - d.low > 40
    assert d.p > 0.5


def world(rng: np.random.Generator, runs: tuple[int, int], spread: float, videos: int = 400):
    """Two models on the same videos: probit of skill, the video's difficulty, the model's taste in videos and the run.

    Returns:
        Both models' outcomes and the true difference in points: over all videos and, of several runs, all runs.
    """
    difficulty, outcome, truth = rng.normal(size=videos), [], []
    for n, skill in zip(runs, (0.65, 0.5), strict=True):
        run, taste = spread * rng.normal(size=n), 0.5 * rng.normal(size=videos)
        margin = skill + difficulty + taste + run[:, None] + 0.7 * rng.normal(size=(n, videos))
        outcome.append((margin > 0).astype(float))
        over_videos = np.sqrt(1 + 0.5**2 + 0.7**2)
        truth.append(norm.cdf((skill + run[0]) / over_videos if n == 1 else skill / np.hypot(over_videos, spread)))
    return *outcome, 100 * (truth[0] - truth[1])


def test_an_interval_of_one_run_is_wilsons():
    right = (np.arange(400) < 131).astype(float)[None]
    assert accuracy_interval(right) == pytest.approx(wilson(131, 400))
    assert accuracy_interval(np.ones((3, 400))) == pytest.approx(wilson(400, 400))
    assert accuracy_interval(np.zeros((3, 400)))[0] == 0


@pytest.mark.parametrize(("runs", "spread"), [(1, 0.1), (2, 0.1), (3, 0.0), (3, 0.1), (3, 0.3), (5, 0.1)])
def test_intervals_of_one_accuracy_cover_the_truth_as_often_as_they_say(runs, spread):
    """The truth of one run is its own, of several that of all runs there could be."""
    rng, covered, repeats = np.random.default_rng(2), 0, 2000
    over_videos = np.sqrt(1 + 0.7**2)
    for _ in range(repeats):
        run = spread * rng.normal(size=(runs, 1))
        right = (0.5 + run + rng.normal(size=400) + 0.7 * rng.normal(size=(runs, 400)) > 0).astype(float)
        truth = (0.5 + run[0, 0]) / over_videos if runs == 1 else 0.5 / np.hypot(over_videos, spread)
        low, high = accuracy_interval(right)
        covered += low <= 100 * norm.cdf(truth) <= high
    assert 0.93 <= covered / repeats <= 0.97


@pytest.mark.parametrize(
    ("runs", "spread"),  # 0.1: accuracies of runs differ by 2.6 points (standard deviation), as those of seeds do
    [((1, 1), 0.1), ((1, 3), 0.0), ((1, 3), 0.1), ((3, 3), 0.1), ((3, 3), 0.3)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(runs, spread):
    rng, covered, repeats = np.random.default_rng(1), 0, 2000
    for i in range(repeats):
        a, b, truth = world(rng, runs, spread)
        d = paired_difference(a, b, seed=i, resamples=1000)
        covered += d.low <= truth <= d.high
    assert 0.93 <= covered / repeats <= 0.97


def test_seeds_of_an_architecture_are_not_taken_for_architectures():
    """Three random architectures of three seeds each against three searched; architectures differ, seeds hardly."""
    rng, covered, repeats = np.random.default_rng(3), dict(architectures=0, runs=0, accuracy=0), 1000
    truth = 100 * norm.cdf(0.5 / np.sqrt(1 + 0.7**2 + 0.3**2 + 0.05**2))
    records = [SimpleNamespace(variant=v) for v in (0, 1, 2) for _ in range(3)]
    for i in range(repeats):
        difficulty, skill = rng.normal(size=400), 0.5 + 0.3 * rng.normal(size=6)
        of_runs = np.concatenate([skill[:3], np.repeat(skill[3:], 3)])[:, None] + 0.05 * rng.normal(size=(12, 1))
        right = (of_runs + difficulty + 0.7 * rng.normal(size=(12, 400)) > 0).astype(float)
        for name, random in (("architectures", per_architecture(right[3:], records)), ("runs", right[3:])):
            d = paired_difference(right[:3], random, seed=i, resamples=1000)
            covered[name] += d.low <= 0 <= d.high
        low, high = accuracy_interval(per_architecture(right[3:], records))
        covered["accuracy"] += low <= truth <= high
    assert 0.93 <= covered["accuracy"] / repeats <= 0.97
    assert 0.93 <= covered["architectures"] / repeats <= 0.97
    assert covered["runs"] / repeats < 0.92, "or there would be no need"


@pytest.mark.parametrize("runs", [(1, 1), (3, 3)])
def test_interval_and_p_value_agree(runs):
    rng = np.random.default_rng(2)
    found = [paired_difference(*world(rng, runs, 0.05)[:2], seed=i, resamples=1000) for i in range(300)]
    assert 30 < sum(d.p < 0.05 for d in found) < 270, "a world in which some differences hold"
    # McNemar's is exact, the interval a bootstrap: they may part where it is close
    assert np.mean([(d.p < 0.05) == (d.low > 0 or d.high < 0) for d in found]) > 0.95


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_verdicts_of_simulated_suites_keep_their_promises(seeds):
    """The short form of ``reproduce.studies.verdicts``: families that spread by 1.5, 4 and 7 points."""
    found = verdicts.suites(seeds, repeats=60)
    assert found["family_wise_error"] <= 0.05 + 2 * (0.05 * 0.95 / 60) ** 0.5
    assert 0.91 <= found["coverage_of_differences"] <= 0.99  # 360 intervals: two standard errors about 93 to 97
    assert 0.91 <= found["coverage_of_accuracies"] <= 0.99


def test_one_run_without_the_spread_of_others_is_called_too_sure():
    found = verdicts.suites(1, repeats=30, pooled=False)
    assert found["family_wise_error"] > 0.25, "or pooling would not be needed"
    assert found["coverage_of_differences"] < 0.8


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_reproduction_raises_few_false_alarms(seeds):
    found = verdicts.reproductions(seeds, repeats=60, rows=1)
    assert found["false_alarms_per_row"] <= 0.05 + 2 * (0.05 * 0.95 / 480) ** 0.5


def runs_that_differ(rng: np.random.Generator, points: float, groups: int = 1, number: int = 3) -> list[np.ndarray]:
    models = verdicts.Models(rng, [50.0] * groups, [points] * groups)
    return [models.runs(m, number) for m in range(groups)]


def test_spreads_are_pooled_where_families_agree_and_not_lowered_where_one_does_not():
    rng = np.random.default_rng(0)
    alike = [(f"f{i}", x) for i, x in enumerate(runs_that_differ(rng, 4.0, groups=9))]
    known = spreads(alike)
    assert all(s.freedom > 5 for s in known.values()), "of two degrees each"
    own = spreads([alike[0]])["f0"]
    assert own.freedom == 2, "one family says nothing of others"
    far = spreads([*alike, *(("wild", x) for x in runs_that_differ(rng, 20.0, groups=2, number=6))])["wild"]
    alone = spreads([("wild", x) for x in runs_that_differ(np.random.default_rng(0), 20.0, groups=2, number=6)])["wild"]
    assert 100 * far.at(0.5) ** 0.5 > 10
    assert 100 * alone.at(0.5) ** 0.5 > 10
    assert "other" not in known


def test_one_run_is_as_wide_as_its_family_says():
    rng = np.random.default_rng(1)
    a, b = runs_that_differ(rng, 6.0, groups=2, number=4)
    known = spreads([("a", a), ("b", b)])
    one = paired_difference(a[:1], b[:1])
    both = paired_difference(a[:1], b[:1], (known["a"], known["b"]))
    assert not one.known
    assert both.known
    assert both.high - both.low > 1.5 * (one.high - one.low)
    assert paired_difference(a[:1], b, (None, known["b"])).known is False
    wide, narrow = accuracy_interval(a[:1], known["a"]), accuracy_interval(a[:1])
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_spread_in_common_is_one_estimate():
    """Its degrees of freedom are not counted twice: two models of a family are no surer of it than one."""
    rng = np.random.default_rng(2)
    (a,) = runs_that_differ(rng, 6.0)
    s = spreads([("f", a)])["f"]
    same = paired_difference(a[:1], a[1:2], (s, s))
    twice = paired_difference(a[:1], a[1:2], (s, spreads([("f", a)])["f"]))
    assert same.high - same.low > twice.high - twice.low


def test_what_is_not_above_chance_did_not_learn():
    assert not learned(0.142, 400, 1 / 8)
    assert learned(0.16, 400, 1 / 8)
    n = 400
    edge = next(k for k in range(50, n) if learned(k / n, n, 1 / 8))
    low = binomtest(edge, n).proportion_ci(0.90, method="wilson").low  # one-sided 95 %
    assert binomtest(edge - 1, n).proportion_ci(0.90, method="wilson").low <= 1 / 8 < low
    assert chance_level(np.array([0, 0, 0, 1]), 4) == 0.75
    assert chance_level(np.array([0, 1, 2, 3]), 4) == 0.25


def test_committed_runs_have_a_spread_for_each_family():
    known = spreads_of([(r, RECORDS) for r in load_all(RECORDS)])
    assert {"auto_tsnet", "slowfast", "tsm", "x3d"} <= known.keys()
    assert known["slowfast"].freedom > 2
    assert known["tsm"].at(0.5) > 0


def record(name: str) -> RunRecord:
    """One of the committed records."""
    return RunRecord.load(RECORDS / f"{name}.json")


def altered(source: RunRecord, folder: Path, table: pd.DataFrame, **data) -> RunRecord:
    """The record with other predictions, beside them, and another ``data``."""
    path = folder / "other.parquet"
    table.to_parquet(path, index=False)
    result = source.result.model_copy(update=dict(predictions=path.name, predictions_sha256=sha256(path)))
    return source.model_copy(update=dict(result=result, data=source.data.model_copy(update=data)))


def test_predictions_edited_by_hand_are_named(tmp_path):
    table = pd.read_parquet(RECORDS / "tsm-s0.parquet")
    table.loc[0, "label"] = (table.label[0] + 1) % 8
    table.to_parquet(tmp_path / "tsm-s0.parquet", index=False)
    said = record("tsm-s0").result.predictions_sha256[:12]
    with pytest.raises(RecordError, match=rf"tsm-s0\.parquet: sha256 \w{{12}} is not the record's {said}"):
        outcomes([(record("tsm-s0"), tmp_path)])
    with pytest.raises(RecordError, match=r"tsm-s0\.parquet cannot be read: No such file"):
        outcomes([(record("tsm-s0"), tmp_path / "nowhere")])


def test_two_manifests_are_refused_or_intersected_when_asked(tmp_path):
    x3d, tsm = record("x3d-s0"), record("tsm-s0")
    table = predictions(tsm, RECORDS)
    fewer = table.drop(index=range(100))
    fewer.loc[399, "label"] = (fewer.label[399] + 1) % 8  # in another copy the video has another label
    other = altered(tsm, tmp_path, fewer, test_manifest="0123456789ab")
    runs = [(x3d, RECORDS), (other, tmp_path)]
    with pytest.raises(
        RecordError, match=rf"0123456789ab and {x3d.data.test_manifest} were made on different videos.*--common"
    ):
        outcomes(runs)
    both = outcomes(runs, common=True)
    assert both.shape == (2, 299)
    assert (both == outcomes([(x3d, RECORDS), (tsm, RECORDS)])[:, 100:399]).all()
    nothing = altered(tsm, tmp_path, table.assign(id="x" + table.id), test_manifest="ffff")
    with pytest.raises(RecordError, match="have no video in common"):
        outcomes([(x3d, RECORDS), (nothing, tmp_path)], common=True)
    real = altered(tsm, tmp_path, table, dataset="Kinetics-400")
    with pytest.raises(RecordError, match="nothing to compare; choose one data set"):
        outcomes([(x3d, RECORDS), (real, tmp_path)], common=True)


def test_all_committed_records_compare():
    everything = [(r, RECORDS) for r in load_all(RECORDS)]
    right = outcomes(everything)
    assert [int(row.sum()) for row in right] == [r.result.top1 for r, _ in everything]
    assert all(a.data.test_manifest == b.data.test_manifest for (a, _), (b, _) in pairwise(everything))


def test_compare_on_the_command_line(tmp_path):
    command = typer.testing.CliRunner().invoke
    paths = [str(RECORDS / f"{name}-s0.json") for name in ("slowfast", "auto_tsnet_random", "auto_tsnet_random-a1")]
    one = command(app, ["compare", paths[0], "--against", paths[1]])
    assert re.fullmatch(r"[+-]\d+\.\d points \[.*\], p = 0\.\d+ \(400 videos, 1 against 1 runs\)\n", one.output)
    two = command(app, ["compare", paths[0], "--against", paths[1], "--against", paths[2]])
    assert "1 against 2 runs" in two.output
    other = altered(record("tsm-s0"), tmp_path, pd.read_parquet(RECORDS / "tsm-s0.parquet")[:300], test_manifest="f00")
    other.save(tmp_path / "other.json")
    mixed = command(app, ["compare", paths[0], paths[1], "--against", paths[2]])
    assert "name different runs of one model in one suite" in str(mixed.exception)
    twice = command(app, ["compare", paths[0], "--against", paths[1], "--against", paths[1]])
    assert "name different runs of one model in one suite" in str(twice.exception)
    refused = ["compare", paths[0], "--against", str(tmp_path / "other.json")]
    assert isinstance(command(app, refused).exception, RecordError)
    assert "(300 videos" in command(app, [*refused, "--common"]).output
