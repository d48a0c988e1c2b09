"""Indicators against a made table: what tau, disattenuated and partial, says where the answer is known."""

import json

import numpy as np
import pandas as pd
import pytest

from reproduce.studies import indicators
from reproduce.studies.indicators import compared, disattenuated, partial_tau
from reproduce.studies.videonas import architecture
from tests.reproduce.made_nas import made_table

CODES = [
    f"{split}-none-{fusion}-none-e1-k3-d122"
    for split, fusion in (("slow", "none"), ("fast", "none"), ("even", "none"), ("even", "concat"))
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A few real networks, narrow, whose accuracy is the number of their parameters."""
    path = tmp_path_factory.mktemp("table") / "videonas.parquet"
    table = made_table(CODES, repeated=4, drawn=0)
    table["architecture"] = [json.dumps(architecture(code).to_dict()) for code in table.code]
    table["width"], table["expansion_scale"] = 0.2, 1.0
    table.attrs["videonas"]["repeated_at_random"] = CODES
    table.to_parquet(path, index=False)
    return path


def test_the_study_measures_once_and_writes_what_it_found(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(indicators, "PAIRS", 2)
    monkeypatch.setattr("reproduce.studies.videonas_card.RESAMPLES", 10)
    out = tmp_path / "indicators.json"
    asked = ["--table", str(path), "--clips", "noise", "--names", "nwot,params,error,kappa,regions", "--out", str(out)]
    monkeypatch.setattr("autotsnet.search.indicators.activations.SAMPLES", 20)
    indicators.main(asked)
    record = json.loads(out.read_text())
    assert record["networks"] == 4
    assert {row["indicator"] for row in record["indicators"]} == {
        "nwot",
        "params",
        "error",
        "kappa",
        "regions",
        "teg_nas",
    }
    assert all(row["failed"] == 0 for row in record["indicators"])
    assert "4 networks of synthetic-ssv2 made" in capsys.readouterr().out
    monkeypatch.setattr(indicators, "measure", None)  # a second time nothing is measured
    indicators.main(asked)
    assert json.loads(out.read_text())["indicators"] == record["indicators"]
    with pytest.raises(SystemExit):
        indicators.main(["--table", str(path), "--names", "magic"])
    assert "unknown indicators magic" in capsys.readouterr().err


def test_an_indicator_that_knows_is_first_and_one_without_value_is_last(monkeypatch):
    monkeypatch.setattr("reproduce.studies.videonas_card.RESAMPLES", 10)
    rng, n = np.random.default_rng(0), 30
    truth = rng.normal(size=n)
    rows = pd.DataFrame(dict(test=truth, gmacs=0.016, params=rng.integers(1000, size=n)))
    values = pd.DataFrame(dict(nwot=truth, kappa=truth, params=rows.params * 1.0))
    values.loc[truth.argmin(), "nwot"] = np.nan
    found = compared(values, rows, ["nwot", "kappa", "params"], icc=1.0)
    assert [row["indicator"] for row in found] == ["nwot", "params", "kappa"]
    assert found[0]["tau"] == pytest.approx(1)
    assert found[-1]["tau"] == pytest.approx(-1)  # less is better
    assert found[0]["failed"] == 1


def test_partial_and_disattenuated_taus():
    rng = np.random.default_rng(0)
    size = rng.normal(size=400)
    x, y = (size + 0.3 * rng.normal(size=400) for _ in range(2))
    assert partial_tau(x, y, size) < 0.3 < partial_tau(x, y, np.ones(400))
    assert abs(partial_tau(rng.normal(size=400), y, size)) < 0.1
    true = rng.normal(size=4000)
    noisy = true + rng.normal(size=4000)  # ICC one half
    x = true + 0.5 * rng.normal(size=4000)
    from scipy.stats import kendalltau

    assert disattenuated(kendalltau(x, noisy)[0], 0.5) == pytest.approx(kendalltau(x, true)[0], abs=0.03)
    assert disattenuated(0.9, 0.1) == 1
    assert np.isnan(disattenuated(0.5, -0.1))
