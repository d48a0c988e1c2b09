"""What other orders of the frames do to a model: on one that must use time, on a run, and on made-up predictions."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer.testing

from autotsnet.registry import family
from reproduce.cli import app
from reproduce.data.datasets import TestVideos
from reproduce.data.manifest import DataError
from reproduce.engine.classifier import VideoClassifier
from reproduce.evidence.temporal import ORDERS, diagnose, is_run, partners, predicted, reordered, temporal
from reproduce.run import execute
from reproduce.spec import RunSpec
from reproduce.suites import SUITES
from reproduce.whole_files import write_json

SUITE = SUITES["ssv2-tiny"]


@pytest.fixture(scope="module")
def manifests(cache):
    """Training and test videos of the tiny Something-Something."""
    root = SUITE.data_root(cache)
    return SUITE.manifest("train", root), SUITE.manifest("val", root)


def test_orders():
    rng = np.random.default_rng(0)
    natural, shuffled, backwards, frozen = (order(8, rng) for order in ORDERS.values())
    assert natural.tolist() == sorted(shuffled) == sorted(backwards) == list(range(8))
    assert backwards.tolist() == natural.tolist()[::-1]
    assert shuffled.tolist() not in (natural.tolist(), backwards.tolist())
    assert set(frozen) == {4}


def test_reversal_sends_a_model_that_uses_time_to_the_partner_class(manifests):
    """Taught the test clips, and the same backwards under the partner's label: only the order tells them apart."""
    _, test = manifests
    batch = [TestVideos(test, SUITE.protocol)[n] for n in range(len(test.videos))]
    forth, label = torch.stack([b["clips"] for b in batch]), torch.tensor([b["label"] for b in batch])
    clips, labels = torch.cat([forth, forth.flip(2)]), torch.cat([label, torch.tensor(partners(SUITE))[label]])
    torch.manual_seed(0)
    model = VideoClassifier(family("tsm").build(num_classes=4, frames=8, crop=32, base_channels=8, depth=18))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        model(clips[:, :1], labels, mode="loss")["loss"].backward()
        optimiser.step()
    found = diagnose(predicted(reordered(model.eval(), test, SUITE.protocol)), test.classes, partners(SUITE))
    n = found["n"]
    assert n == 8
    assert found["top1"]["natural"] >= 7
    assert found["top1"]["reversed"] <= 1
    assert found["to_partner"] >= 7
    assert found["top1"]["frozen"] <= 5, "one frame does not tell the classes of a pair apart"
    assert all(row["partner"] == row["reversed_taken_for"] for row in found["classes"])


def test_a_run_is_diagnosed_on_what_it_was_tested_on(manifests, cache, tmp_path):
    train, test = manifests
    spec = RunSpec.of(SUITE, SUITE.entry("tsm"), 0, train, test)
    record = execute(SUITE, SUITE.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    folder = spec.folder(tmp_path / "runs")
    to = ["--cache", str(cache), "--results", str(tmp_path / "results")]
    done = typer.testing.CliRunner().invoke(app, ["temporal", str(folder), *to])
    assert done.exit_code == 0, done.exception
    assert "| tsm-s0  | synthetic-ssv2 tiny |" in done.stdout
    found = json.loads((tmp_path / "results" / "temporal" / "ssv2-tiny" / "tsm-s0.json").read_text())
    assert (found["top1"]["natural"], found["n"], found["run"]) == (record.result.top1, record.result.n, record.run)
    assert sum(row["n"] for row in found["classes"]) == found["n"]
    for order in ORDERS:
        assert sum(row[order] for row in found["classes"]) == found["top1"][order]
    other = spec.model_copy(update=dict(test_manifest="0123456789ab"))
    write_json(other.folder(tmp_path) / "spec.json", other.model_dump())
    with pytest.raises(DataError, match=r"tested on manifest 0123456789ab, .* is \w+; name the copy"):
        temporal(other.folder(tmp_path), cache, tmp_path)
    with pytest.raises(DataError, match=r"has no spec\.json: it is no folder of a trained run"):
        is_run(tmp_path)
    (tmp_path / "search-fpnas-s0-1a2b3c4d").mkdir()
    searches = typer.testing.CliRunner().invoke(app, ["temporal", str(tmp_path / "search-fpnas-s0-1a2b3c4d"), *to])
    assert "no run to diagnose, searches only" in str(searches.exception)


def test_classes_are_ranked_by_what_order_is_worth():
    labels, scores = np.repeat([0, 1, 2], 20), np.eye(3)
    confused = np.where(labels == 1, 2, labels)  # class 1 needs order, the others do not
    taken = dict(natural=labels, shuffled=confused, reversed=confused, frozen=np.zeros(60, int))
    tables = {
        name: pd.DataFrame(dict(id=range(60), label=labels, error="", scores=list(scores[taken[name]])))
        for name in ORDERS
    }
    tables["frozen"].loc[0, "error"] = "gone"
    tables["frozen"].at[1, "scores"] = np.full(3, np.nan)
    tables["frozen"].at[2, "scores"] = np.ones(3)
    table = predicted({name: t.sample(frac=1, random_state=0) for name, t in tables.items()})
    assert table.id.tolist() == list(range(60))
    assert table.frozen[:4].tolist() == [-1, -1, -1, 0]
    found = diagnose(table, ("a", "b", "c"), None)
    assert found["top1"] == dict(natural=60, shuffled=40, reversed=40, frozen=17)
    assert found["order_matters"]["points"] == pytest.approx(100 / 3)
    assert found["order_matters"]["p"] < 1e-5
    assert [row["class"] for row in found["classes"]] == ["b", "a", "c"]
    assert found["classes"][0]["reversed_taken_for"] == "c"
    assert found["to_partner"] is None
