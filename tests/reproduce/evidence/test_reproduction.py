"""Own runs beside the reference: what is identical, reproduced, not reproduced, and what has no reference."""

from pathlib import Path

import pandas as pd
import pytest

from reproduce.evidence.reproduction import comparable, reproduction
from reproduce.records import RecordError
from reproduce.suites import SUITES
from tests.reproduce.made import make

QUICK = SUITES["kinetics-quick"]


@pytest.fixture
def own(tmp_path) -> Path:
    return tmp_path / "own"


@pytest.fixture(scope="session")
def reference(shared) -> Path:
    """Results of three seeds of three entries, one of them with two architectures."""
    runs = [f"{name}-s{s}" for name in ("x3d", "tsm", "auto_tsnet_random", "auto_tsnet_random-a1") for s in (0, 1, 2)]
    return shared("made-reference", lambda folder: make(folder, *runs))


def test_the_same_answers_are_identical(own, reference):
    make(own, "tsm-s0")
    make(own, "tsm-s1", other=1e-3)  # scores may differ, answers may not
    make(own, "auto_tsnet_random-a1-s0")
    found = reproduction(QUICK, own, reference)
    assert [(row.name, row.verdict) for row in found.rows] == [
        ("tsm", "identical"),
        ("auto_tsnet_random-a1", "identical"),
    ]
    assert found.summary.startswith("2 of 2 identical; ")
    assert found.summary.endswith("; reference: the same")
    assert not found.failed


def test_other_answers_are_reproduced_within_the_spread_and_not_beyond(own, reference):
    make(own, "tsm-s0", wrong=0.02)
    make(own, "x3d-s0", wrong=0.9)
    found = reproduction(QUICK, own, reference)
    rows = {row.name: row for row in found.rows}
    assert rows["tsm"].verdict == "reproduced"
    assert rows["tsm"].difference.low < rows["tsm"].difference.points < 0 < rows["tsm"].difference.high
    assert [r.seed for r in rows["tsm"].reference] == [0], "of the same seed"
    assert rows["x3d"].verdict == "not reproduced"
    assert [row.name for row in found.failed] == ["x3d"]
    assert found.doubt == "not reproduced: x3d"
    assert found.summary.startswith("1 of 2 reproduced, 1 not reproduced; ")


def test_another_seed_is_set_against_all_and_never_identical(own, reference):
    make(own, "tsm-s0", to="tsm-s7", seed=7)
    (row,) = reproduction(QUICK, own, reference).rows
    assert row.verdict == "reproduced"
    assert {r.seed for r in row.reference} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(data="test_manifest"), "of other data"),
        (dict(model="budget"), "of another budget"),
        (dict(recipe=dict(epochs=1)), "of another recipe"),
        (dict(entry="mine"), "there is none of this entry"),
    ],
)
def test_what_differs_is_no_reference(own, reference, change, reason):
    source = make(own, "tsm-s0")
    for part, name in (("data", "test_manifest"), ("model", "budget")):
        if change.get(part) == name:
            value = "0123456789ab" if part == "data" else 0.03
            change = {part: getattr(source, part).model_copy(update={name: value})}
    make(own, "tsm-s0", **change)
    found = reproduction(QUICK, own, reference)
    (row,) = found.rows
    assert row.verdict == "no reference"
    assert reason in row.reason
    assert reason in found.render()
    assert not found.failed, "no reference is no failure"
    assert found.doubt.startswith("no row was compared"), "nor is it a success"
    make(own, "x3d-s0")
    assert not reproduction(QUICK, own, reference).doubt


def test_a_record_that_does_not_hold_its_recipe_is_no_reference_for_one_that_does(own):
    new, old = make(own, "tsm-s0"), make(own, "tsm-s1", old=True)
    assert comparable(new, new) == comparable(old, old) == ""
    assert "the reference record is old" in comparable(new, old)


def test_another_machine_is_no_other_reference_and_the_summary_says_so(own, reference):
    make(own, "tsm-s0", device="AMD EPYC, 2 cores")
    found = reproduction(QUICK, own, reference)
    assert found.rows[0].verdict == "identical"
    assert "; AMD EPYC, 2 cores, 1 thread; reference: Intel" in found.summary


def test_one_run_of_unknown_spread_is_no_reference(own, tmp_path):
    make(reference := tmp_path / "reference", "tsm-s0")
    make(own, "tsm-s0", wrong=0.02)
    (row,) = reproduction(QUICK, own, reference).rows
    assert row.verdict == "no reference"
    assert "how runs spread is not known" in row.reason


def test_it_fits_a_terminal(own, reference):
    make(own, "tsm-s0", wrong=0.02)
    make(own, "auto_tsnet_random-a1-s0")
    make(own, "tsm-s1", to="other", entry="a_model_of_mine_with_a_name_that_is_long")
    text = reproduction(QUICK, own, reference).render()
    assert max(map(len, text.splitlines())) <= 100
    assert all(verdict in text for verdict in ("identical", "reproduced", "no reference"))


def test_bad_folders_are_named(own, reference):
    with pytest.raises(ValueError, match="is the reference itself"):
        reproduction(QUICK, reference, reference)
    with pytest.raises(ValueError, match="has no records to set beside the reference"):
        reproduction(QUICK, own, reference)
    make(own, "tsm-s0")
    path = own / "records" / QUICK.name / "tsm-s0.parquet"
    pd.read_parquet(path).head(10).to_parquet(path)
    with pytest.raises(RecordError, match="changed after the run"):
        reproduction(QUICK, own, reference)
