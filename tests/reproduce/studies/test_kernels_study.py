"""The study of quick layers: both sides are trained, and the rule reads their means."""

import json

import pytest

from reproduce.studies import kernels


@pytest.mark.slow
def test_both_sides_are_trained_and_set_against_each_other(tmp_path, cache, capsys):
    out = tmp_path / "kernels.json"
    where = ["--runs", str(tmp_path / "runs"), "--cache", str(cache), "--out", str(out)]
    kernels.main(["--suite", "kinetics-tiny", "--entries", "tsm", "--seeds", "2", *where])
    found = json.loads(out.read_text())["families"]["tsm"]
    assert [len(found[side]) for side in kernels.SIDES] == [2, 2]
    mean, low, high = found["difference"]
    assert mean == sum(found["ours"]) / 2 - sum(found["torch"]) / 2
    assert found["unchanged"] == (low <= 0 <= high)
    assert "tsm: " in capsys.readouterr().out
