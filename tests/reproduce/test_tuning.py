"""Equal care: the same trials for every entry, on training videos only; halved, resumed, written beside the suite."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reproduce import tuning
from reproduce.cli import app
from reproduce.data import synthetic
from reproduce.engine.runner import DivergedError
from reproduce.evidence import tables
from reproduce.evidence.compare import compare
from reproduce.launch import parallel
from reproduce.records import RunRecord, Tuning, load_all
from reproduce.spec import RunSpec
from reproduce.suites import SUITES, SuiteError, at_budget, suite
from reproduce.tuning import Plan, Trial, TuningError, best_first, tune
from reproduce.user_model import OwnModelError, own_entry
from tests.reproduce.made import make

LR, DECAY = "optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.weight_decay"
FILE = """
from mmengine.config import read_base

with read_base():
    from configs.suites.kinetics_tiny import *

entries = [dict(name="x3d"), dict(name="tsm")]
{lines}
"""
TUNING = dict(
    trials=6,
    seconds=840,
    unit="core",
    values={LR: 0.004, "net.blocks": [1, 1, 1, 1]},
    plan="0" * 8,
    train_manifest="a" * 12,
    held_out_manifest="b" * 12,
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a suite of one's own, the tiny one with two entries and these lines; returns it as it is read anew."""

    def read(*lines: str):
        monkeypatch.setattr("reproduce.suites.SUITES", type(SUITES)())
        (tmp_path / "own.py").write_text(FILE.format(lines="\n".join(lines)))
        return suite(str(tmp_path / "own.py"))

    return read


@pytest.fixture
def study(own, cache, tmp_path, monkeypatch):
    """Does a study whose trials are not trained; returns what it holds by entry. ``worth`` judges them.

    ``study.did`` lists entry, number and epochs of the trials that were done; ``study.stop`` interrupts the last.
    """

    def run(self, cache, runs, results, number="", timed=True):
        if self.result(runs) is None:
            study.did.append((self.spec.entry, self.number, round(self.spec.recipe["epochs"], 3)))
            if len(study.did) == study.stop:
                raise KeyboardInterrupt
            found = dict(diverged=False, n=100, log_loss=1.0) | study.worth(self)
            tuning.write_json(self.folder(runs) / tuning.DONE, found | dict(seconds=60.0, unit="core"))

    def study(trials: int = 6, **options):
        study.did.clear()
        of = own()
        return tune(of, of.entries, cache, tmp_path / "runs", tmp_path / "results", trials, **options)

    study.did, study.stop, study.worth = [], 0, lambda trial: dict(top1=50 + trial.number)
    monkeypatch.setattr(Trial, "run", run)
    return study


def test_every_entry_gets_the_same_points_and_the_recipe_is_the_first(own, tiny):
    of, (_, train, test) = own(), tiny
    x3d, tsm = (Plan.of(of.entry(name), 12) for name in ("x3d", "tsm"))
    drawn = [[plan.values(n) for n in range(12)] for plan in (x3d, tsm)]
    shared = [[{k: v for k, v in values.items() if not k.startswith("net.")} for values in of] for of in drawn]
    assert shared[0] == shared[1]
    assert drawn[0][0] == drawn[1][0] == {}
    assert len({json.dumps(values) for values in shared[0]}) == 12
    assert {"net.blocks" in values for values in drawn[1]} == {True, False}
    assert not any("net.blocks" in values for values in drawn[0]), "the tiny recipe has no other structures of x3d"
    for place, of_place in x3d.space.items():
        points = [values[place] for values in shared[0][1:]]
        assert of_place["low"] <= min(points) < max(points) <= of_place["high"]
        assert all(point == float(f"{point:.3g}") for point in points)
    assert [Plan.of(of.entry("x3d"), 5).values(n) for n in range(5)] == drawn[0][:5], "more trials change none"
    assert Plan.of(of.entry("x3d"), 5, seed=1).values(1) != drawn[0][1]
    recipe = RunSpec.of(of, of.entry("x3d"), 0, train, test)
    assert RunSpec.of(of, replace(of.entry("x3d"), values=x3d.values(0)), 0, train, test) == recipe
    other = RunSpec.of(of, replace(of.entry("x3d"), values=x3d.values(1)), 0, train, test)
    wrapper, warmup = other.recipe["optim_wrapper"], other.recipe["warmup"]
    assert (wrapper["optimizer"]["lr"], wrapper["optimizer"]["weight_decay"], warmup) == tuple(
        drawn[0][1][place] for place in (LR, DECAY, "warmup")
    )
    assert (other.net, other.recipe["epochs"]) == (recipe.net, recipe.recipe["epochs"])


def test_a_structure_is_solved_to_the_budget(own):
    of = own()
    entry = replace(of.entry("tsm"), values={"net.blocks": [1, 1, 2, 1]})
    mine, theirs = of.solution(entry), of.solution(of.entry("tsm"))
    assert mine.matched
    assert mine.kwargs["blocks"] == [1, 1, 2, 1]
    assert mine.kwargs["base_channels"] < theirs.kwargs["base_channels"]


def test_the_best_third_goes_on_and_the_best_of_it_is_chosen(study):
    study.worth = lambda trial: dict(top1=(50 if trial.spec.recipe["epochs"] < 1 else 80) + trial.number % 4)
    found = study()
    short, whole = ([d for d in study.did if (d[2] < 1) == is_short] for is_short in (True, False))
    assert short == [(name, n, 0.333) for name in ("x3d", "tsm") for n in range(6)]
    assert whole == [(name, n, 1.0) for name in ("x3d", "tsm") for n in (3, 2)]
    for of in found.values():
        assert of["tuning"]["values"] == of["trials"][3]["values"]
        assert (of["tuning"]["trials"], of["tuning"]["seconds"]) == (6, 8 * 60)
    with pytest.raises(TuningError, match="x3d: 1 trials choose nothing, take 2 or more"):
        study(1)


def test_equal_top1_is_decided_by_log_loss_and_what_diverged_is_last():
    good = dict(diverged=False, top1=5, log_loss=1.0)
    results = {
        0: good,
        1: good | dict(log_loss=0.9),
        2: dict(diverged=True),
        3: good | dict(top1=6, log_loss=3.0),
        4: good,
    }
    assert best_first(results) == [3, 1, 0, 4]


def test_what_is_done_is_not_repeated(study, tmp_path):
    study.stop = 5
    with pytest.raises(KeyboardInterrupt):
        study()
    first, study.stop = study.did[:4], 0
    found = study()
    assert not set(first) & set(study.did)
    assert len(first) + len(study.did) == 2 * (6 + 2)
    paths = [tmp_path / "results" / "tuning" / "own" / f"{name}.json" for name in ("x3d", "tsm")]
    before = [path.read_bytes() for path in paths]
    assert study() == found
    assert not study.did
    assert [path.read_bytes() for path in paths] == before


def test_trials_that_diverged(study):
    study.worth = lambda trial: dict(diverged=True) if trial.number != 2 else dict(top1=3)
    found = study()
    assert {of["tuning"]["values"][LR] for of in found.values()} == {found["x3d"]["trials"][2]["values"][LR]}
    assert [row["number"] for row in found["tsm"]["trials"]] == [*range(6), 2]
    study.worth = lambda trial: dict(diverged=trial.spec.entry == "tsm", top1=3)
    with pytest.raises(TuningError, match=r"tsm: all 6 trials of 0.33 of the epochs diverged, .*lr 0\.00125 to 0\.02"):
        study(seed=1)


def test_a_trial_without_a_finite_loss_has_diverged(own, cache, tmp_path, monkeypatch):
    def diverge(*_):
        raise DivergedError("the loss is nan at step 3")

    monkeypatch.setattr(tuning, "train", diverge)
    of = own()
    with pytest.raises(TuningError, match="x3d: all 2 trials"):
        tune(of, of.entries[:1], cache, tmp_path / "runs", tmp_path / "results", trials=2)
    done = [json.loads(path.read_text()) for path in tmp_path.glob("runs/tuning/own/*/trial.json")]
    assert [of["diverged"] for of in done] == [True, True]
    assert all(of["seconds"] > 0 for of in done)


def test_predictions_are_judged_by_hand(tmp_path):
    scores = [np.float32(row) for row in ([0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6])]
    rows = dict(id=list("abcd"), label=[0, 1, 2, 0], frames=9, error=["", "", "", "broken"], scores=[*scores, None])
    pd.DataFrame(rows).to_parquet(tmp_path / "predictions.parquet")
    found = tuning.judged(tmp_path)
    assert (found["top1"], found["n"]) == (2, 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.25, 0.6, 1 / 3]).mean(), abs=1e-6)
    rows["scores"][0] = np.float32([np.nan, 0, 0])
    pd.DataFrame(rows).to_parquet(tmp_path / "predictions.parquet")
    assert tuning.judged(tmp_path) == dict(diverged=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "tuning['structure'] = dict(x3d=[dict(head_width=200_000)])",
            "x3d: its structure {'head_width': 200000} does",
        ),
        (
            "tuning['structure'] = dict(x3d=[dict(bloks=(1, 1))])",
            "x3d: its structure {'bloks': [1, 1]} does not meet",
        ),
        ("tuning['space'] = {}", "x3d, `tuning` in its recipe: `shares` are"),
        ("tuning['shares'] = (1, 1 / 3)", "x3d, `tuning` in its recipe: `shares` are (1, 0.33"),
        ("tuning['space'] = dict(warmp=dict(low=0, high=1))", "x3d, `tuning` in its recipe is not right ("),
        (
            "tuning['space'] = dict(warmup=dict(low=0, high=1, log=True))",
            "warmup is {'low': 0, 'high': 1, 'log': True}, no",
        ),
        ("tuning['space'] = dict(warmup=(0, 1))", "x3d, `tuning` in its recipe is not right ("),
        ("tuning['trials'] = 1", "x3d: 1 trials choose nothing"),
        ("del tuning", "x3d: its recipe has no `tuning`, the space of the trials, and stays as its authors have it"),
        (
            'entries = [dict(name="auto_tsnet", search="auto_tsnet")]\n'
            "tuning['structure'] = dict(auto_tsnet=[dict(dropout=0.1)])",
            "the structure of auto_tsnet is searched for, not tuned",
        ),
    ],
)
def test_a_space_that_cannot_be_is_said_before_the_first_step(own, cache, tmp_path, line, said):
    of = own(line)
    with pytest.raises(TuningError, match=re.escape(said)) as error:
        tune(of, of.entries[:1], cache, tmp_path / "runs", tmp_path / "results")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_real_recipes_stay_untouched():
    for name in ("kinetics", "ssv2", "kinetics-native", "ssv2-native"):
        assert not SUITES[name].entries[0].tuning_space()
    for name in ("kinetics-quick", "ssv2-full"):
        assert len({Plan.of(entry).hash for entry in SUITES[name].entries}) == 1


def test_a_space_of_trials_is_no_part_of_a_run(own):
    manifests = "a" * 12, "b" * 12
    specs = [
        [RunSpec.of(of, entry, 0, *manifests) for entry in of.entries]
        for of in (own(), own("del tuning"), own('tuning["trials"] = 20'))
    ]
    assert specs[0] == specs[1] == specs[2]
    assert not any({"tuning", "values"} & spec.recipe.keys() for spec in specs[0])


def test_held_out_videos_are_of_training_and_apart(own, cache, tiny):
    train, held_out = tuning.videos(own(), cache)
    _, whole, test = tiny
    ids = [{video.id for video in of.videos} for of in (train, held_out, whole, test)]
    assert ids[0] | ids[1] == ids[2]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[3]
    assert sorted(video.label for video in held_out.videos) == [0, 1, 2, 3], "6 of each class: one is held out"
    assert tuning.videos(own(), cache)[1] == held_out
    assert len({of.hash for of in (train, held_out, whole, test)}) == 4


def test_the_data_sets_own_held_out_videos_come_first(own, tmp_path):
    size = synthetic.changed("tiny", dict(holdout=4))
    train, held_out = tuning.videos(own(f"suite.update(size={size!r})"), tmp_path)
    assert (len(train.videos), len(held_out.videos), held_out.split) == (24, 4, "holdout")


def test_chosen_values_are_the_suites_recipe_at_its_budget(own):
    before = own()
    manifests = "a" * 12, "b" * 12
    tuning.take_over(before, dict(x3d=dict(tuning=TUNING)))
    after = own()
    old, new = (RunSpec.of(of, of.entry("x3d"), 0, *manifests) for of in (before, after))
    assert new.recipe["optim_wrapper"]["optimizer"]["lr"] == 0.004
    assert new.net["blocks"] == [1, 1, 1, 1] != old.net["blocks"]
    assert RunSpec.of(after, after.entry("tsm"), 0, *manifests) == RunSpec.of(
        before, before.entry("tsm"), 0, *manifests
    )
    assert not at_budget(after, 0.008).entry("x3d").values
    assert after.entry("x3d").tuning == Tuning(**TUNING)
    with pytest.raises(SuiteError, match="x3d and tsm were not tuned alike, by another trials; tune all"):
        tuning.take_over(after, dict(tsm=dict(tuning=TUNING | dict(trials=8))))
    for text, said in (
        ("{", "is not what `tune` writes"),
        ('{"x3d": {"trials": 3}}', "is not what `tune` writes"),
        (json.dumps(dict(resnet=TUNING)), "no entry 'resnet'"),
        (json.dumps(dict(x3d=TUNING, tsm=TUNING | dict(plan="1" * 8))), "not tuned alike, by another plan"),
    ):
        after.tuned.write_text(text)
        with pytest.raises(SuiteError, match=re.escape(said)) as error:
            own()
        assert "\n" not in str(error.value)
        assert "own.tuned.json" in str(error.value)


def test_the_table_has_a_column_where_something_was_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "REFERENCE", tmp_path / "nowhere")
    make(tmp_path, "x3d-s0", "tsm-s0")
    before = tables.rendered(SUITES["kinetics-quick"], tmp_path)
    assert "uning" not in before[".md"] + before[".csv"]
    values = {LR: 5e-3}
    make(tmp_path, "x3d-s0", tuning=Tuning(**TUNING | dict(values=values)))
    after = tables.rendered(SUITES["kinetics-quick"], tmp_path)
    frame = tables.table(
        SUITES["kinetics-quick"],
        load_all(tmp_path / "records" / "kinetics-quick"),
        tmp_path / "records" / "kinetics-quick",
    )
    cells = dict(zip(frame.model.str.split().str[0], frame.tuning, strict=True))
    assert (cells["x3d"], cells["tsm"], cells["slowfast"]) == ("6 trials, 14.0 core-min", "none", "not run")
    assert "- Tuning: values of the recipe" in after[".md"]


def test_from_trials_to_a_table(own, cache, tmp_path):
    own()
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results")] + [f"--cache={cache}"]
    file, runner = str(tmp_path / "own.py"), CliRunner()
    first = runner.invoke(app, ["run", file, "--entries=x3d", *folders], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    done = runner.invoke(
        app, ["tune", file, "--entries=x3d", "--trials=2", "--jobs=1", "--write", *folders], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "x3d trial 1, 0.333 epochs: lr 0.0" in done.output.replace("\n", " ")
    assert "ETA" in done.output or "took" in done.output
    found = json.loads((tmp_path / "results" / "tuning" / "own" / "x3d.json").read_text())
    assert len(found["trials"]) == 4, "two, short and whole"
    assert found["tuning"]["seconds"] == pytest.approx(sum(row["seconds"] for row in found["trials"]))
    assert found["provenance"]["commit"]
    own()
    again = runner.invoke(app, ["run", file, "--entries=x3d", *folders], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    record = RunRecord.load(tmp_path / "results" / "records" / "own" / "x3d-s0.json")
    assert record.tuning.values == found["tuning"]["values"]
    assert "2 trials, " in (tmp_path / "results" / "tables" / "own.md").read_text()
    check = runner.invoke(app, ["--suite", file, "verify", str(tmp_path / "results")], catch_exceptions=False)
    assert check.exit_code == 0, check.output


def test_trials_that_choose_the_recipe_are_noted_in_runs_that_are_done(own, cache, tmp_path):
    of = own()
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results")] + [f"--cache={cache}"]
    command = ["run", str(tmp_path / "own.py"), "--entries=x3d", *folders]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    path = tmp_path / "results" / "records" / "own" / "x3d-s0.json"
    before = RunRecord.load(path)
    tuning.take_over(of, dict(x3d=dict(tuning=TUNING | dict(values={}))))
    own()
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    after = RunRecord.load(path)
    assert " train:" not in again.output
    assert (before.tuning, after.tuning.trials, after.run) == (None, 6, before.run)
    assert after.model_copy(update=dict(tuning=None)) == before


def test_paths_are_folders_of_their_own(own, tiny):
    of, (_, train, test) = own(), tiny
    trial = Trial(of, RunSpec.of(of, of.entry("x3d"), 0, train, test), train, test, 1, {LR: 0.01, "net.blocks": [1, 2]})
    assert trial.folder(Path("runs")).parent == Path("runs/tuning/own")
    assert str(trial) == "x3d trial 1, 1 epochs: lr 0.01, blocks (1, 2)"


MINE = """
from torch import nn
from autotsnet.registry import Knob, register_family
recipe = {recipe}
@register_family(Knob("width", 4, 400, 1))
class {name}(nn.Module):
    def __init__(self, num_classes, frames, crop, width=8):
        super().__init__()
        self.conv, self.head = nn.Conv3d(3, width, 3, 2, 1), nn.Linear(width, num_classes)
    def forward(self, clips):
        return self.head(self.conv(clips).mean((2, 3, 4)))
"""


def test_a_model_of_ones_own_gets_the_same_trials_and_begins_at_its_recipe(study, own, cache, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.format(name="TunedModel", recipe={"warmup": 0.25, LR: 1e-3}))
    study.worth = lambda trial: dict(top1=9 if trial.number == 0 else 5)
    text = compare(
        tmp_path / "mine.py", own(), ["x3d"], [0], cache, tmp_path / "runs", tmp_path / "results", tuned=True
    )
    assert "TunedModel" in text
    assert [d[:2] for d in study.did[:6]] == [(name, number) for name in ("TunedModel", "x3d") for number in range(3)]
    records = {r.entry: r for r in load_all(tmp_path / "results" / "records" / "own")}
    assert records["TunedModel"].tuning.values == {"warmup": 0.25, LR: 1e-3}
    assert records["TunedModel"].spec.recipe["optim_wrapper"]["optimizer"]["lr"] == 1e-3
    assert records["TunedModel"].note == "own, mine.py, own recipe"
    assert records["x3d"].tuning.values == {}
    assert {r.tuning.trials for r in records.values()} == {3}
    frame = tables.table(own(), list(records.values()), tmp_path / "results" / "records" / "own")
    assert set(frame.tuning[frame["seeds"] == "1"]) == {"3 trials, 5.0 core-min"}


@pytest.mark.parametrize("recipe", ['{"warmpu": 0.1}', '{"net.width": 3}', "dict(warmup=len([]))", "[1]"])
def test_a_recipe_of_ones_own_that_the_suites_does_not_have_is_one_clear_line(own, tmp_path, recipe):
    (tmp_path / "mine.py").write_text(MINE.format(name=f"TunedModel{len(recipe)}", recipe=recipe))
    with pytest.raises(OwnModelError, match=r"mine\.py: `recipe` is no dictionary from places") as error:
        own_entry(tmp_path / "mine.py", own())
    assert "\n" not in str(error.value)


def test_trials_go_side_by_side(own, cache, tmp_path):
    of, (learned, held_out) = own(), tuning.videos(own(), cache)
    trials = [tuning.Study(of, Plan.of(of.entry(name), 2), learned, held_out).trial(1) for name in ("x3d", "tsm")]
    seen = []
    parallel.side_by_side(trials, cache, tmp_path / "runs", tmp_path / "results", 2, lambda: seen.append(1))
    assert all(trial.result(tmp_path / "runs")["seconds"] > 0 for trial in trials)
    assert seen
