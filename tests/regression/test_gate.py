"""The gate: planted regressions are caught, clean repeats pass, expectations move in one way only."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.testing

from reproduce import cli, gate
from reproduce.data import datasets
from reproduce.gate import Measured, Row
from reproduce.records import RunRecord, load_all
from reproduce.studies import regressions
from reproduce.suites import CONFIGS, SUITES

RESULTS = Path(__file__).parents[2] / "results"
ENTRY = "x3d"  # the quickest
decode = datasets.decode


@pytest.fixture(autouse=True)
def decoded_once(monkeypatch):
    """Videos are decoded once for all repeats; the rest is the gate's own code."""
    monkeypatch.setattr(datasets, "decode", _decode)


_frames: dict = {}


def _decode(path, pick, decoder="decord"):
    if path not in _frames:
        _frames[path] = decode(path, np.arange, decoder)
    frames, total = _frames[path]
    return frames[pick(total)], total


def rows(cache, tiers=("instant", "inference"), configs=CONFIGS) -> list[Row]:
    """What the gate says of one entry."""
    folder = Path("unused")
    return gate.compare(gate.measure(tiers, cache, folder, folder, configs, only=[ENTRY]))


def wrong(found: list[Row]) -> set[str]:
    """Quantities that are not as expected."""
    return {row.quantity for row in found if row.verdict}


def test_every_entry_that_needs_no_search_has_its_expectations():
    entries = gate.ready(gate.GATE)
    assert {e.name for e in entries} >= {e.name for e in gate.GATE.entries if e.search is None}
    for entry in entries:
        file = json.loads((CONFIGS / entry.config).with_name(f"{entry.name}.json").read_text())
        assert {"GMACs", "parameters", "losses of 20 steps", "logits", "top-1, videos"} <= set(file["gate"])
        top1, n = file["gate"]["top-1, videos"]["expected"], int(file["gate"]["videos and labels"]["expected"][:2])
        assert top1 > 1.5 * n / gate.GATE.classes, "a checkpoint that guesses would notice nothing"
    assert sum(gate.checkpoint(e, CONFIGS).stat().st_size for e in entries) < 200_000 * len(entries)


def test_a_clean_check_passes_and_repeats(cache):
    """The study of regressions has twenty of them, of every entry."""
    found = rows(cache)
    assert not wrong(found)
    assert len(found) == 9
    assert [row.measured for row in rows(cache)] == [row.measured for row in found]


@pytest.mark.parametrize(
    ("planted", "quantities"),
    [
        ("wrong stride", {"GMACs", "parameters", "losses of 20 steps", "checkpoint"}),
        ("batch norm in training mode at test", {"logits"}),
        ("shuffled training labels of a class", {"losses of 20 steps"}),
        ("shuffled test labels of a class", {"videos and labels"}),
        ("dropped video", {"videos and labels", "logits"}),
    ],
)
def test_a_planted_regression_is_caught(cache, planted, quantities):
    with regressions.PLANTED[planted]():
        assert set(regressions.noticed(ENTRY, cache)) >= quantities


def test_the_study_of_regressions_is_of_all_that_is_planted_and_of_every_family():
    """A new family or fault asks for a new record."""
    found = json.loads((RESULTS / "studies" / "regressions.json").read_text())
    assert set(found["planted"]) == set(regressions.PLANTED)
    families = {e.name for e in gate.ready(gate.GATE)}
    assert all(set(of) == families for of in found["planted"].values())
    nothing = {(name, e) for name, of in found["planted"].items() for e, noticed in of.items() if noticed is None}
    assert nothing == {("batch norm in training mode at test", "mvit")}, "has none"
    assert set(found["false_alarms"]) == families


def test_the_study_counts_what_is_missed(cache, monkeypatch):
    monkeypatch.setattr(regressions, "PLANTED", {"dropped video": regressions.dropped_video, "nothing": nullcontext})
    found = regressions.regressions(cache, 1, [ENTRY])
    assert found["planted"]["dropped video"][ENTRY] == ["logits", "videos and labels"]
    assert (found["missed"], found["false_alarms"]) == ([f"nothing: {ENTRY}"], {ENTRY: 0})
    monkeypatch.setattr(gate, "cost", _crash)
    assert regressions.noticed(ENTRY, cache) == ["RuntimeError: no such layer"]


def _crash(suite, entry):
    raise RuntimeError("no such layer")


@pytest.mark.parametrize(
    ("only", "message"), [("x3dd", "nothing is checked of 'x3dd'; of: slowfast, x3d"), (ENTRY, "name another file by")]
)
def test_a_part_of_the_study_does_not_become_its_record(monkeypatch, capsys, only, message):
    monkeypatch.setattr("sys.argv", ["regressions", "--only", only])
    with pytest.raises(SystemExit):
        regressions.main()
    assert message in capsys.readouterr().err


class Clock:
    """Time that passes when a network runs: with noise, and with a neighbour who slows both networks down by phases."""

    def __init__(self, seed: int) -> None:
        self.now, self.rng = 0.0, np.random.default_rng(seed)

    def __call__(self) -> float:
        return self.now

    def net(self, seconds: float) -> torch.nn.Module:
        """A network that takes so long."""
        clock = self

        class Net(torch.nn.Module):
            def forward(self, x):
                busy = 1.6 if int(clock.now / 0.5) % 3 == 0 else 1.0
                clock.now += seconds * busy * clock.rng.lognormal(0, 0.08)

        return Net()


def judged(seed: int, slowdown: float) -> str:
    """The gate's word on a network that has become slower, timed by a clock of its own."""

    def process(seed: int, seconds: float) -> float:
        clock = Clock(seed)
        net = clock.net(seconds * clock.rng.lognormal(0, 0.01))  # a process is as fast as it happens to be
        return gate.time_ratio(net, clock.net(0.003), torch.zeros(1), clock)

    seeds = 2 * gate.PROCESSES * seed + np.arange(2 * gate.PROCESSES).reshape(2, -1)
    before, after = [process(s, 0.004) for s in seeds[0]], [process(s, 0.004 * slowdown) for s in seeds[1]]
    expected = {"expected": before, "tolerance": gate.SLOWDOWN, "platform": "here"}
    return gate.judge(Measured(after, gate.SLOWDOWN, ratios=True), expected, "here")


def test_a_model_slower_by_15_percent_is_caught_and_noise_is_not():
    assert [judged(seed, 1.0) for seed in range(20)] == [""] * 20
    assert all(judged(seed, 1.15).startswith("slower by 1") for seed in range(20))
    assert [judged(seed, 0.8) for seed in range(5)] == [""] * 5


def test_ratios_are_of_fresh_processes_and_of_their_platform(monkeypatch):
    monkeypatch.setattr(gate, "PROCESSES", 2)
    entries = [gate.GATE.entry(ENTRY)]
    ratios = gate.speeds(gate.GATE, entries)[ENTRY]
    slow = gate.speeds(gate.GATE, entries, partial(regressions.slower, 1.0))[ENTRY]
    assert len(ratios.value) == len(slow.value) == 2
    assert min(slow.value) > 1.5 * max(ratios.value), "really twice as slow"
    expected = {"expected": 8 * [r / 10 for r in ratios.value], "tolerance": gate.SLOWDOWN, "platform": "another"}
    assert gate.judge(ratios, expected, "here") == "", "not comparable: not gated"
    eight = replace(ratios, value=4 * ratios.value)
    assert gate.judge(eight, expected | {"platform": "here"}, "here").startswith("slower by")


@pytest.mark.parametrize(
    ("value", "expected", "verdict"),
    [
        (1.0, None, "no expectation"),
        (1.0, dict(expected=1.0, tolerance=0.0), ""),
        (1.1, dict(expected=1.0, tolerance=0.2), ""),
        (1.3, dict(expected=1.0, tolerance=0.2), "off by 0.3"),
        (1.1, dict(expected=1.0, tolerance=0.2, platform="here"), "off by 0.1"),
        (1.1, dict(expected=1.0, tolerance=0.2, platform="another"), ""),
        (float("nan"), dict(expected=1.0, tolerance=0.2), "off by nan"),
        ([1.0, 2.0], dict(expected=[1.0, 2.5], tolerance=0.1), "off by 0.5"),
        ([1.0, 2.0], dict(expected=[1.0], tolerance=0.1), "shape (2,), expected (1,)"),
        (81.0, dict(expected=80.0, tolerance=[77.0, 83.0]), ""),
        (76.9, dict(expected=80.0, tolerance=[77.0, 83.0]), "outside its interval"),
        ("8: ab", dict(expected="8: ab", tolerance=0.0), ""),
        ("7: ab", dict(expected="8: ab", tolerance=0.0), "differs"),
    ],
)
def test_judgement(value, expected, verdict):
    assert gate.judge(Measured(value), expected, "here") == verdict


@pytest.fixture
def configs(tmp_path) -> Path:
    """A copy of one entry's expectations."""
    for size in ("tiny", "quick"):
        (tmp_path / "configs" / size).mkdir(parents=True)
        for path in (CONFIGS / size).glob(f"{ENTRY}.*"):
            shutil.copy(path, tmp_path / "configs" / size)
    return tmp_path / "configs"


def test_accepting_is_the_one_way_to_move_an_expectation(cache, configs, tmp_path):
    path, changes = configs / "tiny" / f"{ENTRY}.json", tmp_path / "CHANGES.md"
    file = json.loads(path.read_text())
    right = file["gate"]["GMACs"]["expected"]
    file["gate"]["GMACs"] = {"expected": 0.5, "tolerance": 0.001}
    path.write_text(json.dumps(file))
    found = rows(cache, ("instant",), configs)
    with pytest.raises(gate.GateError) as error:
        gate.check(found, changes)
    assert str(error.value).startswith("1 of 6 checks fail")
    assert "| x3d     | gate   | GMACs      | 0.5   | 0.0021" in str(error.value)
    with pytest.raises(ValueError, match="moves for a reason; give one"):
        gate.accept(found, " ", changes)
    untouched, moved = gate.accept(found, "a wider stem", changes)
    assert re.search(
        r"`tiny/x3d\.json` = \w{12}, a wider stem: not noted before, \w{12}; gate GMACs 0\.5 → 0\.0021", moved
    )
    as_it_was = r"`quick/x3d\.json` = (\w{12}), a wider stem: not noted before, \1$"
    assert re.search(as_it_was, untouched), "no line of it was there"
    assert changes.read_text().endswith(f"{untouched}\n{moved}\n")
    assert json.loads(path.read_text())["gate"]["GMACs"] == {"expected": right, "tolerance": 0.001}, "tolerance stays"
    found = rows(cache, ("instant",), configs)
    assert gate.check(found, changes) == "6 checks are as expected"
    file = json.loads(path.read_text())
    file["gate"]["GMACs"]["tolerance"] = 1.0
    path.write_text(json.dumps(file))
    with pytest.raises(gate.GateError, match=r"^\S+/tiny/x3d\.json: its content is \w{12}, `accept` left it as \w{12}"):
        gate.check(found, changes)
    (line,) = gate.accept(found, "wider", changes)
    assert "wider: edited by hand to " in line
    assert json.loads(path.read_text())["gate"]["GMACs"]["tolerance"] == 1.0
    assert gate.accept(found, "again", changes) == []


def test_expectations_of_speed_move_where_they_would_gate_nothing(tmp_path):
    """Those of another platform, and those that a network has since outrun."""
    path, changes = tmp_path / "x3d.json", tmp_path / "CHANGES.md"

    def said(*ratios: float) -> list[str]:
        value = Measured(list(ratios), gate.SLOWDOWN, ratios=True)
        return gate.accept(gate.compare(iter([(path, "gate", {"time": value})])), "why", changes)

    ratios = np.linspace(1.99, 2.01, gate.PROCESSES)
    assert len(said(*ratios)) == 1
    assert said(*1.01 * ratios) == said(*0.99 * ratios) == []
    assert said(*0.8 * ratios)[0].endswith("gate time 1.99 … 2.01 (mean 2) → 1.592 … 1.608 (mean 1.6)")
    path.write_text(path.read_text().replace(gate.platform(), "another"))
    assert "mean 1.6) → 1.592" in said(*0.8 * ratios)[0]
    with pytest.raises(gate.GateError, match=r"gate x3d, time: .*nan.* is not to expect"):
        said(*ratios[1:], np.nan)


def test_a_missing_checkpoint_is_taught_and_never_accepted_as_missing(cache, configs, tmp_path, monkeypatch):
    path = gate.checkpoint(gate.GATE.entry(ENTRY), configs)
    path.unlink()
    found = rows(cache, ("inference",), configs)
    assert wrong(found) == {"checkpoint"}
    with pytest.raises(gate.GateError, match=r"x3d\.safetensors does not fit x3d \(No such file"):
        gate.accept(found, "why", tmp_path / "CHANGES.md")
    monkeypatch.setattr(gate, "TEACHING", 2)
    gate.teach_missing(cache, [ENTRY], configs)
    assert wrong(rows(cache, ("inference",), configs)) >= {"logits"}


OUTSIDE = "outside its interval"


def test_accuracies_of_the_quick_suites_must_lie_in_their_intervals(tmp_path):
    folder = tmp_path / "records" / "ssv2-quick"
    shutil.copytree(RESULTS / "records" / "ssv2-quick", folder)
    suite = SUITES["ssv2-quick"]

    def value() -> float:
        return gate.training(suite, suite.entry(ENTRY), tmp_path, tmp_path, tmp_path)["top-1 %"].value

    file = json.loads((CONFIGS / "quick" / f"{ENTRY}.json").read_text())
    expected = file["ssv2-quick trained"]["top-1 %"]
    assert value() == expected["expected"]
    low, high = (round(bound - expected["expected"]) for bound in expected["tolerance"])
    for points, verdict in ((high - 1, ""), (low + 1, ""), (high + 1, OUTSIDE), (low - 1, OUTSIDE)):
        record = RunRecord.load(RESULTS / "records" / "ssv2-quick" / f"{ENTRY}-s0.json")
        result = record.result.model_copy(update=dict(top1=record.result.top1 + 4 * points))  # of 400 videos
        record.model_copy(update=dict(result=result)).save(folder / f"{ENTRY}-s0.json")
        assert gate.judge(Measured(value()), expected, "here") == verdict


def test_the_spread_of_runs_is_learnt_from_their_repetitions():
    record, rng = load_all(RESULTS / "records" / "ssv2-quick")[0], np.random.default_rng(0)

    def records(seeds, sd):
        for entry in "abcdef":
            for seed in range(seeds):
                top1 = round(4 * (60 + "abcdef".index(entry) + sd * rng.standard_normal()))
                result = record.result.model_copy(update=dict(top1=top1, n=400))
                yield record.model_copy(update=dict(entry=entry, variant=0, seed=seed, result=result))

    assert gate.spread(list(records(1, 3))) == 0
    found = [gate.spread(list(records(3, 3))) for _ in range(200)]
    assert np.median(found) == pytest.approx(2.18 * 3 * 2**0.5, rel=0.1)
    outside = 0
    for tolerated in found:
        first, second = 3 * rng.standard_normal(2)
        outside += abs(first - second) > tolerated
    assert outside / len(found) < 0.12


def test_the_command_line_fails_with_the_table(cache, monkeypatch):
    run = typer.testing.CliRunner().invoke
    good = run(cli.app, ["check", "--tiers", "instant", "--only", ENTRY, "--cache", str(cache)])
    assert good.output.strip().endswith("6 checks are as expected"), good.exception
    monkeypatch.setattr(gate, "GATE", replace(gate.GATE, gmacs=0.003))
    bad = run(cli.app, ["check", "--tiers", "instant", "--only", ENTRY, "--cache", str(cache)])
    assert bad.exit_code != 0
    assert "| parameters " in str(bad.exception)
    nobody = run(cli.app, ["check", "--tiers", "instant", "--only", "x3dd", "--cache", str(cache)])
    assert "these tiers check nothing of 'x3dd'; without --only" in str(nobody.exception)
    groundless = run(cli.app, ["accept", "--tiers", "inference", "--cache", str(cache)])
    assert "moves for a reason; give one" in str(groundless.exception)
    unknown = run(cli.app, ["check", "--tiers", "later", "--cache", str(cache)])
    assert "unknown tier 'later'; known: instant, inference" in str(unknown.exception)
