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
from reproduce.evidence.atemporal import AtemporalProbe, fit
from reproduce.evidence.temporal import (
    ORDERS,
    diagnose,
    is_run,
    orders,
    partners,
    predicted,
    reordered,
    report,
    temporal,
)
from reproduce.evidence.verify import _temporal
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
    done = typer.testing.CliRunner().invoke(app, ["temporal", "--frames", str(folder), *to])
    assert done.exit_code == 0, done.exception
    assert "| tsm-s0  | synthetic-ssv2 tiny |" in done.stdout
    found = json.loads((tmp_path / "results" / "temporal" / "ssv2-tiny" / "tsm-s0.json").read_text())
    assert (found["top1"]["natural"], found["n"], found["run"]) == (record.result.top1, record.result.n, record.run)
    assert sum(row["n"] for row in found["classes"]) == found["n"]
    for order in ORDERS:
        assert sum(row[order] for row in found["classes"]) == pytest.approx(found["top1"][order])
    assert found["sets"]["temporal"]["n"] == found["n"], "each of its classes is another one backwards"
    assert found["sets"]["static"] == {"n": 0}
    assert set(found["gaps"]) == {"shuffled", "reversed", "frozen", "best_frame", "probe"}
    assert found["best_frame"] >= found["top1"]["frozen"]
    assert "natural − atemporal probe" in done.stdout
    assert "| temporal, n" in done.stdout.replace("   ", " ")
    check_diagnosis = [*_temporal(tmp_path / "results" / "temporal" / "ssv2-tiny" / "tsm-s0.json")]
    assert not check_diagnosis
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


def test_shuffles_are_drawn_three_times_and_every_frame_is_shown():
    drawn = {name: order(8, np.random.default_rng((5, 4))).tolist() for name, order in orders(8, True).items()}
    shuffles = [drawn[name] for name in ("shuffled", "shuffled_2", "shuffled_3")]
    assert all(sorted(s) == list(range(8)) for s in shuffles)
    assert len(set(map(tuple, shuffles))) == 3
    shown = [set(drawn["frozen"])] + [set(of) for name, of in drawn.items() if name.startswith("frame_")]
    assert sorted(map(list, shown)) == [[t] for t in range(8)]
    assert list(orders(8)) == [*ORDERS, "shuffled_2", "shuffled_3"]


def test_gaps_and_sets_of_classes():
    label = np.repeat([0, 1], 40)
    wrong = 1 - label
    half = np.where(np.arange(80) % 2, label, wrong)
    table = pd.DataFrame(
        dict(id=range(80), label=label, natural=label, shuffled=label, reversed=wrong, frozen=half)
        | dict(shuffled_2=wrong, shuffled_3=wrong, frame_0=np.where(np.arange(80) % 2, wrong, label), probe=half)
    )
    found = diagnose(table, ("a", "b"), None, dict(temporal=(0,), static=(1,), random=()))
    assert found["top1"] == dict(natural=80, shuffled=pytest.approx(80 / 3), reversed=0, frozen=40)
    assert (found["best_frame"], found["probe"]) == (80, 40)
    assert found["changed"] == pytest.approx(200 / 3)
    points = {name: gap["points"] for name, gap in found["gaps"].items()}
    assert points == pytest.approx(dict(shuffled=200 / 3, reversed=100, frozen=50, best_frame=0, probe=50))
    assert found["gaps"]["frozen"]["low"] < 50 < found["gaps"]["frozen"]["high"]
    assert found["sets"]["random"] == {"n": 0}
    assert found["sets"]["temporal"]["n"] == 40
    assert found["sets"]["static"]["order_matters"]["points"] == pytest.approx(200 / 3)
    text = report([found | dict(id="m", dataset="d")])
    assert "natural − best single frame" in text
    assert "Only Time Can Tell" in text
    before = diagnose(table[["id", "label", *ORDERS]], ("a", "b"), None)
    assert set(before) == {"n", "top1", "order_matters", "to_partner", "classes"}, "as it was, of one draw"


def test_a_probe_picks_the_frame_that_tells_and_sees_no_order():
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.integers(3, size=240))
    x = torch.from_numpy(rng.normal(size=(240, 4, 8))).float()
    told = rng.integers(4, size=240)  # one frame shows the class, marked by a large last feature
    x[range(240), told, label.numpy()] += 6
    x[range(240), told, 7] += 9
    net = fit(x[:160], label[:160], 3, seed=0, epochs=40)
    with torch.no_grad():
        right = (net(x[160:]).argmax(1) == label[160:]).float().mean()
        assert right > 0.7, "any frame alone tells half of them"
        assert torch.allclose(net(x[:, [2, 0, 3, 1]]), net(x), atol=1e-4)
    again = fit(x[:160], label[:160], 3, seed=0, epochs=1)
    once = fit(x[:160], label[:160], 3, seed=0, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), once.parameters(), strict=True))
    torch.manual_seed(0)
    untrained = AtemporalProbe(8, 3)
    assert untrained(x).shape == (240, 3)
