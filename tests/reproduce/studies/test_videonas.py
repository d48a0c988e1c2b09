"""VideoNAS: its codes, its plan, a table from videos to card, what an interruption leaves, and what the card says."""

import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from autotsnet.architecture import TwoStreamArchitecture
from reproduce import suites
from reproduce.engine.runner import DivergedError, PreemptedError
from reproduce.engine.train import train
from reproduce.evidence.tabular import FACTORS, VideoNAS, codes, levels
from reproduce.spec import RunSpec
from reproduce.studies import headroom, videonas
from reproduce.studies.videonas import architecture, main, planned_codes
from reproduce.studies.videonas_card import card, certainty, effects, streams, tau, traits_effects
from reproduce.suites import suite
from tests.reproduce.made_nas import EFFECTS, SEED_SD, made_table

CODES = codes()
ROWS = ("validation", "test", "losses", "validation_third", "answers", "test_answers", "params", "gmacs", "run")


def test_every_code_is_an_architecture_of_its_own():
    made = [architecture(code) for code in CODES]
    assert len({arch.hash for arch in made}) == len(CODES)
    for code, arch in zip(CODES, made, strict=True):
        of = dict(zip(FACTORS, levels(code), strict=True))
        there = [stream for stream in (arch.slow, arch.fast) if stream]
        assert len(there) == (1 if of["split"] in ("slow", "fast") else 2)
        blocks = [block for stream in there for group in stream for block in group.blocks]
        assert {f"k{block.k}" for block in blocks} == {of["kernel"]}
        assert {f"e{block.e:g}" for block in blocks} == {of["expansion"]}
        assert ["d" + "".join(str(len(g.blocks)) for g in stream) for stream in there] == [of["depth"]] * len(there)
        assert {g.attention for stream in there for g in stream} == {of["attention"]}
        t = [{block.t for block in group.blocks} for group in there[0]]
        assert t == dict(none=[{1}, {1}, {1}], late=[{1}, {1}, {3}], all=[{3}, {3}, {3}])[of["temporal"]]
        assert set(arch.fusions) == {of["fusion"]}
        assert TwoStreamArchitecture.from_dict(arch.to_dict()) == arch


def test_the_drawn_codes_are_those_of_the_whole_space():
    found = planned_codes()
    assert sorted(found["factorial"]) == sorted(CODES)
    assert len(set(found["random"])) == videonas.RANDOM
    assert planned_codes() == found, "the same each time"
    space = videonas.preset("tiny")
    for code in found["random"][:8]:
        assert "random-" + "".join(map(str, space.encode(architecture(code)).tolist())) == code


@pytest.mark.parametrize("code", [*CODES[:: len(CODES) // 6], *planned_codes()["random"][:2]])
def test_networks_are_within_a_percent_of_the_budget(code):
    of = replace(suite("ssv2-quick"), file=suite("ssv2-quick").entry("auto_tsnet_random").config)
    found = of.solution(videonas.entry_of(of, code))
    assert abs(found.residual) <= videonas.MISS


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs the study on tiny videos; returns the rows of its table."""
    monkeypatch.setattr(headroom, "VIDEOS", dict(train=32, val=16, holdout=16))
    small = dict(
        gmacs=0.0055,
        videos=dict(joint=True, classes=16, short_side=(74, 74), frames=(8, 8)),
        sampling=dict(frames=4),
        recipe=dict(epochs=3, workers=0, checkpoint=1),
    )
    monkeypatch.setitem(headroom.SETTINGS, "small", small)
    monkeypatch.setattr(videonas, "REPEATED", 1)
    videonas.data_of.cache_clear()

    def run(name: str, *arguments: str) -> pd.DataFrame:
        monkeypatch.setattr("reproduce.suites.SUITES", type(suites.SUITES)())  # a file of the same name is another's
        out, runs = tmp_path / name / "out", tmp_path / name / "runs"
        where = ["--out", str(out), "--runs", str(runs), "--cache", str(tmp_path / "cache"), "--jobs", "1"]
        main(["--setting", "small", "--data", "ssv2", "--limit", "1", "--seeds", "0,1", *where, *arguments])
        path = out / "videonas.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    run.folder = tmp_path
    return run


def test_a_table_from_videos_to_card_and_the_same_after_interruptions(study, monkeypatch):
    whole = study("whole", "--part", "factorial,random,repeats")
    assert list(zip(whole.part, whole.seed, strict=True)) == [("factorial", 0), ("random", 0), ("factorial", 1)]
    assert not whole.diverged.any()
    assert (whole.residual.abs() <= videonas.MISS).all()
    assert whole.clips_per_s.isna().all()
    assert set(map(len, whole.answers)) == set(map(len, whole.test_answers)) == {16}
    labels = np.array(whole.attrs["videonas"]["test_labels"])
    for row in whole.itertuples():
        assert 100 * (np.frombuffer(row.test_answers, np.uint8) == labels).mean() == pytest.approx(row.test)
        assert row.core_s > 0
        assert TwoStreamArchitecture.from_dict(json.loads(row.architecture)).hash == row.architecture_hash
    assert "VideoNAS: synthetic-ssv2 headroom small" in (study.folder / "whole/out/README.md").read_text()
    table = VideoNAS(study.folder / "whole/out/videonas.parquet")
    best = max((c for c in table.codes), key=lambda c: table.query(c, seed=0)["validation"])
    assert table.query(best)["seeds"] == [0, 1]

    look = videonas.Along.after_train_iter

    def look_and_stop(self, runner, batch_idx, **given):
        look(self, runner, batch_idx, **given)
        if batch_idx == 3 and not (self.folder / "stopped").exists():
            (self.folder / "stopped").touch()
            runner.terminated = True

    monkeypatch.setattr(videonas.Along, "after_train_iter", look_and_stop)
    for _ in range(len(whole)):
        with pytest.raises(PreemptedError):
            study("parts", "--part", "factorial,random,repeats")
    parts = study("parts", "--part", "factorial,random,repeats")
    pd.testing.assert_frame_equal(parts[list(ROWS)], whole[list(ROWS)])
    monkeypatch.setattr(videonas, "outcome", None)
    timed = study("parts")
    assert (timed.clips_per_s > 0).all()
    pd.testing.assert_frame_equal(timed[list(ROWS)], whole[list(ROWS)])


def test_looking_on_changes_no_bit_of_a_training(study):
    study("one", "--part", "none")
    of, splits = videonas.data_of("ssv2", "small", study.folder / "cache", study.folder / "one" / "runs")
    spec = RunSpec.of(of, videonas.entry_of(of, CODES[0]), 0, splits[0], splits[2], 0)
    for name, hooks in (("plain", False), ("along", True)):
        folder = study.folder / name
        along = videonas.Along(spec, of.protocol, splits[1], folder)
        folder.mkdir()
        train(spec, of.protocol, splits[0], folder, [along] if hooks else [])
    a, b = (load_file(study.folder / name / "model.safetensors") for name in ("plain", "along"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(list((study.folder / "along").glob("validation-*.json"))) == 2


def test_a_run_that_diverges_counts_as_chance(study, monkeypatch):
    def diverging(spec, protocol, manifest, folder, hooks):
        (folder / "steps.txt").write_text("1 2.5 0.1\n2 nan 0.1\n")
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(videonas, "train", diverging)
    rows = study("diverged", "--part", "random")
    assert rows.diverged.all()
    assert rows.test.tolist() == rows.validation_third.tolist() == [100 / 16]
    assert rows.test_log_loss.tolist() == pytest.approx([np.log(16)])


def test_the_plan_comes_first_and_is_kept(study, monkeypatch):
    assert study("plan", "--plan").empty
    path = study.folder / "plan/out/plan.json"
    plan = json.loads(path.read_text())
    assert [n["part"] for n in plan["networks"]] == ["factorial", "random"]
    assert plan["space"] == videonas.tabular.space_version()
    study("plan", "--plan", "--limit", "2")
    more = json.loads(path.read_text())["networks"]
    assert len(more) == 4
    assert [n for n in more if n in plan["networks"]] == plan["networks"]
    with pytest.raises(ValueError, match=r"is the plan of another table \(setting, changes, budget differ\)"):
        study("plan", "--plan", "--setting", "base")
    for network in plan["networks"]:
        network["spec"] = "0" * 8
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="is not the run that was planned"):
        study("plan", "--part", "factorial")


@pytest.mark.parametrize("wrong", [["--setting", "bass"], ["--part", "all"], ["--seeds", "0,0"], ["--data", "hmdb"]])
def test_wrong_options_are_said_before_anything_is_written(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        main([*wrong, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")])
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_effects_are_those_that_were_planted():
    table = made_table()
    two = table[
        (table.part == "factorial") & (table.seed == 0) & table.split.isin(["mostly_slow", "even", "mostly_fast"])
    ]
    by_level, by_factor = effects(two, list(FACTORS))
    planted = dict(
        temporal=EFFECTS["temporal"], fusion=EFFECTS["fusion"], expansion=EFFECTS["expansion"], attention=(0, 0)
    )
    for name, values in planted.items():
        rows = by_level[by_level.factor == name]
        truth = np.array(values) - np.mean(values)
        assert rows.effect.to_numpy() == pytest.approx(truth, abs=0.4)
        assert ((rows.low - 0.2 <= truth) & (truth <= rows.high + 0.2)).all()
    p = by_factor.set_index("factor").p
    assert p[["split", "temporal", "fusion", "expansion"]].max() < 0.001
    assert p[["attention", "kernel", "depth"]].min() > 0.05
    assert 0.9 < by_factor.attrs["explained"] < 1


def test_two_streams_against_one():
    table = made_table()
    rows = {text: ends for text, *ends in streams(table[(table.part == "factorial") & (table.seed == 0)])}
    mean = np.mean(EFFECTS["split"][1:4]) + np.mean(EFFECTS["fusion"])
    for one, effect in (("slow", EFFECTS["split"][0]), ("fast", EFFECTS["split"][4])):
        middle, low, high = rows[f"mean of two streams − {one} alone"]
        assert low < middle < high
        assert middle == pytest.approx(mean - effect - EFFECTS["fusion"][0], abs=0.6)
    best, _, _ = rows["mostly_fast with slow_to_fast, the best two − fast alone, the best one"]
    assert best == pytest.approx(5 + 2 + 3, abs=1)


def test_tau_of_what_agrees_and_of_what_does_not():
    assert tau(range(20), range(20)) == pytest.approx((1.0, 1.0, 1.0))
    middle, low, high = tau(np.random.default_rng(0).random(60), range(60))
    assert low < 0 < high
    assert low < middle < high


def test_the_card_of_a_whole_table():
    table = made_table()
    text = card(table)
    said = dict(certainty(table))
    assert float(said["SD of seeds, points"]) == pytest.approx(np.hypot(SEED_SD, 0.5), rel=0.3)
    for heading in (
        "How sure is a run",
        "Which variables matter",
        "One stream or two",
        "The whole space",
        "predictors",
    ):
        assert heading in text
    assert "336 of the subspace, 60 drawn" in text
    assert "| parameters" in text
    assert "nan" not in text
    assert len(traits_effects(table[table.part == "random"])) == 6


@pytest.mark.parametrize("rows", [1, 3, 12, 80])
def test_the_card_of_part_of_a_table(rows):
    table = made_table()
    part = table.iloc[:rows]
    part.attrs = table.attrs
    assert card(part).startswith("# VideoNAS: synthetic-ssv2 made at 0.016 GMACs per view")


def test_jobs_of_networks_that_miss_the_budget_are_left_out():
    networks = [dict(code=c, number=i, spec="0", residual=r) for i, (c, r) in enumerate([("a", 0.001), ("b", -0.02)])]
    plan = dict(data="ssv2", setting="base", networks=networks, seeds=[0], repeated_best=1)
    assert [job.code for job in videonas.jobs(plan, Namespace(name="x"), "ab", [0, 1])] == ["a", "a"]
