"""Export of a run: what is written runs elsewhere and computes the same."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import reproduce.export as export_file
from reproduce.engine.local import _config, _model, trained
from reproduce.export import ExportError, export, export_run
from reproduce.suites import RunSpec


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run folder as a training leaves it, of random weights: (folder, its network)."""
    suite, train, test = tiny
    net = "net = dict(type='baselines.tsm.tsm', num_classes=4, frames=8, crop=32, depth=18, blocks=(1, 1, 1, 1))"
    spec = replace(RunSpec.of(suite, suite.entry("tsm"), 0, train, test), net=net)
    folder = tmp_path_factory.mktemp("run")
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))
    torch.manual_seed(0)
    net = _model(_config(spec)).net
    with torch.no_grad():
        net.fc.weight.mul_(1000)  # logits of a trained net's size
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    return folder, trained(spec, folder).net


def test_a_run_is_exported_beside_its_weights(run):
    folder, net = run
    done = export_run(folder)
    assert (done.program, done.graph) == (folder / "model.pt2", folder / "model.onnx")
    assert done.shape == "B×3×8×32×32"
    clips = torch.randn(5, 3, 8, 32, 32)
    with torch.no_grad():
        expected = net(clips)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(torch.export.load(done.program).module()(clips), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(export_file._session(done.graph)(clips), expected, atol=1e-4, rtol=0)


def test_a_run_tested_at_another_size_is_exported_at_that_one(run, tmp_path):
    spec = json.loads((run[0] / "spec.json").read_text())
    spec["protocol"]["crops"]["test_size"] = 40  # as in the native suites
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "model.safetensors").write_bytes((run[0] / "model.safetensors").read_bytes())
    assert export_run(tmp_path).shape == "B×3×8×40×40"


def test_a_graph_that_disagrees_is_not_left_behind(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Conv3d(3, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    monkeypatch.setattr(export_file, "_session", lambda path: lambda clips: net(clips).detach() + 2e-3)
    with pytest.raises(ExportError, match=r"model.onnx: logits differ from torch's by [0-9.]+e-\d+, more than 0.0001"):
        export(net, 4, 8, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_what_is_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"is no run folder: it has no spec\.json"):
        export_run(tmp_path)
    (tmp_path / "spec.json").write_bytes((run[0] / "spec.json").read_bytes())
    with pytest.raises(ValueError, match=r"is not trained yet; finish its run: it has no model.safetensors"):
        export_run(tmp_path)
