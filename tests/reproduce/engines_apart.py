"""Engines of a test: equal answers, and a choice that is measured once and stated. ``test_engines`` runs this file.

OpenVINO and bf16 use parts of a CPU that nothing else here does, AMX; a fault there should not end other tests.
"""

import json
from dataclasses import replace

import numpy as np
import openvino
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from torch import nn

import reproduce.engine.test as engine_test
import reproduce.engine.train as engine_train
from autotsnet.registry import FAMILIES
from reproduce.engine import engines
from reproduce.engine.engines import COARSE, ENGINES, available, chosen, engine, raced
from reproduce.engine.recipe import precision_of
from reproduce.export import export
from reproduce.run import execute
from reproduce.spec import RunSpec

SMALL = dict(num_classes=5, frames=4, crop=32)


def made(name: str = "x3d", **arguments) -> nn.Module:
    """A network whose logits say something."""
    torch.manual_seed(0)
    net = FAMILIES[name].build(**SMALL, **arguments).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return net


FEW = dict(
    x3d=dict(blocks=(1, 1, 1, 1), head_width=32),
    slowfast=dict(depth=18, blocks=(1, 1, 1, 1), alpha=2),
    tsm=dict(depth=18, blocks=(1, 1, 1, 1)),
)
CLIPS = (torch.randn(3, 3, 4, 32, 32),)


@pytest.mark.parametrize(
    "family", ["x3d", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slowfast", "tsm"))]
)
def test_openvino_gives_torchs_answers_for_any_number_of_clips(family):
    net = made(family, **FEW[family])
    with torch.no_grad():
        logits = net(*CLIPS)
        fast = engine(net, CLIPS, "openvino")
        for count in (3, 1):
            torch.testing.assert_close(fast(CLIPS[0][:count]), logits[:count], atol=1e-4, rtol=1e-4)
    assert logits.abs().max() > 1e-2
    assert len(fast.compiled) == 2


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_bf16_is_near(name):
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU has no bf16")
    net = made(**FEW["x3d"])
    with torch.no_grad():
        logits = net(*CLIPS)
        coarse = engine(net, CLIPS, name, "bf16")(*CLIPS).float()
    assert not torch.equal(coarse, logits)
    torch.testing.assert_close(coarse, logits, atol=COARSE * logits.abs().max().item(), rtol=0)


def test_a_cpu_without_bf16_tests_in_fp32_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available("bf16") == "fp32"
    assert "this CPU has no bf16" in capsys.readouterr().err
    with pytest.raises(ValueError, match="test_amp='fp16' is unknown; known: fp32, bf16"):
        precision_of(Config(dict(test_amp="fp16")))


def test_where_torchs_bf16_is_not_safe_it_is_left_to_openvino(monkeypatch, capsys, tiny, tmp_path):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available("bf16") == "bf16"
    assert chosen(lambda: made(**FEW["x3d"]), CLIPS, 1, "bf16", None, []) in ("openvino", "torch")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert chosen(lambda: made(**FEW["x3d"]), CLIPS, 1, "bf16", None, []) == "openvino"
    with pytest.raises(engines.EngineError, match="its bf16 is not safe on this CPU; set ONEDNN_MAX_CPU_ISA="):
        engine(made(**FEW["x3d"]), CLIPS, "torch", "bf16")
    suite, train, test = tiny
    spec = RunSpec.of(suite, suite.entry("tsm"), 0, train, test)
    spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(amp="bf16")))
    with pytest.raises(ValueError, match="amp='bf16': torch's bf16 is not safe on CPUs with AMX; set ONEDNN_MAX"):
        engine_train.train(spec, suite.protocol, train, tmp_path)
    monkeypatch.setitem(engines.ENGINES, "openvino", replace(engines.ENGINES["openvino"], missing=lambda: True))
    assert available("bf16") == "fp32"
    assert "tested in fp32; install openvino" in capsys.readouterr().err


def test_an_engine_that_errs_or_answers_otherwise_is_not_taken(monkeypatch, capsys):
    class Wrong(nn.Module):
        def __init__(self, net, clips, precision):
            super().__init__()
            self.net = net

        def forward(self, *clips):
            return self.net(*clips) + 1

    def fails(*_):
        raise RuntimeError("no such operator\nmore")

    net = made(**FEW["x3d"])
    monkeypatch.setitem(engines.ENGINES, "openvino", engines.Engine(Wrong))
    monkeypatch.setitem(engines.ENGINES, "inductor", engines.Engine(fails))
    assert list(raced(net, CLIPS, tuple(ENGINES))) == ["torch"]
    said = capsys.readouterr().err
    assert "openvino is not used: its logits in fp32 differ by 1.0e+00 from" in said
    assert "inductor is not used: no such operator\n" in said


def test_only_a_long_test_pays_for_a_compiler_and_the_choice_is_remembered(tmp_path, monkeypatch):
    net, asked = made(**FEW["x3d"]), []

    def measure(net, clips, names, precision):
        asked.append(names)
        return {"torch": (2.0, net), "openvino" if "openvino" in names else "inductor": (1.0, net)}

    monkeypatch.setattr(engines, "raced", measure)
    monkeypatch.setattr(engines, "engine", lambda net, clips, name, precision: net)
    monkeypatch.setattr(engines, "_time", lambda *_: 1.0)
    assert chosen(lambda: net, CLIPS, 10, "fp32", tmp_path, ["a"]) == "torch"
    assert not asked
    for _ in range(2):
        assert chosen(lambda: net, CLIPS, 100, "fp32", tmp_path, ["a"]) == "openvino"
    assert asked == [["openvino", "torch"]]
    assert chosen(lambda: net, CLIPS, 1000, "fp32", tmp_path, ["b"]) == "openvino"
    assert asked[1:] == [["openvino", "torch"]]  # not inductor, which is slower and compiles longer
    missing = engines.Engine(engines.InOpenVINO, 60, lambda: True)
    monkeypatch.setitem(engines.ENGINES, "openvino", missing)
    assert chosen(lambda: net, CLIPS, 1000, "fp32", tmp_path, ["c"]) == "inductor"


@pytest.mark.slow
def test_inductor_gives_torchs_answers():
    net = made(**FEW["x3d"])
    with torch.no_grad():
        logits = net(*CLIPS)
        torch.testing.assert_close(engine(net, CLIPS, "inductor")(*CLIPS), logits, atol=1e-4, rtol=1e-4)


def test_a_test_by_another_engine_gives_the_same_predictions_and_says_so(tiny, tmp_path, monkeypatch):
    suite, train, test = tiny
    runs, results = tmp_path / "runs", tmp_path / "results"
    spec = RunSpec.of(suite, suite.entry("tsm"), 0, train, test)
    spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(workers=0)))
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    before = execute(suite, suite.entry("tsm"), spec, train, test, runs, results)
    old = pd.read_parquet(spec.folder(runs) / "predictions.parquet")
    for name in ("predictions.parquet", "record.json", "test.json"):
        (spec.folder(runs) / name).unlink()
    monkeypatch.setitem(engines.ENGINES, "openvino", replace(engines.ENGINES["openvino"], pays=0))
    monkeypatch.setitem(engines.ENGINES, "torch", replace(engines.ENGINES["torch"], make=None))  # it fails, and loses
    record = execute(suite, suite.entry("tsm"), spec, train, test, runs, results)
    assert {s.engine for s in record.provenance.test} == {"openvino fp32"}
    assert {s.engine for s in before.provenance.test} == {"torch fp32"}
    new = pd.read_parquet(spec.folder(runs) / "predictions.parquet")
    assert list(new.id) == list(old.id)
    np.testing.assert_allclose(np.stack(new.scores), np.stack(old.scores), atol=1e-5)
    # A test that goes on keeps its engine, if it can be had.
    folder, protocol = spec.folder(runs), suite.protocol
    args = spec, folder, protocol, len(test.videos), json.loads((folder / "test.json").read_text())["weights"]
    monkeypatch.setattr(engine_test, "engine_for", lambda *_: "torch")
    assert engine_test._engine(*args) == ["openvino", "fp32"]
    monkeypatch.setitem(engines.ENGINES, "openvino", replace(engines.ENGINES["openvino"], missing=lambda: True))
    assert engine_test._engine(*args) == ["torch", "fp32"]


def test_an_openvino_model_is_written_if_asked_for(tmp_path):
    net = nn.Sequential(nn.Conv3d(3, 2, (1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    done = export(net, 4, 8, tmp_path, openvino=True)
    assert done.openvino == tmp_path / "model.xml"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".bin", ".onnx", ".pt2", ".xml"]
    clips = torch.randn(5, 3, 4, 8, 8)
    logits = torch.from_numpy(openvino.compile_model(done.openvino, "CPU")(clips.numpy())[0])
    torch.testing.assert_close(logits, net(clips).detach(), atol=1e-2, rtol=0)  # by default OpenVINO may take bf16
