"""Tables from records, and from none."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reproduce.evidence import tables
from reproduce.suites import SUITES, at_budget
from tests.reproduce.made import make

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize("name", ["kinetics", "ssv2", "kinetics-quick"])
def test_without_records_costs_are_there_and_the_rest_is_not_run(name, tmp_path):
    text = tables.render(SUITES[name], tmp_path)
    assert SUITES[name].dataset in text.splitlines()[0]
    frame = tables.table(SUITES[name], [], tmp_path)
    assert set(frame["top-1 % [95 %]"]) == set(frame.verdict) == {"not run"}
    assert set(frame["rank"]) == {"–"}
    entries = [e for e in SUITES[name].entries if not (SUITES[name].size and e.optional)]
    assert [model.split()[0] for model in frame.model] == [e.name for e in entries]
    searched = pd.Series([e.search is not None for e in entries])
    assert set(frame["GMACs/view"][searched]) == {"not run"}
    gmacs = frame["GMACs/view"][~searched].astype(float)
    assert gmacs.between(0.98 * SUITES[name].gmacs, 1.02 * SUITES[name].gmacs).all()
    assert (tmp_path / "tables" / f"{name}.csv").exists()
    assert ("literature" in text) == (SUITES[name].published is not None)


def test_a_searched_model_is_set_against_random_ones_of_its_own_space():
    suite = SUITES["kinetics-quick"]
    controls = {e.name: (c := suite.control(e)) and c.name for e in suite.entries}
    assert {name: c for name, c in controls.items() if c != "auto_tsnet_random"} == {
        "auto_tsnet_random": None,
        "assemblenet_random": None,
        "pvnas_random": None,
        "e3d_random": None,
        "tiny_video_net_random": None,
        "assemblenet_searched": "assemblenet_random",
        "pvnas": "pvnas_random",
        "tiny_video_net_searched": "tiny_video_net_random",
        "e3d_searched": "e3d_random",
        "auto_x3d_random": None,
        "evanet_random": None,
        "auto_x3d": "auto_x3d_random",
        "evanet_searched": "evanet_random",
    }


def test_a_searched_model_names_its_control_where_it_is_not_the_first(results):
    names = ("tsm", "auto_tsnet_random", "auto_tsnet", "pvnas_random", "pvnas")
    make(results, *(f"{name}-s0" for name in names))
    chosen = replace(QUICK, entries=tuple(e for e in QUICK.entries if e.name in names))
    found = {row.name: row for row in tables.rows(chosen, results)}
    assert found["pvnas"].control == "pvnas_random"
    frame = pd.read_csv(io.StringIO(tables.rendered(chosen, results)[".csv"]), keep_default_na=False)
    cells = dict(zip(frame.model.str.split().str[0], frame["− random, points [95 %]"], strict=True))
    assert cells["pvnas"].endswith("against pvnas_random")
    assert "against" not in cells["auto_tsnet"]
    assert cells["pvnas_random"] == "–"


def test_a_baseline_can_be_named(results):
    make(results, "x3d-s0", "tsm-s0", "auto_tsnet_random-s0")
    texts = tables.rendered(CHOSEN, results, "tsm")
    frame = pd.read_csv(io.StringIO(texts[".csv"]), keep_default_na=False)
    cells = dict(zip(frame.model.str.split().str[0], frame["− tsm, points [95 %]"], strict=True))
    assert cells["tsm"] == "–"
    assert re.match(r"-\d", cells["x3d"])
    assert re.match(r"\+\d", cells["auto_tsnet_random"])
    assert cells["auto_tsnet_random"] in texts[".md"]
    assert "− tsm: top-1 minus that of tsm; interval" in texts[".md"]
    with pytest.raises(ValueError, match="no entry 'resnet'"):
        tables.rendered(CHOSEN, results, "resnet")
    with pytest.raises(ValueError, match="tsm has no records in suite 'kinetics' to set"):
        tables.rendered(SUITES["kinetics"], results, "tsm")


def test_every_literature_value_has_its_source():
    for suite in SUITES.values():
        for entry in suite.entries:
            value, source = tables.literature(suite, entry)
            assert (value == "–") == (source == "–")


def test_published_rows_exist():
    values = {e.name: tables.literature(SUITES["kinetics"], e)[0] for e in SUITES["kinetics"].entries}
    assert values["x3d"].startswith("76.2 (X3D-M")
    assert values["slowfast"].startswith("75.6 (R50 4x16")
    assert values["auto_tsnet"].startswith("78.9 (Auto-TSNet-L")


QUICK = SUITES["kinetics-quick"]
SEEDS = (0, 1, 2)


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A folder of results to be filled, with no reference to learn the spread of runs from."""
    monkeypatch.setattr(tables, "REFERENCE", tmp_path / "nowhere")
    return tmp_path / "own"


@pytest.fixture(scope="session")
def reference(shared) -> Path:
    """Results of three seeds of four entries."""
    names = ("x3d", "tsm", "mvit", "auto_tsnet_random", "auto_tsnet")
    return shared("made", lambda folder: make(folder, *(f"{name}-s{s}" for name in names for s in SEEDS)))


def of(rows: list[tables.Row], name: str) -> list[tables.Row]:
    return [row for row in rows if row.name == name and row.records]


CHOSEN = replace(
    QUICK, entries=tuple(e for e in QUICK.entries if e.name in ("x3d", "tsm", "mvit", "auto_tsnet_random"))
)


def test_one_run_each_of_unknown_spread_is_no_verdict(results):
    make(results, "x3d-s0", "tsm-s0", "auto_tsnet_random-s0")
    for row in of(tables.rows(CHOSEN, results), "tsm") + of(tables.rows(CHOSEN, results), "x3d"):
        assert (row.verdict, row.sure, row.mark, row.p) == ("one run", "one run", "", None)
    text = tables.terminal(CHOSEN, results)
    assert "▲" not in text
    assert "▼" not in text
    assert "SEEDS=0,1,2" in text
    assert "is not shown to beat" in tables.verdict_sentence(CHOSEN, tables.rows(CHOSEN, results))
    assert "one run" in tables.verdict_sentence(CHOSEN, tables.rows(CHOSEN, results))


def test_one_run_of_a_known_spread_has_a_verdict(results, reference, monkeypatch):
    make(results, "x3d-s0", "tsm-s0", "auto_tsnet_random-s0")
    monkeypatch.setattr(tables, "REFERENCE", reference)
    found = tables.rows(CHOSEN, results)
    assert "one run" not in {row.verdict for row in found}
    (x3d,) = of(found, "x3d")
    assert (x3d.verdict, x3d.mark) == ("worse", "▼")
    assert len(x3d.dots) == 1
    said = "Models without two runs here are in that pool by the reference's"
    assert said in tables.rendered(CHOSEN, results)[".md"]
    assert said not in tables.rendered(CHOSEN, reference)[".md"]
    make(results, *(f"{name}-s1" for name in ("x3d", "tsm", "mvit", "auto_tsnet_random", "auto_tsnet")))
    make(results, "mvit-s0", "auto_tsnet-s0")
    assert said not in tables.rendered(CHOSEN, results)[".md"], "all have two runs"


def test_a_model_at_chance_is_named_ranked_last_and_claimed_nothing_of(results, reference, monkeypatch):
    monkeypatch.setattr(tables, "REFERENCE", reference)
    make(results, *(f"{name}-s{s}" for name in ("x3d", "tsm", "mvit", "auto_tsnet_random") for s in (0, 1)))
    found = tables.rows(CHOSEN, results)
    (mvit,) = of(found, "mvit")
    assert not mvit.learned
    assert (mvit.verdict, mvit.p, mvit.rank) == ("did not learn", None, 4)
    against = {row.name: row for row in tables.rows(CHOSEN, results, "mvit") if row.records}
    assert {row.verdict for row in against.values()} == {"did not learn"}, "nor is anything claimed against it"
    text = tables.rendered(CHOSEN, results)[".md"]
    assert "- Chance: 12.5 %" in text
    assert "MViT did not learn." in tables.verdict_sentence(CHOSEN, found)


def test_runs_of_a_row_differ_in_the_seed_only(results):
    """A seed of another recipe or device is a row of its own, which says so."""
    make(results, "x3d-s0", "x3d-s1")
    make(results, "x3d-s2", recipe=dict(epochs=1))
    rows = of(tables.rows(CHOSEN, results), "x3d")
    assert [(len(row.records), row.kind) for row in rows] == [
        (2, ""),
        (1, "another recipe (epochs) than the suite's"),
    ]
    make(results, "x3d-s2", net=dict(dropout=0.25))
    rows = of(tables.rows(CHOSEN, results), "x3d")
    assert [len(row.records) for row in rows] == [2, 1]
    assert rows[1].kind.startswith("another net (dropout) than the suite's")
    make(results, "x3d-s2", old=True)
    assert [row.kind for row in of(tables.rows(CHOSEN, results), "x3d")] == ["", "old record"]
    make(results, "x3d-s2", device="AMD EPYC, 2 cores")
    rows = of(tables.rows(CHOSEN, results), "x3d")
    assert [len(row.records) for row in rows] == [2, 1]
    assert "AMD EPYC" in rows[1].label
    assert "AMD EPYC" in tables.rendered(CHOSEN, results)[".md"]


def test_searched_networks_of_one_row_differ_in_the_architecture(results):
    make(
        results,
        *(f"{name}-s{s}" for name in ("auto_tsnet", "auto_tsnet_random", "auto_tsnet_random-a1") for s in (0, 1)),
    )
    suite = replace(QUICK, entries=(QUICK.entry("auto_tsnet"), QUICK.entry("auto_tsnet_random")))
    assert [len(row.records) for row in tables.rows(suite, results)] == [2, 4]
    make(results, "auto_tsnet-s1", net=dict(dropout=0.25))
    assert [len(row.records) for row in of(tables.rows(suite, results), "auto_tsnet")] == [1, 1]


def test_the_precision_is_what_was_measured(results):
    make(results, "x3d-s0")
    assert "one view, fp32, spread" in tables.rendered(CHOSEN, results)[".md"]
    measured = make(results, "x3d-s0").throughput.model_copy(update={"precision": "tf32"})
    make(results, "x3d-s0", throughput=measured)
    assert "one view, tf32, spread" in tables.rendered(CHOSEN, results)[".md"]


def test_an_entry_that_cannot_meet_the_budget_is_out_of_reach(tmp_path):
    suite = at_budget(SUITES["kinetics-tiny"], 1e-6)  # less than the smallest member of any family
    suite = replace(suite, size="", entries=(suite.entry("mvit"), suite.entry("auto_tsnet_random")))
    assert [row.verdict for row in tables.rows(suite, tmp_path)] == ["out of reach", "not run"]
    assert "out of reach" in tables.terminal(suite, tmp_path)
    assert "out of reach" in tables.rendered(suite, tmp_path)[".md"]


def test_a_missed_budget_is_not_called_better(results, reference, monkeypatch):
    monkeypatch.setattr(tables, "REFERENCE", reference)
    make(results, "x3d-s0", "auto_tsnet_random-s0")
    model = make(results, "tsm-s0").model
    make(results, "tsm-s0", model=model.model_copy(update={"residual": 0.12, "matched": False}))
    found = tables.rows(CHOSEN, results)
    assert [row.verdict for row in of(found, "tsm")] == ["budget missed"]
    assert [row.verdict for row in of(found, "x3d")] == ["worse"]


def test_the_terminal_has_a_hundred_columns_and_what_comes_next(reference, monkeypatch, tmp_path):
    shutil.copytree(reference, tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    reference = Path("reference")
    text = tables.terminal(CHOSEN, reference)
    assert ".md" not in text, "files that are not there are not named"
    tables.render(CHOSEN, reference)
    text = tables.terminal(CHOSEN, reference)
    assert max(map(len, text.splitlines())) <= 100
    ranked = [line.split()[1] for line in text.splitlines() if re.match(r" ?\d+  ", line)]
    assert ranked == ["auto_tsnet_random", "auto_tsnet", "tsm", "x3d", "mvit"]
    assert f"{reference / 'tables' / QUICK.name}.md" in text
    assert f"make report RESULTS={reference}" in text
    assert f"make verify RESULTS={reference}" in text
    monkeypatch.setattr(tables, "REFERENCE", reference)
    text = tables.terminal(CHOSEN, reference)
    assert text.endswith(": make verify"), "a page of the reference is there"
    assert "make report" not in text


def test_the_sentence_says_what_the_rows_say(results, reference, monkeypatch):
    monkeypatch.setattr(tables, "REFERENCE", reference)
    chosen = replace(CHOSEN, entries=(*CHOSEN.entries, QUICK.entry("auto_tsnet")))
    found = tables.rows(chosen, reference)
    (tsm,) = of(found, "tsm")
    d = tsm.difference
    assert (tsm.verdict, d.points < -10) == ("worse", True)
    sentence = tables.verdict_sentence(chosen, found)
    assert f"Auto-TSNet's space beats TSM by {-d.points:.1f} points [{-d.high:.1f}, {-d.low:.1f}]" in sentence
    assert "is not shown to beat random" in sentence
    make(results, *(f"{name}-s{s}" for name in ("tsm", "auto_tsnet_random") for s in SEEDS))
    make(results, *(f"auto_tsnet-s{s}" for s in SEEDS), right=0.95)
    assert "is not shown to beat" not in tables.verdict_sentence(chosen, tables.rows(chosen, results))
    assert tables.verdict_sentence(chosen, []) == "Nothing was run yet."


def test_real_data_has_columns_of_classes_that_need_time(tmp_path):
    suite = replace(SUITES["kinetics"], entries=(SUITES["kinetics"].entry("x3d"),))
    make(tmp_path, "x3d-s0", suite=suite)
    folder = tmp_path / "records" / suite.name
    answers = pd.read_parquet(folder / "x3d-s0.parquet")
    right = np.stack(answers.scores).argmax(1) == answers.label
    (row,) = tables.rows(suite, tmp_path)
    for name, of in suite.class_sets.items():
        top1, low, high = row.on_sets[name]
        assert top1 == pytest.approx(100 * right[answers.label.isin(of)].mean()), name
        assert low < top1 < high
    text = tables.rendered(suite, tmp_path)[".md"]
    assert "temporal classes, top-1 %" in text
    assert "those of Only Time Can Tell" in text
    assert "classes, top-1" not in tables.rendered(SUITES["ssv2"], tmp_path)[".md"], "nothing without records"
