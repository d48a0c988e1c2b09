"""A training whose network is compiled: the same names, losses and weights, or one line before the first step."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from safetensors.torch import load_file
from torch import nn

from reproduce.engine import compiled
from reproduce.engine import train as train_file
from reproduce.engine.compiled import compile_in_place, compiling
from reproduce.engine.runner import LAST, RunHook, by_triton, load_checkpoint
from reproduce.spec import RunSpec, plain

NET = dict(type="baselines.x3d.x3d", num_classes=4, width=8, blocks=[1, 1, 1, 1], head_width=16, dropout=0.0)


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """What is compiled, by a backend that needs no compiler: what dynamo has traced is run as it is."""
    traced = []
    monkeypatch.setattr(compiled, "BACKEND", lambda graph, inputs: traced.append(graph) or graph.forward)
    torch.compiler.reset()
    return traced


class Net(nn.Module):
    """``torch.compile`` passes over torch's own."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x).relu()


@pytest.fixture
def training(tiny, tmp_path):
    """A function that trains for two steps by a recipe with changes: (folder, losses); ``stop`` after a step."""
    suite, manifest, _ = tiny
    recipe = plain(suite.entry("x3d").recipe())
    recipe.pop("net")
    recipe |= dict(epochs=8 / len(manifest.videos), batch=4, precise_bn=2)
    sampling, crops = suite.protocol.sampling, suite.protocol.crops
    net = NET | dict(frames=sampling.frames, crop=crops.size)

    def run(name: str, stop: int = 0, **changes):
        spec = RunSpec(
            suite=suite.name,
            entry="x3d",
            variant=0,
            seed=0,
            net=net,
            gmacs=0,
            params=0,
            recipe=recipe | changes,
            protocol=suite.protocol.to_dict(),
            train_manifest=manifest.hash,
            test_manifest="",
        )
        folder, losses, original = tmp_path / name, [], RunHook.after_train_iter

        def listen(self, runner, batch_idx, data_batch=None, outputs=None):
            original(self, runner, batch_idx, data_batch, outputs)
            losses.append(outputs["loss"].item())
            if batch_idx + 1 == stop:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunHook, "after_train_iter", listen)
            train_file.train(spec, suite.protocol, manifest, folder)
        return load_file(folder / "model.safetensors"), losses

    return SimpleNamespace(run=run, folder=tmp_path)


def same(a: dict, b: dict, tolerance: float) -> None:
    assert list(a) == list(b)
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("changes", [{}, dict(amp="bf16", ema=0.3)], ids=["fp32", "bf16"])
def test_it_trains_alike(training, changes, graphs, capsys):
    plain_weights, losses = training.run("plain", **changes)
    assert not graphs
    weights, ours = training.run("compiled", compiled=True, **changes)
    _, net = graphs  # one line, then the whole network
    layers = [name for name, value in weights.items() if value.dim() == 5]
    assert sum("conv3d" in str(node.target) for node in net.graph.nodes) == len(layers)
    assert f", {changes.get('amp', 'fp32')}, compiled" in capsys.readouterr().err
    assert len(ours) == 2
    tolerance = 2e-2 if changes.get("amp") else 1e-4
    assert ours == pytest.approx(losses, rel=tolerance)
    if not changes.get("amp"):
        same(weights, plain_weights, 1e-3)


def test_stopped_and_resumed_it_gives_the_same_weights(training):
    whole, _ = training.run("whole", compiled=True, ema=0.3)
    with pytest.raises(KeyboardInterrupt):
        training.run("parts", stop=1, compiled=True, ema=0.3)
    checkpoint = load_checkpoint(str(training.folder / "parts" / "train" / LAST))
    assert checkpoint["meta"]["iter"] == 1
    assert not [name for name in checkpoint["state_dict"] if "orig_mod" in name]
    parts, losses = training.run("parts", compiled=True, ema=0.3)
    assert len(losses) == 1
    same(parts, whole, 0)


def test_copies_are_not_compiled(graphs):
    model = Net()
    before = list(model.state_dict())
    compile_in_place(model)
    assert list(model.state_dict()) == before
    hook = EMAHook(momentum=0.1)
    hook.before_run(SimpleNamespace(model=model, logger=None))
    for net, number in ((hook.ema_model.module, 0), (model, 1)):
        net(torch.zeros(1, 2))
        assert len(graphs) == number
    with pytest.raises(ValueError, match=r"does nothing for a bare nn\.Sequential; make the network a class"):
        compile_in_place(nn.Sequential(model))


def test_a_machine_without_a_compiler_or_a_gpu_is_told_before_the_first_step(training, monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no /nowhere/g++")

    monkeypatch.setattr(compiled, "BACKEND", fail)
    message = (
        r"^compiled=True needs a C\+\+ compiler, .*\(.*/nowhere/g.*\); install them, or take it out of the recipe$"
    )
    with pytest.raises(ValueError, match=message):
        training.run("none", compiled=True)
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(compiled, "get_device", lambda: "cpu")
    with pytest.raises(ValueError, match=r"^compiled=True is for GPUs, and this training runs on a CPU"):
        training.run("none", compiled=True)
    assert not (training.folder / "none").exists()


def test_a_network_that_does_not_compile_is_told_of():
    def fail(graph, inputs):
        raise NotImplementedError("no such operator")

    net, message = Net(), r"this network cannot be compiled \(.*no such operator.*\); take it out"
    net.compile(backend=fail)
    with pytest.raises(ValueError, match=message), compiling():
        net(torch.zeros(1, 2))


def test_depthwise_is_torchs_or_tritons(training, monkeypatch):
    assert not by_triton({})
    assert by_triton(dict(depthwise="triton"))
    message = "depthwise='cudnn' is unknown; known: 'triton', or leave it out for torch's"
    with pytest.raises(ValueError, match=message):
        training.run("none", depthwise="cudnn")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("reproduce.engine.runner.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="depthwise='triton' needs triton: pip install triton, or take it out"):
        by_triton(dict(depthwise="triton"))


def test_on_a_cpu_tritons_is_no_other_training(training):
    plain_weights, losses = training.run("plain")
    weights, ours = training.run("triton", depthwise="triton")
    assert ours == losses
    same(weights, plain_weights, 0)
