"""Tables from records, and from none."""

from pathlib import Path

import pandas as pd
import pytest

from reproduce import tables
from reproduce.records import load_all
from reproduce.suites import SUITES

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", ["kinetics", "ssv2", "kinetics-quick"])
def test_without_records_costs_are_there_and_the_rest_is_not_run(name, tmp_path):
    text = tables.render(SUITES[name], tmp_path)
    assert SUITES[name].dataset in text.splitlines()[0]
    frame = tables.table(SUITES[name], [], tmp_path)
    assert set(frame["top-1 % [95 %]"]) == {"not run"}
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
        "assemblenet_searched": "assemblenet_random",
        "pvnas": "pvnas_random",
    }
    frame = tables.table(suite, load_all(RESULTS / "records" / suite.name), RESULTS / "records" / suite.name)
    cells = dict(zip(frame.model.str.split().str[0], frame["− random, points [95 %]"], strict=True))
    assert cells["pvnas"].endswith("against pvnas_random")
    assert "against" not in cells["auto_tsnet"]
    assert cells["pvnas_random"] == "–"


def test_a_baseline_can_be_named():
    suite = SUITES["kinetics-quick"]
    text = tables.rendered(suite, RESULTS, "tsm")[".md"]
    frame = tables.table(suite, load_all(folder := RESULTS / "records" / suite.name), folder, "tsm")
    cells = dict(zip(frame.model.str.split().str[0], frame["− tsm, points [95 %]"], strict=True))
    assert cells["tsm"] == "–"
    runs = tables.runs_of(suite, load_all(folder))
    pairs = {name: (of, runs["tsm"]) for name, of in runs.items() if name != "tsm" and of}
    assert cells == {"tsm": "–"} | tables.differences(pairs, folder)
    assert cells["auto_tsnet_random"] in text
    assert "− tsm: top-1 minus that of tsm; interval" in text
    with pytest.raises(ValueError, match="no entry 'resnet'"):
        tables.rendered(suite, RESULTS, "resnet")
    with pytest.raises(ValueError, match="tsm has no records in suite 'kinetics' to set"):
        tables.rendered(SUITES["kinetics"], RESULTS, "tsm")


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
