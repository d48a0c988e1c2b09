"""From a copy in a real layout to a record: a small suite of the real data sets' classes, on small copies."""

from dataclasses import replace

import pandas as pd
import pytest

from reproduce.data import kinetics, ssv2
from reproduce.data.manifest import DataError
from reproduce.evidence.tables import table, title
from reproduce.launch.local import jobs, run_jobs
from reproduce.records import RunRecord
from reproduce.suites import SUITES


def small(name: str):
    """The real suite of that name with the networks, clips and recipes of the tiny one."""
    real, tiny = SUITES[name], SUITES[f"{name}-tiny"]
    return replace(real, gmacs=0.02, protocol=tiny.protocol, entries=(tiny.entry("tsm"),))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("kinetics", "official"), ("kinetics", "mmaction2"), ("ssv2", "webm"), ("ssv2", "frames")],
)
def test_from_a_copy_to_a_record(kinetics_copy, ssv2_copy, tmp_path, monkeypatch, caplog, name, layout):
    copy, load = (kinetics_copy, kinetics.load) if name == "kinetics" else (ssv2_copy, ssv2.load)
    root, suite = copy(tmp_path / "copy", layout), small(name)
    train, val = load(root, "train").videos, load(root, "val").videos
    monkeypatch.setenv(suite.root, str(root))
    monkeypatch.setitem(SUITES, name, suite)
    arguments = (jobs(suite, ["tsm"], [0]), tmp_path / "cache", tmp_path / "runs", tmp_path / "results")
    with pytest.raises(DataError, match=r"classes have no video, .*ALLOW_PARTIAL=1"):
        run_jobs(*arguments)
    assert not (tmp_path / "runs").exists(), "refused before any work"

    if layout != "frames":
        (root / train[3].path).unlink()
        (root / train[7].path).write_bytes(b"no video" * 100)
        (root / val[5].path).write_bytes(b"no video" * 100)
    monkeypatch.setenv("ALLOW_PARTIAL", "1")
    run_jobs(*arguments)
    record = RunRecord.load(tmp_path / "results" / "records" / name / "tsm-s0.json")
    rotten = layout != "frames"
    assert record.data.dataset == suite.dataset
    assert record.data.partial
    assert (record.data.train_videos, record.data.train_absent) == ((39, 1) if rotten else (40, 0))
    assert record.data.train_skipped == ([train[7].id] if rotten else [])
    assert record.result.failed == ([val[5].id] if rotten else [])
    assert record.result.n == 20
    folder = tmp_path / "results" / "records" / name
    predictions = pd.read_parquet(folder / "tsm-s0.parquet")
    assert set(predictions.label) == {v.label for v in val}
    assert predictions.scores.map(len).unique().tolist() == [suite.classes]
    assert "a **partial copy** of the data set" in title(suite, [record])
    (row,) = table(suite, [record], folder).to_dict("records")
    assert row["n"] == ("20 (1 failed, counted wrong)" if rotten else "20")
    assert ("; trained without 1 missing and 1 undecodable videos" in title(suite, [record])) == rotten
    if rotten:
        assert caplog.text.count("skipped in training") == 1
        assert caplog.text.count("1 of 40 videos have no file") == 1
