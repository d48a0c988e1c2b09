"""Replays on a made table: the rows of the product, random search in closed form, and what strategies find."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from autotsnet.space import Product
from reproduce.evidence.tabular import VideoNAS, codes
from reproduce.studies import replay
from reproduce.studies.replay import BLOCKS, STRATEGIES, TableJudge, code_of, course, random_search
from tests.reproduce.made_nas import made_table


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "videonas.parquet"
    made_table(drawn=0).to_parquet(path, index=False)
    return path


def test_the_rows_of_the_product_are_the_codes():
    every = torch.cartesian_prod(*(torch.arange(n) for (n,) in BLOCKS))
    assert {code_of(row) for row in every.tolist()} == set(codes())


def test_random_search_in_closed_form_is_its_mean():
    rng = np.random.default_rng(0)
    validation, values = rng.normal(size=40), rng.normal(size=40)
    assert random_search(validation, values, 1) == pytest.approx(values.mean())
    assert random_search(validation, values, 40) == pytest.approx(values[validation.argmax()])
    drawn = [rng.permutation(40)[:6] for _ in range(20_000)]
    mean = np.mean([values[of[validation[of].argmax()]] for of in drawn])
    assert random_search(validation, values, 6) == pytest.approx(mean, abs=0.03)


def test_a_judge_scores_by_log_loss_and_what_is_not_there_fails(path):
    table = VideoNAS(path)
    judge, rows = TableJudge(table), Product(BLOCKS).sample(5, torch.Generator().manual_seed(0))
    gone = code_of(rows[0].tolist())
    table.codes.remove(gone)
    scores = judge.scores(rows)
    assert scores.isneginf().tolist() == [code_of(row) == gone for row in rows.tolist()]
    assert set(scores[scores.isfinite()].tolist()) == {-1.0}
    assert table.spent > 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_spends_and_is_the_same_with_the_same_seed(path, name):
    table = VideoNAS(path)
    a = [found["code"] for found in islice(STRATEGIES[name](table, 1), 12)]
    spent = table.spent
    table.reset()
    assert a == [found["code"] for found in islice(STRATEGIES[name](table, 1), 12)]
    assert table.spent == spent > 0


def test_an_answer_at_a_budget_was_found_by_then(path):
    table = VideoNAS(path)
    asked = list(islice(replay.local(table, 0), 9))
    table.reset()
    prices = [table.query(found["code"], 0)["charged"] for found in asked]
    budget = sum(prices[:3]) + 0.01
    first = max(asked[:3], key=lambda found: found["validation"])["code"]
    assert course(table, replay.local, 0, [prices[0] / 2, budget]) == [None, first]


def test_the_study_writes_regrets_that_fall(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(replay, "MOST", 150)
    out = tmp_path / "replay.json"
    replay.main(["--table", str(path), "--repeats", "3", "--out", str(out)])
    record = json.loads(out.read_text())
    assert set(record["regret"]) == {"random, expected", *STRATEGIES}
    expected = [mean for mean, _, _ in record["regret"]["random, expected"]]
    assert expected == sorted(expected, reverse=True)
    assert record["regret"]["local search"][-1][0] < expected[0]
    assert "regret, points of test" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        replay.main(["--table", str(path), "--repeats", "1", "--out", str(out)])
