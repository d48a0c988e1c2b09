"""Classifiers made anew: on made-up features, on families, and in a whole run of the tiny videos."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from autotsnet.inputs import example
from autotsnet.registry import family
from reproduce.data.longtail import Tail
from reproduce.data.manifest import DataError
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.rebuild import trained
from reproduce.engine.retune import (
    TAUS,
    Learnt,
    Listener,
    Retuning,
    Table,
    answers,
    check_apart,
    chosen_tau,
    logit_adjusted,
    nearest_mean,
    tau_normalised,
)
from reproduce.evidence import longtail
from reproduce.evidence.verify import VerifyError, check_records
from reproduce.records import RunRecord, retuned_answers
from reproduce.run import execute, stages
from reproduce.spec import RunSpec
from reproduce.suites import SUITES, SuiteError, load

STAGES = ["train", "retune", "test", "measure", "record"]
TAIL = Tail("exponential", factor=4, largest=4, validation=2)


def table(x, label) -> Table:
    x = torch.tensor(x, dtype=torch.float32)[:, None]
    return Table(x, np.array(label), [str(i) for i in range(len(x))], np.zeros(len(x), bool))


def test_classifiers_on_features_that_are_known():
    weight, bias = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([1.0, 10.0])
    x = torch.tensor([[1.0, 2.0]])
    assert tau_normalised(weight, 0.0)(x).tolist() == [[11.0, 2.0]], "without the bias"
    assert tau_normalised(weight, 1.0)(x)[0].tolist() == pytest.approx([11 / 5, 2.0])
    adjusted = logit_adjusted(weight, bias, np.array([9, 1]))(x)[0]
    assert adjusted.tolist() == pytest.approx([12 - np.log(0.9), 12 - np.log(0.1)], rel=1e-6)
    learnt = Learnt(weight, bias)
    with torch.no_grad():
        assert torch.equal(learnt.lws(x), x @ weight.T + bias), "a scale begins at 1"
        learnt.scale.mul_(2)
        assert torch.equal(learnt.lws(x), 2 * (x @ weight.T + bias)), "the bias is scaled, too"
    assert {name for name, _ in learnt.named_parameters()} == {"crt.weight", "crt.bias", "scale"}
    train = table([[4, 0], [2, 0], [0, 3], [0, 1]], [0, 0, 1, 1])
    ncm = nearest_mean(train, 2)
    middle = torch.tensor([1.5, 1.0])
    unit = [nn.functional.normalize(v[0] - middle, dim=0) for v in train.features]
    means = torch.stack([(unit[0] + unit[1]) / 2, (unit[2] + unit[3]) / 2])
    mine = nn.functional.normalize(x[0] - middle, dim=0)
    assert torch.allclose(ncm(x)[0], -((mine - means) ** 2).sum(1))
    assert answers(ncm, train).tolist() == [0, 0, 1, 1]
    assert answers(ncm, replace(train, failed=np.array([True, False, False, False]))).tolist() == [-1, 0, 1, 1]


def test_tau_is_the_least_of_the_best_on_held_out_videos():
    weight = torch.tensor([[10.0, 0.0], [0.0, 1.0]])  # a frequent class has the larger weights
    validation = table([[1.0, 0.2], [0.5, 1.0]], [0, 1])
    tau, macro = chosen_tau(weight, validation, np.array([200, 2]))
    assert macro[0] == 50
    assert macro[-1] == 50, "too much of it makes the rare class win"
    assert macro[7:17] == [100] * 10
    assert tau == pytest.approx(0.7) == pytest.approx(TAUS[7])


@pytest.mark.parametrize(("name", "given"), [("x3d", {}), ("tsm", dict(depth=18, base_channels=8))])
def test_a_familys_last_layer_is_found_and_heard(name, given):
    torch.manual_seed(0)
    model = VideoClassifier(family(name).build(num_classes=4, frames=8, crop=32, **given)).eval()
    clips = example(model.inputs, 8, 32, 2, "cpu")
    listen = Listener(model, 4, clips)
    pixels = torch.randint(0, 256, (2, 3, 8, 32, 32, 3), dtype=torch.uint8)
    features = listen(pixels)
    assert features.shape == (2, 3, listen.layer.in_features)
    with torch.no_grad():
        logits = model.net(*model.prepare(pixels.flatten(0, 1)))
    assert torch.allclose(listen.layer(features).flatten(0, 1), logits, atol=1e-4)
    with pytest.raises(ValueError, match=r"has no linear layer of 5 outputs"):
        Listener(model, 5, clips)


def test_a_network_that_does_more_after_its_layer_is_refused():
    class Squashed(nn.Module):
        inputs = ("rgb",)

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(x.mean((2, 3, 4))).tanh()

    model = VideoClassifier(Squashed()).eval()
    with pytest.raises(ValueError, match="logits of Squashed are not those of its last linear layer"):
        Listener(model, 4, example(("rgb",), 8, 32, 2, "cpu"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(tau_on="test"), "tau_on='test' is refused: tau is chosen on videos that are neither trained on nor"),
        (dict(tau_on="train"), "tau_on='train' is refused"),
        (dict(batch_norm="half"), "batch_norm='half' is unknown; known: frozen, published"),
        (dict(sampler="half"), "sampler='half' is unknown"),
        (dict(rate=1), "retune has no rate; known: epochs, batch, lr"),
    ],
)
def test_bad_settings_are_found_before_the_first_run(given, message):
    with pytest.raises(ValueError, match=message):
        stages("x3d", dict(stages=STAGES, retune=given))
    assert Retuning.of({}) == Retuning()


def test_a_suite_without_videos_to_choose_on_has_no_such_stage(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from configs.suites.kinetics_tiny import *\n"
        f"stages = {STAGES}\n"
    )
    with pytest.raises(SuiteError, match="stage retune, and the suite no `tail` with `validation` videos"):
        load(path)


@pytest.fixture(scope="module")
def done(cache, tmp_path_factory):
    """A run of the tiny videos through all stages, and what made it."""
    folder = tmp_path_factory.mktemp("tail")
    suite = replace(SUITES["kinetics-tiny"], tail=TAIL)
    changes = {"stages": STAGES, "retune": dict(epochs=2, batch=4, batch_norm="published")}
    entry = replace(suite.entry("tsm"), changes=changes)
    root = suite.data_root(cache)
    train, test = suite.manifest("train", root), suite.manifest("val", root)
    spec = RunSpec.of(suite, entry, 0, train, test)
    record = execute(suite, entry, spec, train, test, folder / "runs", folder / "results")
    return suite, entry, spec, train, test, folder, record


def test_a_run_with_a_long_tail_through_all_stages(done):
    suite, entry, spec, train, test, folder, record = done
    found = record.retuned
    assert found.train_counts == [4, 2, 1, 1]
    assert (found.settings["batch_norm"], found.settings["sampler"]) == ("published", "class")
    assert set(found.classifiers) == {"joint", "crt", "lws", "tau_norm", "ncm", "logit_adjusted"}
    assert found.classifiers["joint"]["micro"] == pytest.approx(100 * record.result.top1 / record.result.n)
    assert set(found.classifiers["crt"]) == {"few", "macro", "micro"}, "no class has 20 videos"
    kept = folder / "results" / "records" / suite.name
    table = retuned_answers(RunRecord.load(kept / "tsm-s0.json"), kept)
    assert len(table) == record.result.n
    assert (table.crt >= 0).all()
    again = execute(suite, entry, spec, train, test, folder / "runs", folder / "results")
    assert again == record
    spec_of = json.loads((spec.folder(folder / "runs") / "spec.json").read_text())
    assert spec_of["recipe"]["stages"] == STAGES
    with torch.no_grad():  # the network is as it was trained: only classifiers are new
        model = trained(spec, spec.folder(folder / "runs"))
        assert model.net.fc.out_features == 4


def test_its_table_and_what_verify_says(done):
    suite, *_, folder, _ = done
    text = longtail.render(suite, folder / "results")
    lines = [line for line in text.splitlines() if line.startswith("| TSM")]
    assert len(lines) == 6
    assert "control" in lines[0]
    assert all("one run" in line for line in lines[1:])
    assert "statistics of each batch, as published" in text
    assert "recalled, not checked" in text
    check_records(folder / "results")
    path = folder / "results" / "records" / suite.name / "tsm-s0.json"
    before = path.read_text()
    edited = json.loads(before)
    edited["retuned"]["classifiers"]["crt"]["macro"] = 99.0
    path.write_text(json.dumps(edited))
    with pytest.raises(VerifyError, match=r"retuned\.classifiers\.crt"):
        check_records(folder / "results")
    path.write_text(before)
    answers_path = path.with_name("tsm-s0.retuned.parquet")
    kept = answers_path.read_bytes()
    pd.read_parquet(answers_path).assign(crt=0).to_parquet(answers_path)
    with pytest.raises(VerifyError, match="missing or was changed after the run"):
        check_records(folder / "results")
    answers_path.write_bytes(kept)


def test_tau_is_not_chosen_on_what_is_tested_or_trained_on(done):
    train, test = done[3:5]
    with pytest.raises(
        DataError, match=r"8 validation videos are tested on, the first is .*; tau is not chosen on them"
    ):
        check_apart(test, train, test)
    with pytest.raises(DataError, match="validation videos are trained on"):
        check_apart(train, train, test)


def test_paired_differences_of_classifiers():
    """Two models of three runs: joint knows frequent classes, cRT all of them."""
    label = np.repeat([0, 1, 2, 3], 25)
    n = np.array([200, 50, 10, 5])
    rng = np.random.default_rng(0)
    joint = np.stack([(label < 2) ^ (rng.random(100) < 0.05) for _ in range(3)]).astype(float)
    crt = np.stack([np.ones(100) * (rng.random(100) > 0.05) for _ in range(3)])
    w = longtail.weights(label, n)
    row = longtail._row("m", "crt", [], crt, joint, w)
    assert 35 < row["difference"].points < 60
    assert row["difference"].low > 25
    assert row["few"].points == pytest.approx(100 * (crt - joint)[:, 50:].mean())
    assert row["p"] < 0.01
    assert longtail._row("m", "crt", [], crt[:1], joint[:1], w)["p"] is None, "one run claims nothing"
