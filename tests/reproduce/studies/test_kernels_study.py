"""The study of quick ways: all sides are trained or tested, and the rule reads their means."""

import json

import pytest

from reproduce.studies import kernels


@pytest.mark.slow
def test_sides_are_trained_and_set_against_each_other(tmp_path, cache, capsys):
    out = tmp_path / "kernels.json"
    where = ["--runs", str(tmp_path / "runs"), "--cache", str(cache), "--out", str(out)]
    kernels.main(["--suite", "kinetics-tiny", "--entries", "tsm", "--seeds", "2", *where])
    found = json.loads(out.read_text())["families"]["tsm"]
    assert {side: len(top1) for side, top1 in found["top1"].items()} == dict.fromkeys(kernels.SIDES, 2)
    assert list(found["differences"]) == ["ours", "bf16", "tested"]
    assert "tsm: tested - ours " in capsys.readouterr().out


def test_the_rule_reads_the_interval():
    top1 = dict(torch=[50.0, 52.0, 51.0], ours=[51.0, 50.0, 52.0], bf16=[40.0, 41.0, 42.0], tested=[50.0, 49.0, 51.0])
    found = kernels.differences(top1)
    assert {side: d["unchanged"] for side, d in found.items()} == dict(ours=True, bf16=False, tested=False)
    assert found["bf16"]["points"][0] == -10
    assert kernels.differences(dict(ours=[50.0, 60.0], tested=[50.0, 60.0]))["tested"]["unchanged"]
