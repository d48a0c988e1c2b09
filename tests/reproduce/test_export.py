"""Export of a run: what is written runs elsewhere and computes the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import reproduce.export as export_file
from reproduce.engine.rebuild import config_of, model_of, trained
from reproduce.export import ExportError, export, export_run
from reproduce.spec import RunSpec, SpecError
from reproduce.whole_files import write_json


def saved(spec: RunSpec, runs: Path) -> Path:
    """The folder of a run, with its specification only."""
    write_json(spec.folder(runs) / "spec.json", spec.model_dump())
    return spec.folder(runs)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run folder as a training leaves it, of random weights: (folder, its network)."""
    suite, train, test = tiny
    net = dict(type="baselines.tsm.tsm", num_classes=4, frames=8, crop=32, depth=18, blocks=[1, 1, 1, 1])
    spec = RunSpec.of(suite, suite.entry("tsm"), 0, train, test).model_copy(update=dict(net=net))
    folder = saved(spec, tmp_path_factory.mktemp("runs"))
    torch.manual_seed(0)
    net = model_of(config_of(spec)).net
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
    spec = RunSpec.load(run[0])
    crops = spec.protocol["crops"] | dict(test_size=40)  # as in the native suites
    folder = saved(spec.model_copy(update=dict(protocol=spec.protocol | dict(crops=crops))), tmp_path)
    (folder / "model.safetensors").write_bytes((run[0] / "model.safetensors").read_bytes())
    assert export_run(folder).shape == "B×3×8×40×40"


def test_a_graph_that_disagrees_is_not_left_behind(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Conv3d(3, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
    monkeypatch.setattr(export_file, "_session", lambda path: lambda clips: net(clips).detach() + 2e-3)
    with pytest.raises(ExportError, match=r"model.onnx: logits differ from torch's by [0-9.]+e-\d+, more than 0.0001"):
        export(net, 4, 8, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_what_is_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"has no spec\.json, it is no run folder"):
        export_run(tmp_path)
    folder = saved(RunSpec.load(run[0]), tmp_path)
    with pytest.raises(ValueError, match=r"is not trained yet: it has no model.safetensors; finish its run"):
        export_run(folder)


def test_nothing_that_lies_in_a_run_folder_is_executed(run, tmp_path):
    spec = RunSpec.load(run[0])
    pwned = tmp_path / "pwned"
    own = saved(spec.model_copy(update=dict(source=f"open({str(pwned)!r}, 'w')")), tmp_path)
    with pytest.raises(SpecError, match=r"text of a model of somebody's own.*if you trust it: --trust"):
        export_run(own)
    command = dict(type="subprocess.run", args=["touch", str(pwned)])
    other = saved(spec.model_copy(update=dict(net=command)), tmp_path)
    (other / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"unknown model family 'run'"):
        export_run(other)
    recipe = spec.recipe | dict(optim_wrapper=command)
    harmless = saved(spec.model_copy(update=dict(recipe=recipe)), tmp_path)
    (harmless / "model.safetensors").write_bytes((run[0] / "model.safetensors").read_bytes())
    assert export_run(harmless).shape == "B×3×8×32×32"
    assert not pwned.exists()


def test_an_edited_specification_is_named(run, tmp_path):
    path = saved(RunSpec.load(run[0]), tmp_path) / "spec.json"
    text = path.read_text()
    for old, new, message in (
        ('"seed": 0', '"seed": 1', r"its hash is \w{8}, the folder's name says another; it was edited by hand"),
        ('"seed": 0', '"seed": "x"', r"spec\.json: seed: .*; it is of another version or edited"),
        ("{", "", r"spec\.json: content: .*; it is of another version or edited"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(SpecError, match=message):
            export_run(path.parent)
