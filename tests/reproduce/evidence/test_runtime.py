"""Models at equal time: each at the budget that takes it; a time is planted."""

import json
from dataclasses import replace

import pytest

from reproduce.evidence import runtime
from reproduce.suites import suite
from tests.reproduce.made import make

QUICK = suite("ssv2-quick")


@pytest.fixture
def planted(monkeypatch):
    """A pass takes 0.5 ms and what grows with the GMACs of the suite; TSM is twice as fast."""

    def ms_of(of, entry):
        return (0.5 + 100 * of.gmacs) / (2 if entry.name == "tsm" else 1)

    monkeypatch.setattr(runtime, "ms_of", ms_of)


def test_each_entry_has_the_budget_that_takes_the_time(planted):
    for name, gmacs in (("x3d", 0.016), ("tsm", 0.037)):
        budget, taken = runtime.at_time(QUICK, QUICK.entry(name), 2.1)
        assert taken == pytest.approx(2.1, rel=runtime.TOLERANCE)
        assert budget.gmacs == pytest.approx(gmacs, rel=0.1)
    assert budget.name == f"ssv2-quick@{budget.gmacs:g}"
    with pytest.raises(ValueError, match="auto_tsnet is searched for, or drawn, at a budget of GMACs"):
        runtime.at_time(QUICK, QUICK.entry("auto_tsnet"), 2.1)


def test_the_table_is_of_what_was_run_at_those_budgets(planted, tmp_path, monkeypatch):
    done = []

    def run_jobs(todo, cache, runs, results, at_a_time):
        for job in todo:
            done.append(str(job))
            make(results, f"{job.entry}-s{job.seed}", suite=suite(job.suite))

    monkeypatch.setattr(runtime.parallel, "run_jobs", run_jobs)
    monkeypatch.setattr(runtime.local, "jobs", lambda of, names, seeds: [_Job(of.ref, names[0], s) for s in seeds])
    folders = (tmp_path / "cache", tmp_path / "runs", tmp_path / "results")
    text = runtime.equal_time(QUICK, ["x3d", "tsm"], None, [0, 1], *folders)
    lines = [
        line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| x3d") or line.startswith("| tsm")
    ]
    assert [line[0].strip() for line in lines] == ["tsm", "x3d"], "the most accurate first"
    assert [float(line[1]) for line in lines] == pytest.approx([2.1, 2.1], rel=runtime.TOLERANCE)
    assert lines[1][-1].strip() == "–"
    assert "at 2.1 ms a clip" in text
    assert (folders[2] / "tables" / "runtime-ssv2-quick.csv").exists()
    known = json.loads((folders[2] / "runtime" / "ssv2-quick.json").read_text())
    monkeypatch.setattr(runtime, "ms_of", None)  # asked again, nothing is measured
    assert runtime.equal_time(QUICK, ["x3d", "tsm"], None, [0, 1], *folders) == text
    assert json.loads((folders[2] / "runtime" / "ssv2-quick.json").read_text()) == known


class _Job:
    def __init__(self, suite: str, entry: str, seed: int) -> None:
        self.suite, self.entry, self.seed = suite, entry, seed


def test_what_evolution_found_takes_part_as_an_entry_of_a_file(tmp_path, monkeypatch):
    from baselines.tiny_video_net import TinyVideoSpace

    space = TinyVideoSpace(8, 48, 0.125)
    found = space.decode(space.counts // 2)
    asked = []

    def search(of, config, seed, train, runs):
        asked.append(config.options.milliseconds)
        return type("Found", (), dict(architecture=found))

    monkeypatch.setattr(runtime, "search", search)
    monkeypatch.setattr(type(QUICK), "manifest", lambda *args: None)
    monkeypatch.setattr(type(QUICK), "data_root", lambda *args: None)
    own = runtime._with_evolved(QUICK, 2.10004, 0, tmp_path, tmp_path, tmp_path)
    assert asked == [2.1]
    entry = own.entry(runtime.EVOLVED)
    net = entry.recipe().net
    assert net.architecture == found.to_dict()
    assert (own.gmacs, own.protocol, own.classes) == (QUICK.gmacs, QUICK.protocol, QUICK.classes)
    assert replace(own, name="", file=None, entries=()) == replace(QUICK, name="", file=None, entries=())
