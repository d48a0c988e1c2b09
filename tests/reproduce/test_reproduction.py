"""Own runs beside the reference: what is identical, reproduced, not reproduced, and what has no reference."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reproduce.records import RecordError, RunRecord, score, sha256
from reproduce.reproduction import comparable, reproduction
from reproduce.suites import SUITES

RESULTS = Path(__file__).parents[2] / "results"
SOURCE = RESULTS / "records" / "kinetics-quick"
QUICK = SUITES["kinetics-quick"]


@pytest.fixture
def own(tmp_path) -> Path:
    (tmp_path / "records" / QUICK.name).mkdir(parents=True)
    return tmp_path


def take(results: Path, name: str, to: str = "", wrong: float = 0.0, other: float = 0.0, **changes) -> None:
    """A committed record as one of one's own.

    Args:
        results: folder of results.
        name: of the record.
        to: its new name.
        wrong: share of the videos that are made wrong.
        other: added to the scores.
        changes: other values of the record.
    """
    to, folder = to or name, results / "records" / QUICK.name
    record = RunRecord.load(SOURCE / f"{name}.json")
    table = pd.read_parquet(SOURCE / f"{name}.parquet")
    lost = np.random.default_rng(0).random(len(table)) < wrong
    table["scores"] = [
        np.roll(np.eye(len(s), dtype=np.float32)[label], 1) if bad else np.asarray(s, np.float32) + np.float32(other)
        for s, label, bad in zip(table.scores, table.label, lost, strict=True)
    ]
    path = folder / f"{to}.parquet"
    table.to_parquet(path, index=False)
    top1, top5, failed = score(table)
    result = dict(top1=top1, top5=top5, failed=failed, predictions=path.name, predictions_sha256=sha256(path))
    changes["result"] = record.result.model_copy(update=result)
    record.model_copy(update=changes).save(folder / f"{to}.json")


def test_the_same_answers_are_identical(own):
    take(own, "tsm-s0")
    take(own, "tsm-s1", other=1e-3)  # scores may differ, answers may not
    take(own, "auto_tsnet_random-a1-s0")
    found = reproduction(QUICK, own, RESULTS)
    assert [(row.name, row.verdict) for row in found.rows] == [
        ("tsm", "identical"),
        ("auto_tsnet_random-a1", "identical"),
    ]
    assert found.summary.startswith("2 of 2 identical; ")
    assert found.summary.endswith("; reference: the same")
    assert not found.failed


def test_other_answers_are_reproduced_within_the_spread_and_not_beyond(own):
    take(own, "tsm-s0", wrong=0.02)
    take(own, "x3d-s0", wrong=0.9)
    found = reproduction(QUICK, own, RESULTS)
    rows = {row.name: row for row in found.rows}
    assert rows["tsm"].verdict == "reproduced"
    assert rows["tsm"].difference.low < rows["tsm"].difference.points < 0 < rows["tsm"].difference.high
    assert [r.seed for r in rows["tsm"].reference] == [0], "of the same seed"
    assert rows["x3d"].verdict == "not reproduced"
    assert [row.name for row in found.failed] == ["x3d"]
    assert found.summary.startswith("1 of 2 reproduced, 1 not reproduced; ")


def test_another_seed_is_set_against_all_and_never_identical(own):
    take(own, "tsm-s0", to="tsm-s7", seed=7)
    (row,) = reproduction(QUICK, own, RESULTS).rows
    assert row.verdict == "reproduced"
    assert {r.seed for r in row.reference} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(data="test_manifest"), "of other data"),
        (dict(model="budget"), "of another budget"),
        (dict(recipe_text="epochs = 1\n\nnet = dict()\n"), "of another recipe"),
        (dict(entry="mine"), "there is none of this entry"),
    ],
)
def test_what_differs_is_no_reference(own, change, reason):
    source = RunRecord.load(SOURCE / "tsm-s0.json")
    for part, name in (("data", "test_manifest"), ("model", "budget")):
        if change.get(part) == name:
            value = "0123456789ab" if part == "data" else 0.03
            change = {part: getattr(source, part).model_copy(update={name: value})}
    take(own, "tsm-s0", **change)
    found = reproduction(QUICK, own, RESULTS)
    (row,) = found.rows
    assert row.verdict == "no reference"
    assert reason in row.reason
    assert reason in found.render()
    assert not found.failed, "no reference is no failure"


def test_a_record_that_does_not_hold_its_recipe_is_no_reference_for_one_that_does(own):
    old = RunRecord.load(SOURCE / "tsm-s0.json")
    assert comparable(old, old) == ""
    new = old.model_copy(update={"spec": object()})
    assert "the reference record is old" in comparable(new, old)


def test_another_machine_is_no_other_reference_and_the_summary_says_so(own):
    made = RunRecord.load(SOURCE / "tsm-s0.json").provenance
    session = made.train[0].model_copy(update={"device": "AMD EPYC, 2 cores", "threads": 1})
    take(own, "tsm-s0", provenance=made.model_copy(update={"train": [session]}))
    found = reproduction(QUICK, own, RESULTS)
    assert found.rows[0].verdict == "identical"
    assert "; AMD EPYC, 2 cores, 1 thread; reference: Intel" in found.summary


def test_one_run_of_unknown_spread_is_no_reference(own, tmp_path):
    reference = tmp_path / "reference"
    (reference / "records" / QUICK.name).mkdir(parents=True)
    for suffix in ("json", "parquet"):
        shutil.copy(SOURCE / f"tsm-s0.{suffix}", reference / "records" / QUICK.name)
    take(own, "tsm-s0", wrong=0.02)
    (row,) = reproduction(QUICK, own, reference).rows
    assert row.verdict == "no reference"
    assert "how runs spread is not known" in row.reason


def test_it_fits_a_terminal(own):
    take(own, "tsm-s0", wrong=0.02)
    take(own, "auto_tsnet_random-a1-s0")
    take(own, "tsm-s1", to="other", entry="a_model_of_mine_with_a_name_that_is_long")
    text = reproduction(QUICK, own, RESULTS).render()
    assert max(map(len, text.splitlines())) <= 100
    assert all(verdict in text for verdict in ("identical", "reproduced", "no reference"))


def test_bad_folders_are_named(own):
    with pytest.raises(ValueError, match="is the reference itself"):
        reproduction(QUICK, RESULTS, RESULTS)
    with pytest.raises(ValueError, match="has no records to set beside the reference"):
        reproduction(QUICK, own, RESULTS)
    take(own, "tsm-s0")
    path = own / "records" / QUICK.name / "tsm-s0.parquet"
    pd.read_parquet(path).head(10).to_parquet(path)
    with pytest.raises(RecordError, match="changed after the run"):
        reproduction(QUICK, own, RESULTS)
