"""The study of headroom: its statistics, its record, which runs it repeats, and a setting end to end."""

import json
from argparse import Namespace

import numpy as np
import pytest

from reproduce.data import synthetic
from reproduce.studies import headroom
from reproduce.studies.headroom import PILOT, RULES, changes, choice, figures, intraclass, main

RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_icc_of_the_example_of_shrout_and_fleiss():
    """Psychological Bulletin 86 (1979), tables 2 to 4: BMS 11.24, WMS 6.26, ICC(1,1) .17, its interval -.13 to .72."""
    icc, low, high = intraclass(np.array(RATINGS, float))
    assert icc == pytest.approx((11.2417 - 6.2639) / (11.2417 + 3 * 6.2639), abs=1e-4)
    assert (round(icc, 2), round(low, 2), round(high, 2)) == (0.17, -0.13, 0.72)


def test_icc_at_its_ends():
    means = np.array([[1.0], [5.0], [9.0]])
    assert intraclass(np.repeat(means, 2, axis=1)) == (1.0, 1.0, 1.0)
    assert intraclass(np.zeros((3, 2))) == (0.0, 0.0, 0.0)
    assert intraclass(np.array([[1.0, 3.0], [5.0, 7.0], [9.0, 11.0]]))[0] == pytest.approx((32 - 2) / (32 + 2))
    assert intraclass(np.array([[0.0, 4.0], [4.0, 0.0]]))[0] == -1.0


@pytest.mark.parametrize("truth", [0.2, 0.6, 0.9])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth):
    rng, repeats = np.random.default_rng(0), 2_000
    architectures = np.sqrt(truth) * rng.normal(size=(repeats, 8, 1))
    runs = architectures + np.sqrt(1 - truth) * rng.normal(size=(repeats, 8, 2))
    found = np.array([intraclass(of) for of in runs])
    covered = (found[:, 1] <= truth) & (truth <= found[:, 2])
    assert covered.mean() == pytest.approx(0.95, abs=3 * np.sqrt(0.05 * 0.95 / repeats))
    assert np.median(found[:, 0]) == pytest.approx(truth, abs=0.06)


def test_figures_by_hand():
    found = figures(dict(a=[50, 52], b=[60, 62, 67], c=[80, 82]), classes=8)
    assert found["seeds"] == 2
    assert found["seed_sd"] == pytest.approx(np.sqrt(2))
    assert found["seed_sd_of_repeated"] == pytest.approx(np.sqrt(13))
    assert found["spread"] == 20
    assert found["chance"] == 12.5
    assert found["eligible"]
    assert not figures(dict(a=[50, 60], b=[60, 70], c=[80, 90]), classes=8)["eligible"]


def test_the_choice_is_by_icc_among_those_that_spread():
    def of(icc: float, eligible: bool) -> dict:
        return dict(icc=icc, eligible=eligible)

    least = RULES["least_icc"]
    assert choice(dict(a=of(0.9, False), b=of(least, True), c=of(0.5, True))) == dict(setting="b", accepted=True)
    assert choice(dict(a=of(0.9, False), b=of(least - 0.01, True))) == dict(setting="b", accepted=False)
    assert choice(dict(a=of(0.9, False))) == choice({}) == dict(setting=None, accepted=False)


def test_settings_are_joined_and_none_makes_the_videos_of_another():
    assert changes("joint+steady") == dict(
        videos=dict(joint=True, classes=16), recipe=dict(epochs=5, warmup=0.2, precise_bn=32)
    )
    assert changes("steady+ema")["recipe"]["epochs"] == 5
    with pytest.raises(ValueError, match="unknown setting 'thrd'; known: base, half"):
        changes("joint+thrd")
    sizes = {synthetic.changed("quick", headroom.VIDEOS | changes(name).get("videos", {})) for name in PILOT}
    assert len(sizes) == 4
    for name in synthetic.NAMES:
        shown = {synthetic.render(name, size, 0, "train", 4)[0].tobytes() for size in sizes}
        assert len(shown) == 4
        for size in sizes:
            assert [synthetic.video.count(size, s) for s in ("train", "val", "holdout")] == [2_400, 2_000, 400]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs the study with made figures; returns the settings that it did; ``stop`` names one to stop in."""
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(
        headroom, "suite_of", lambda layout, name, folder: Namespace(name=f"{layout} {name}", check=lambda names: None)
    )
    out = tmp_path / "headroom.json"

    def run(*arguments: str, stop: str = "") -> list[str]:
        did = []

        def measured(of, seeds, options):
            record = json.loads(out.read_text())
            name = of.name.split()[1]
            assert record["rules"] == json.loads(json.dumps(RULES)), "rules come before figures"
            assert record["settings"][name] == changes(name)
            did.append(of.name)
            if of.name == stop:
                raise KeyboardInterrupt
            rng = np.random.default_rng(len(did))
            return figures({a: list(rng.normal(60, 9, n)) for a, n in seeds.items()}, classes=8)

        monkeypatch.setattr(headroom, "measured", measured)
        try:
            main([*arguments, "--out", str(out)])
        except KeyboardInterrupt:
            assert stop
        return did

    run.out = out
    return run


def test_what_is_done_is_not_repeated(study, capsys):
    assert study("--settings", "base,joint", stop="ssv2 base") == ["kinetics base", "ssv2 base"]
    first = json.loads(study.out.read_text())
    assert study("--settings", "base,joint") == ["ssv2 base", "kinetics joint", "ssv2 joint"]
    record = json.loads(study.out.read_text())
    assert record["figures"]["kinetics"]["base"] == first["figures"]["kinetics"]["base"]
    assert record["chosen"].keys() == {"kinetics", "ssv2"}
    assert study("--settings", "base,joint") == []
    assert "synthetic-ssv2, top-1 in %" in capsys.readouterr().out
    assert study("--settings", "base", "--seeds", "3", "--data", "ssv2") == ["ssv2 base"]
    assert study("--settings", "base", "--seeds", "2", "--seed-sd") == ["kinetics base", "ssv2 base"]
    assert study("--settings", "base", "--seed-sd", "--plan") == []
    assert study("--settings", "base", "--steady", "--data", "ssv2") == ["ssv2 base+steady"]


def test_rules_and_settings_stand_before_the_first_figure_and_do_not_move_after_it(study, monkeypatch):
    assert study("--plan") == []
    assert not study.out.exists()
    assert study("--register") == []
    record = json.loads(study.out.read_text())
    assert list(record["settings"]) == sorted(PILOT)
    assert not any(record["figures"].values())
    study("--settings", "base", "--data", "ssv2")
    monkeypatch.setitem(headroom.SETTINGS, "base", dict(gmacs=0.01))
    with pytest.raises(ValueError, match="figures of another setting 'base'"):
        study("--settings", "base")
    monkeypatch.setitem(headroom.RULES, "least_icc", 0.1)
    with pytest.raises(ValueError, match="figures by other rules"):
        study("--settings", "half")


@pytest.mark.parametrize("wrong", [["--settings", "bass"], ["--seeds", "1"], ["--data", "hmdb"]])
def test_wrong_options_are_said_before_anything_is_written(study, wrong, capsys):
    with pytest.raises(SystemExit):
        study(*wrong)
    assert "error: " in capsys.readouterr().err
    assert not study.out.exists()


def test_a_setting_from_videos_to_figures(tmp_path, monkeypatch):
    monkeypatch.setattr("reproduce.suites.SUITES", type(headroom.named.__globals__["SUITES"])())
    monkeypatch.setattr(headroom, "ARCHITECTURES", ("random1", "random0"))
    monkeypatch.setattr(headroom, "VIDEOS", dict(train=32, val=16, holdout=16))
    small = dict(
        gmacs=0.0055,
        videos=dict(joint=True, classes=16, short_side=(74, 74), frames=(8, 8)),
        sampling=dict(frames=4),
        recipe=dict(epochs=1, precise_bn=1, ema=0.02, workers=0),
    )
    monkeypatch.setitem(headroom.SETTINGS, "small", small)
    of = headroom.suite_of("ssv2", "small", tmp_path / "runs" / "headroom")
    assert of.name == "ssv2-headroom-small"
    seeds = {"random1": 2, "random0": 2}
    options = Namespace(runs=tmp_path / "runs", cache=tmp_path / "cache", jobs=1)
    found = headroom.measured(of, seeds, options)
    assert {name: len(top1) for name, top1 in found["top1"].items()} == seeds
    assert found["test_videos"] == 16
    assert found["chance"] == 100 / 16
    assert all(cost == pytest.approx(0.0055, rel=0.02) for cost in found["gmacs"].values())
    record = json.loads((tmp_path / "runs/headroom/records/ssv2-headroom-small/random0-s1.json").read_text())
    assert record["spec"]["recipe"]["precise_bn"] == 1
    assert record["run"] == found["runs"]["random0-s1"]
    json.dumps(found, allow_nan=False)
    monkeypatch.setattr("reproduce.run.train", None)
    assert headroom.measured(of, seeds, options)["top1"] == found["top1"]
