"""VideoNAS as a table: what a query says and costs, what is not in it, and that nothing of ours is needed to read."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.evidence import tabular
from reproduce.evidence.tabular import FACTORS, VideoNAS, codes, distance, levels, space_version
from tests.reproduce.made_nas import made_table

ROOT = Path(__file__).parents[3]
CODES = codes()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "videonas.parquet"
    made_table().to_parquet(path, index=False)
    return path


@pytest.fixture
def table(path) -> VideoNAS:
    return VideoNAS(path)


def test_the_codes_are_half_a_product_with_one_stream_without_fusion():
    assert len(CODES) == len(set(CODES)) == (3 * 4 + 2) * 3 * 8
    one = [levels(code) for code in CODES if levels(code)[0] in ("slow", "fast")]
    assert {code[2] for code in one} == {"none"}
    two = np.array([levels(code) for code in CODES if levels(code)[0] == "even"])
    for i, a in enumerate(FACTORS):
        for j, b in enumerate(FACTORS):
            if i < j and i:
                counts = pd.crosstab(two[:, i], two[:, j])
                assert counts.to_numpy().min() == counts.to_numpy().max(), f"{a} and {b} are not balanced"


def test_no_main_effect_is_mixed_with_that_of_a_pair():
    names = tabular.SPACE["halved"]
    signs = {
        n: np.array([2 * FACTORS[n].index(dict(zip(FACTORS, levels(c), strict=True))[n]) - 1 for c in CODES])
        for n in names
    }
    for a in names:
        for b in names:
            for c in names:
                if len({a, b, c}) == 3:
                    assert signs[a] @ (signs[b] * signs[c]) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("even-late", "has 2 levels"), ("even-late-concat-se-e1-k3-d999", "depth is 'd999', not d122, d221")],
)
def test_no_code_is_said_with_what_is_wrong(wrong, said):
    with pytest.raises(KeyError, match=said):
        levels(wrong)


def test_a_query_is_validation_only_and_the_same_each_time(table):
    found = table.query(CODES[0], seed=0)
    assert not [key for key in found if "test" in key]
    again = table.query(CODES[0], seed=0)
    assert {**again, "charged": found["charged"]} == found
    assert again["charged"] == 0
    assert found["source"] == "table"


def test_without_a_seed_all_are_averaged_and_charged(table):
    code = table.info["repeated_at_random"][0]
    each = [table.query(code, seed=s) for s in (0, 1, 2)]
    table.reset()
    mean = table.query(code)
    assert mean["seeds"] == [0, 1, 2]
    assert mean["validation"] == pytest.approx(np.mean([one["validation"] for one in each]))
    assert table.spent == pytest.approx(sum(one["charged"] for one in each)) == mean["charged"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> VideoNAS:
    path = tmp_path_factory.mktemp("small") / "videonas.parquet"
    made_table(CODES[:8]).to_parquet(path, index=False)
    return VideoNAS(path)


@given(asked=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1 / 3, 2 / 3, 1.0])), min_size=1, max_size=20))
def test_a_training_is_charged_up_to_its_farthest_query(small, asked):
    small.reset()
    for i, at in asked:
        small.query(CODES[i], seed=0, at=at)
    spent = small.spent
    small.reset()
    farthest = {i: max(at for j, at in asked if j == i) for i, _ in asked}
    prices = {i: small.query(CODES[i], seed=0)["charged"] for i in farthest}
    assert spent == pytest.approx(sum(prices[i] * at for i, at in farthest.items()))


def test_a_third_of_a_training_has_figures_of_its_own(table):
    third, end = table.query(CODES[1], 0, at=0.333), table.query(CODES[1], 0)
    assert third["at"] == 1 / 3
    assert third["validation"] < end["validation"]
    assert third["loss"] > end["loss"]
    with pytest.raises(ValueError, match="the table has 1/3, 2/3 and 1"):
        table.query(CODES[1], 0, at=0.5)


def test_a_query_takes_less_than_a_millisecond(table):
    began = time.perf_counter()
    for code in table.codes:
        table.query(code)
    assert (time.perf_counter() - began) / len(table.codes) < 1e-3


def test_what_is_not_there_names_the_nearest_and_is_estimated_only_when_asked(table):
    absent = "even-late-concat-se-e1-k3-d122"  # one of the halved factors is at its second level
    assert absent not in table.codes
    with pytest.raises(KeyError, match=r"is not in the table; the nearest are .*surrogate=True") as error:
        table.query(absent)
    named = str(error.value).partition("nearest are ")[2].partition(";")[0].split(", ")
    assert len(named) == 3
    assert {distance(absent, code) for code in named} == {1}
    found = table.query(absent, surrogate=True)
    assert found["source"] == "surrogate"
    assert found["sd"] > 0
    assert table.spent == 0
    assert table.query(CODES[0], surrogate=True)["source"] == "table"
    with pytest.raises(KeyError, match="is no code"):
        table.query("even-late", surrogate=True)
    with pytest.raises(KeyError, match="was not trained with seed 7, but with 0"):
        table.query(CODES[0], seed=7)


def test_the_surrogate_tells_what_it_has_not_seen(path):
    full = pd.read_parquet(path)
    part, left = VideoNAS(path), full[full.part == "factorial"].drop_duplicates("code").iloc[::5]
    for code in left.code:
        del part._runs[code]
    guesses = [part.query(code, surrogate=True)["validation"] for code in left.code]
    assert np.corrcoef(guesses, left.validation)[0, 1] > 0.8


def test_drawn_architectures_have_a_surrogate_of_their_own(table):
    code = table.drawn[0][:-1] + ("1" if table.drawn[0][-1] == "0" else "0")
    assert table.query(code, surrogate=True)["source"] == "surrogate"
    assert table.nearest(code)[0] == table.drawn[0]


def test_neighbours_are_in_the_table_and_lead_everywhere(table):
    seen, todo = {CODES[0]}, [CODES[0]]
    while todo:
        code = todo.pop()
        near = table.neighbours(code)
        assert all(1 <= distance(code, other) <= 2 for other in near)
        assert all(code in table.neighbours(other) for other in near[:2])
        fresh = set(near) - seen
        seen |= fresh
        todo += fresh
    assert seen == set(table.codes)


def test_the_final_report_is_of_the_best_that_was_queried(table):
    with pytest.raises(ValueError, match="no architecture was queried to its end"):
        table.final_report()
    table.query(CODES[5], at=1 / 3)
    asked = {code: table.query(code)["validation"] for code in CODES[:4]}
    report = table.final_report()
    assert report["code"] == max(asked, key=asked.get)
    assert report["spent"] == table.spent
    assert report["queried"] == 5
    assert report["regret"] == pytest.approx(table.optimum()["test"] - report["test"])
    assert table.final_report(CODES[9])["code"] == CODES[9]
    with pytest.raises(KeyError, match="is not in the table"):
        table.final_report("even-late")


def test_the_optimum_is_of_seeds_that_nothing_was_chosen_by(table, path):
    rows = pd.read_parquet(path)
    rows = rows[(rows.seed > 0) & (rows.part == "factorial")].groupby("code").validation.mean()
    assert table.optimum()["code"] == rows.idxmax()
    assert table.optimum()["seeds"] == [1, 2]


def test_a_table_of_another_space_is_refused(tmp_path, path):
    other = pd.read_parquet(path)
    other.attrs["videonas"]["space"] = "0" * 8
    other.to_parquet(tmp_path / "other.parquet", index=False)
    with pytest.raises(ValueError, match=f"is of space version 00000000, this code knows {space_version()}"):
        VideoNAS(tmp_path / "other.parquet")
    pd.DataFrame(dict(a=[1])).to_parquet(tmp_path / "any.parquet")
    with pytest.raises(ValueError, match="is of space version None"):
        VideoNAS(tmp_path / "any.parquet")


def test_nothing_of_ours_is_needed_to_read_it(path):
    code = f"""
import sys
from reproduce.evidence.tabular import VideoNAS
table = VideoNAS({str(path)!r})
table.query(table.codes[0])
table.query("even-late-concat-se-e1-k3-d122", surrogate=True)
table.final_report()
heavy = {{name.partition(".")[0] for name in sys.modules}} & {{"torch", "autotsnet", "baselines", "mmengine", "scipy"}}
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
