"""The gate: planted regressions are caught, clean repeats pass, expectations move in one way only."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from reproduce import cli
from reproduce.data import frames
from reproduce.data.decode import decode
from reproduce.evidence import gate, quantities
from reproduce.evidence.gate import Row
from reproduce.evidence.quantities import GateError, Measured
from reproduce.studies import regressions
from reproduce.suites import CONFIGS, SUITES
from tests.reproduce.made import make

RESULTS = Path(__file__).parents[2] / "results"
ENTRY = "x3d"  # the quickest


@pytest.fixture(autouse=True)
def decoded_once(monkeypatch):
    """Videos are decoded once for all repeats; the rest is the gate's own code."""
    monkeypatch.setattr(frames, "decode_distinct", _decode)


_seen: dict = {}


def _decode(path, pick, decoder=""):
    if path not in _seen:
        _seen[path] = decode(path, np.arange, decoder)
    shown, total = _seen[path]
    return shown, pick(total), total


def rows(cache, tiers=("instant", "inference"), configs=CONFIGS) -> list[Row]:
    """What the gate says of one entry."""
    folder = Path("unused")
    return gate.compare(gate.measure(tiers, cache, folder, folder, configs, only=[ENTRY]))


def wrong(found: list[Row]) -> set[str]:
    """Quantities that are not as expected."""
    return {row.quantity for row in found if row.verdict}


def test_every_entry_that_needs_no_search_has_its_expectations():
    entries = quantities.ready(quantities.GATE)
    assert {e.name for e in entries} >= {e.name for e in quantities.GATE.entries if e.search is None}
    for entry in entries:
        file = json.loads((CONFIGS / "tiny" / f"{entry.name}.json").read_text())
        assert {"GMACs", "parameters", "losses of 20 steps", "logits", "top-1, videos"} <= set(file["gate"])
        top1, n = file["gate"]["top-1, videos"]["expected"], int(file["gate"]["videos and labels"]["expected"][:2])
        assert top1 > 1.5 * n / quantities.GATE.classes, "a checkpoint that guesses would notice nothing"
    assert sum(quantities.checkpoint(e, CONFIGS).stat().st_size for e in entries) < 200_000 * len(entries)


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
    families = {e.name for e in quantities.ready(quantities.GATE)}
    assert all(set(of) == families for of in found["planted"].values())
    nothing = {(name, e) for name, of in found["planted"].items() for e, noticed in of.items() if noticed is None}
    assert nothing == {("batch norm in training mode at test", "mvit")}, "has none"
    assert set(found["false_alarms"]) == families


def test_the_study_counts_what_is_missed(cache, monkeypatch):
    monkeypatch.setattr(regressions, "PLANTED", {"dropped video": regressions.dropped_video, "nothing": nullcontext})
    found = regressions.regressions(cache, 1, [ENTRY])
    assert found["planted"]["dropped video"][ENTRY] == ["logits", "videos and labels"]
    assert (found["missed"], found["false_alarms"]) == ([f"nothing: {ENTRY}"], {ENTRY: 0})
    monkeypatch.setattr(quantities, "cost", _crash)
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

    def net(self, seconds: float) -> Callable[[], None]:
        """A pass that takes so long."""
        clock = self

        def forward():
            busy = 1.6 if int(clock.now / 0.5) % 3 == 0 else 1.0
            clock.now += seconds * busy * clock.rng.lognormal(0, 0.08)

        return forward


def judged(seed: int, slowdown: float) -> str:
    """The gate's word on a network that has become slower, timed by a clock of its own."""

    def process(seed: int, seconds: float) -> float:
        clock = Clock(seed)
        net = clock.net(seconds * clock.rng.lognormal(0, 0.01))  # a process is as fast as it happens to be
        return quantities.time_ratio(net, clock.net(0.003), clock)

    seeds = 2 * quantities.PROCESSES * seed + np.arange(2 * quantities.PROCESSES).reshape(2, -1)
    before, after = [process(s, 0.004) for s in seeds[0]], [process(s, 0.004 * slowdown) for s in seeds[1]]
    expected = {"expected": before, "tolerance": quantities.SLOWDOWN, "platform": "here"}
    return gate.judge(Measured(after, quantities.SLOWDOWN, ratios=True), expected, "here")


def test_a_model_slower_by_15_percent_is_caught_and_noise_is_not():
    assert [judged(seed, 1.0) for seed in range(20)] == [""] * 20
    assert all(judged(seed, 1.15).startswith("slower by 1") for seed in range(20))
    assert [judged(seed, 0.8) for seed in range(5)] == [""] * 5


@pytest.mark.alone
def test_ratios_are_of_fresh_processes_and_of_their_platform(monkeypatch):
    monkeypatch.setattr(quantities, "PROCESSES", 2)
    entries = [quantities.GATE.entry(ENTRY)]
    ratios = quantities.speeds(quantities.GATE, entries)[ENTRY]
    assert len(ratios.value) == 2
    monkeypatch.setattr(quantities, "PROCESSES", 1)
    slow = quantities.speeds(quantities.GATE, entries, partial(regressions.slower, 1.0))[ENTRY]
    assert min(slow.value) > 1.5 * max(ratios.value), "really twice as slow"
    expected = {"expected": 8 * [r / 10 for r in ratios.value], "tolerance": quantities.SLOWDOWN, "platform": "another"}
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
    with pytest.raises(GateError) as error:
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
    with pytest.raises(GateError, match=r"^\S+/tiny/x3d\.json: its content is \w{12}, `accept` left it as \w{12}"):
        gate.check(found, changes)
    (line,) = gate.accept(found, "wider", changes)
    assert "wider: edited by hand to " in line
    assert json.loads(path.read_text())["gate"]["GMACs"]["tolerance"] == 1.0
    assert gate.accept(found, "again", changes) == []


def test_expectations_of_speed_move_where_they_would_gate_nothing(tmp_path):
    """Those of another platform, and those that a network has since outrun."""
    path, changes = tmp_path / "x3d.json", tmp_path / "CHANGES.md"

    def said(*ratios: float) -> list[str]:
        value = Measured(list(ratios), quantities.SLOWDOWN, ratios=True)
        return gate.accept(gate.compare(iter([(path, "gate", {"time": value})])), "why", changes)

    ratios = np.linspace(1.99, 2.01, quantities.PROCESSES)
    assert len(said(*ratios)) == 1
    assert said(*1.01 * ratios) == said(*0.99 * ratios) == []
    assert said(*0.8 * ratios)[0].endswith("gate time 1.99 … 2.01 (mean 2) → 1.592 … 1.608 (mean 1.6)")
    path.write_text(path.read_text().replace(quantities.platform(), "another"))
    assert "mean 1.6) → 1.592" in said(*0.8 * ratios)[0]
    with pytest.raises(GateError, match=r"gate x3d, time: .*nan.* is not to expect"):
        said(*ratios[1:], np.nan)


def test_a_missing_checkpoint_is_taught_and_never_accepted_as_missing(cache, configs, tmp_path, monkeypatch):
    path = quantities.checkpoint(quantities.GATE.entry(ENTRY), configs)
    path.unlink()
    found = rows(cache, ("inference",), configs)
    assert wrong(found) == {"checkpoint"}
    with pytest.raises(GateError, match=r"x3d\.safetensors does not fit x3d \(No such file"):
        gate.accept(found, "why", tmp_path / "CHANGES.md")
    monkeypatch.setattr(quantities, "TEACHING", 2)
    gate.teach_missing(cache, [ENTRY], configs)
    assert wrong(rows(cache, ("inference",), configs)) >= {"logits"}


@pytest.fixture
def suite_records(tmp_path):
    """A function that writes records of ssv2-quick, three seeds of each entry, whose runs differ by so many points."""
    folder = tmp_path / "records" / "ssv2-quick"

    def write(points: dict[str, list[float]]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for name, found in points.items():
            for seed, top1 in enumerate(found):
                record = make(tmp_path, f"{name}-s{seed}", suite=SUITES["ssv2-quick"])
                result = record.result.model_copy(update=dict(top1=round(4 * top1)))
                record.model_copy(update=dict(result=result)).save(folder / f"{name}-s{seed}.json")

    return write


def trained(folder: Path, entry: str, seeds=()) -> Measured:
    """The training tier's word on an entry, from the records below a folder."""
    suite = SUITES["ssv2-quick"]
    return quantities.training(suite, suite.entry(entry), folder, folder, folder, seeds)["top-1 %"]


@pytest.fixture(autouse=True)
def recipes_as_recorded(request, monkeypatch, tmp_path):
    """Records that a test has made from others are of today's recipes, and there are no others."""
    if "suite_records" in request.fixturenames:
        monkeypatch.setattr(quantities, "REFERENCE", tmp_path / "no reference")
        monkeypatch.setattr(quantities, "difference", lambda record, suite, entry: "")


def test_the_training_tier_takes_the_mean_over_seeds(suite_records, tmp_path):
    suite_records({"slowfast": [58, 60, 62], "x3d": [29, 30, 31], "tsm": [49, 50, 51]})
    found = trained(tmp_path, "slowfast")
    half = 2.447 * (2 * (4 + 1 + 1) / 3 / 3) ** 0.5  # Student's t with 6 degrees of freedom
    assert (found.value, found.seeds) == (60.0, (0, 1, 2))
    assert found.tolerance == pytest.approx([60 - half, 60 + half], abs=0.01)
    expected = {"expected": 60.0, "tolerance": found.tolerance}
    for points, verdict in ((2.75, ""), (-2.75, ""), (3, "outside its interval"), (-3, "outside its interval")):
        suite_records({"slowfast": [points + run for run in (58, 60, 62)], "x3d": [29, 30, 31], "tsm": [49, 50, 51]})
        assert gate.judge(trained(tmp_path, "slowfast"), expected, "here") == verdict


def test_the_training_tier_trains_the_seeds_that_are_expected(suite_records, tmp_path, monkeypatch):
    suite_records({"x3d": [30.0]})
    asked = []

    def run(todo, *folders):
        asked.extend((job.entry, job.seed) for job in todo)
        suite_records({"x3d": [30.0, 31.0, 35.0]})

    monkeypatch.setattr(quantities, "run_jobs", run)
    assert trained(tmp_path, "x3d", seeds=(0, 1, 2)).value == 32.0
    assert asked == [("x3d", 1), ("x3d", 2)]


def test_an_interval_wider_than_ten_points_is_refused_and_named(suite_records, tmp_path):
    path, changes = tmp_path / "x3d.json", tmp_path / "CHANGES.md"
    calm = {"slowfast": [59, 60, 61], "x3d": [29, 30, 31], "tsm": [49, 50, 51]}
    wild = {"slowfast": [50, 60, 70], "x3d": [20, 30, 40], "tsm": [40, 50, 60]}

    def found() -> list[Row]:
        return gate.compare(iter([(path, "ssv2-quick trained", {"top-1 %": trained(tmp_path, "x3d")})]))

    suite_records(wild)
    assert gate.accept(found(), "why", changes) == []
    assert not path.exists()
    refused = "ssv2-quick trained x3d, top-1 %: not gated: interval would be 40.0 points"
    assert gate.check(found(), changes) == f"{refused}\n0 checks are as expected"
    suite_records(calm)
    with pytest.raises(GateError, match="no expectation"):
        gate.check(found(), changes)
    gate.accept(found(), "why", changes)
    assert gate.check(found(), changes) == "1 checks are as expected"
    file = json.loads(path.read_text())
    file["ssv2-quick trained"]["top-1 %"]["tolerance"] = [20, 40.5]
    path.write_text(json.dumps(file))
    with pytest.raises(GateError, match=r"an interval of 20\.5 points gates nothing"):
        gate.check(found(), changes)
    suite_records(wild)
    (line,) = gate.accept(found(), "why", changes)
    assert "`" + f"{tmp_path.name}/x3d.json` = gone" in line
    assert line.endswith("ssv2-quick trained top-1 % 30 → not gated: interval would be 40.0 points")
    suite_records(calm | {"x3d": [29, 30, 31, 30]})
    gate.accept(found(), "why", changes)
    suite_records(calm | {"x3d": [29, 30, 31, 30, 31]})
    (line,) = gate.accept(found(), "a fifth seed", changes)
    assert line.endswith("top-1 % 30 → 30.2"), "within its interval, and of other seeds"
    path.unlink()
    suite_records({"x3d": [30.0]})
    assert "too few runs to know their spread by" in gate.check(found(), changes)


def test_no_committed_interval_gates_nothing():
    intervals = [
        (path.name, case, e["tolerance"])
        for path in sorted(CONFIGS.glob("*/*.json"))
        for case, expected in json.loads(path.read_text()).items()
        for e in expected.values()
        if isinstance(e["tolerance"], list)
    ]
    assert intervals
    assert [i for i in intervals if i[2][1] - i[2][0] > gate.WIDEST] == []


def test_what_is_no_longer_measured_is_missed(cache, configs, tmp_path, monkeypatch):
    """A quantity, a case, and all of an entry that is no more; of other tiers nothing is said."""
    changes, cost = tmp_path / "CHANGES.md", quantities.cost
    monkeypatch.setattr(quantities, "cost", lambda *of: {k: v for k, v in cost(*of).items() if k != "parameters"})
    with pytest.raises(GateError) as error:
        gate.check(rows(cache, ("instant",), configs), changes)
    assert re.findall(r"\| x3d +\| (\S+) +\| (\S+) .*no longer measured", str(error.value)) == [
        ("ssv2-quick", "parameters"),
        ("gate", "parameters"),
    ]
    (*_, line) = gate.accept(rows(cache, ("instant",), configs), "not of interest", changes)
    assert re.search(r"gate parameters \d+ → no longer measured", line)
    assert wrong(rows(cache, ("instant",), configs)) == set()
    inference = quantities.inference
    monkeypatch.setattr(quantities, "inference", lambda *of: {k: v for k, v in inference(*of).items() if k != "logits"})
    assert wrong(rows(cache, ("inference",), configs)) == {"logits"}

    gone = configs / "tiny" / "i3d.json"
    shutil.copy(configs / "tiny" / "x3d.json", gone)
    shutil.copy(quantities.checkpoint(quantities.GATE.entry(ENTRY), configs), gone.with_suffix(".safetensors"))
    monkeypatch.setattr(quantities, "ready", lambda suite, only=(): [])
    found = gate.compare(gate.measure(("instant",), cache, tmp_path, tmp_path, configs))
    assert {(r.path.name, r.quantity) for r in found} >= {("i3d.json", "logits"), ("x3d.json", "GMACs")}
    assert {r.verdict for r in found} == {"no longer measured"}
    assert ("x3d.json", "logits") not in {(r.path.name, r.quantity) for r in found if r.path.parent.name == "tiny"}
    gate.accept(found, "gone", changes)
    assert sorted(p.name for p in configs.glob("tiny/i3d*")) == []
    assert quantities.checkpoint(quantities.GATE.entry(ENTRY), configs).exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"gate": {"GMACs": 1}}', '{"gate": {"GMACs": {"expected": 1}}}'])
def test_a_damaged_file_of_expectations_is_one_clear_line(cache, configs, text):
    (configs / "tiny" / "x3d.json").write_text(text)
    with pytest.raises(GateError, match=r"^\S+/tiny/x3d\.json is no file of expectations \(.*restore it"):
        rows(cache, ("instant",), configs)


def test_the_spread_of_runs_is_learnt_from_their_repetitions(tmp_path):
    record, rng = make(tmp_path, "x3d-s0"), np.random.default_rng(0)

    def records(seeds, sds):
        for family, sd in zip("abcdef", sds, strict=True):
            for seed in range(seeds):
                top1 = round(4 * (60 + sd * rng.standard_normal()))
                result = record.result.model_copy(update=dict(top1=top1, n=400))
                model = record.model.model_copy(update=dict(family=family))
                yield record.model_copy(update=dict(entry=family, variant=0, seed=seed, result=result, model=model))

    assert np.isinf(quantities.spread(list(records(1, 6 * [3])), "a", 1))
    found = [quantities.spread(list(records(3, 6 * [3])), "a", 3) for _ in range(200)]
    assert np.median(found) == pytest.approx(2.18 * 3 * (2 / 3) ** 0.5, rel=0.1)
    outside = [abs(np.subtract(*rng.normal(0, 3 / 3**0.5, 2))) > tolerated for tolerated in found]
    assert np.mean(outside) < 0.12
    # A family of calm runs, and one of wild ones, are judged by their own.
    calm, wild = [quantities.spread(list(records(9, [1, 4, 4, 4, 4, 12])), name, 3) for name in "af"]
    assert calm == pytest.approx(2.31 * 1 * (2 / 3) ** 0.5, rel=0.5)
    assert wild == pytest.approx(2.31 * 12 * (2 / 3) ** 0.5, rel=0.5)


def test_the_command_line_fails_with_the_table(cache, monkeypatch):
    run = typer.testing.CliRunner().invoke
    good = run(cli.app, ["check", "--tiers", "instant", "--only", ENTRY, "--cache", str(cache)])
    assert good.output.strip().endswith("6 checks are as expected"), good.exception
    monkeypatch.setattr(quantities, "GATE", replace(quantities.GATE, gmacs=0.003))
    bad = run(cli.app, ["check", "--tiers", "instant", "--only", ENTRY, "--cache", str(cache)])
    assert bad.exit_code != 0
    assert "| parameters " in str(bad.exception)
    nobody = run(cli.app, ["check", "--tiers", "instant", "--only", "x3dd", "--cache", str(cache)])
    assert "these tiers check nothing of 'x3dd'; without --only" in str(nobody.exception)
    groundless = run(cli.app, ["accept", "--tiers", "inference", "--cache", str(cache)])
    assert "moves for a reason; give one" in str(groundless.exception)
    unknown = run(cli.app, ["check", "--tiers", "later", "--cache", str(cache)])
    assert "unknown tier 'later'; known: instant, inference" in str(unknown.exception)
