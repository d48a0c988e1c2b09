"""A user's file finds itself, its modules and its source; what it ties is trained and saved, or refused by name."""

import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from autotsnet.registry import FAMILIES
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.inference import fold
from reproduce.engine.recipe import optimiser
from reproduce.suites import suite
from reproduce.user_model import OwnModelError, _check_weights, define, own_entry, read

ROOT = Path(__file__).resolve().parents[2]
TINY = suite("kinetics-tiny")


@pytest.fixture(scope="module", autouse=True)
def families():
    """Other tests find the families that they expect."""
    before = set(FAMILIES)
    yield
    for name in set(FAMILIES) - before:
        del FAMILIES[name]


FILE = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn
from autotsnet.registry import Knob, register_family
import blocks
from .parts.conv import scaled

HERE = Path(__file__)

@torch.jit.script
def swish(x):
    return x * x.sigmoid()

@dataclass
class Sizes:
    width: int = 3

@register_family(Knob("width", 1, 128, 1))
class Mine(nn.Module):
    def __init__(self, *, num_classes, frames, crop, width=8):
        super().__init__()
        from late import ONE
        table = HERE.parent / "table.txt"
        self.table = [float(x) for x in table.read_text().split()] if table.exists() else [1.0]
        self.conv = nn.Conv3d(3, width, 3, 2, ONE)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(scaled(blocks.pooled(swish(self.conv(x))))) * self.table[0]
"""


def written(folder: Path, factor: int = 2) -> Path:
    """A user's file with a module, a package, one that a function imports, and a table beside it."""
    (folder / "parts").mkdir(parents=True)
    (folder / "mine.py").write_text(FILE)
    (folder / "blocks.py").write_text("def pooled(x):\n    return x.mean((2, 3, 4))\n")
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "conv.py").write_text("from .factor import F\n\ndef scaled(x):\n    return F * x\n")
    (folder / "parts" / "factor.py").write_text(f"F = {factor}")
    (folder / "late.py").write_text("ONE = 1")
    (folder / "unused.py").write_text("raise ImportError")
    (folder / "table.txt").write_text("1 2 3")
    return folder / "mine.py"


def test_a_file_finds_itself_its_modules_and_its_source(tmp_path):
    path = written(tmp_path)
    entry = own_entry(path, TINY)
    module = sys.modules["own_model"]
    assert path == module.HERE
    assert inspect.getsource(module.Sizes).startswith("@dataclass")
    assert pickle.loads(pickle.dumps(module.Sizes(4))) == module.Sizes(4)
    assert dataclasses.fields(module.Sizes)[0].name == "width"
    for text in (FILE, "def pooled", "F = 2", "ONE = 1", "parts/conv.py"):
        assert text in entry.source
    assert "unused" not in entry.source
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_modules_of_another_file_are_others_and_another_source(tmp_path):
    _, two = read(written(tmp_path / "two"))
    clips = torch.ones(1, 3, 8, 32, 32)
    module = sys.modules["own_model"]
    assert module.scaled(1) == 2
    _, three = read(written(tmp_path / "three", factor=3))
    assert sys.modules["own_model"].scaled(1) == 3
    assert two != three
    assert not any(str(tmp_path / "two") in place for place in sys.path)
    assert sys.modules["own_model"].swish(clips).shape == clips.shape


REBUILT = """
import sys
from reproduce.user_model import define
build = define(sys.stdin.read(), "Mine").build
print(sys.modules["own_model"].scaled(1), build(num_classes=3, frames=8, crop=32).head.out_features)
"""


def test_a_run_is_rebuilt_elsewhere_from_its_text(tmp_path):
    name, source = read(written(tmp_path))
    for file in [p for p in tmp_path.rglob("*") if p.is_file()]:
        file.unlink()
    command = [sys.executable, "-c", REBUILT]
    done = subprocess.run(command, input=source, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["2", "3"]
    broken = source.replace("import blocks", "import blocks, not_there")
    with pytest.raises(OwnModelError, match=r"Mine cannot be rebuilt from the text .*No module named 'not_there'"):
        define(broken, name)


def test_a_file_in_another_encoding_is_read_as_python_reads_it(tmp_path):
    path = written(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == ("Mine", read(written(tmp_path / "plain"))[1])


class Net(nn.Module):
    """Two linear layers, tied in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        if how == "layer":
            self.b = self.a
        elif how == "weight":
            self.b.weight = self.a.weight
        elif how == "buffer":
            self.a.register_buffer("table", torch.ones(4))
            self.b.register_buffer("table", self.a.table)
        elif how == "halves":
            whole = torch.randn(8, 4)
            self.a.weight, self.b.weight = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
        elif how == "columns":
            whole = torch.randn(4, 8)
            self.a.weight, self.b.weight = nn.Parameter(whole[:, :4]), nn.Parameter(whole[:, 4:])
        elif how == "norm":
            nn.utils.parametrizations.weight_norm(self.a)
        elif how == "slice":
            self.b.weight = nn.Parameter(self.a.weight.data[:2])
        elif how == "view":
            self.register_buffer("flat", self.a.weight.detach().view(16))
        elif how == "lazy":
            self.b = nn.LazyLinear(4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("how", ["", "layer", "weight", "buffer", "halves", "columns", "norm"])
def test_what_is_one_tensor_may_have_several_names(how, device):
    with torch.device(device):
        _check_weights(Net(how))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("slice", r"a\.weight and b\.weight are two tensors in one memory; register one nn\.Parameter"),
        ("view", r"a\.weight and flat are two tensors in one memory"),
        ("lazy", r"the size of b\.weight waits for the first input; state it"),
    ],
)
def test_two_tensors_in_one_memory_and_lazy_ones_are_refused_by_name(how, message, device):
    with torch.device(device), pytest.raises(OwnModelError, match=message):
        _check_weights(Net(how))


def test_a_layer_made_in_forward_is_refused_before_the_training(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\nfrom autotsnet.registry import register_family\n"
        "@register_family()\nclass Late(nn.Module):\n"
        "    def __init__(self, num_classes, frames, crop):\n        super().__init__()\n        self.n = num_classes\n"
        "    def forward(self, x):\n        x = x.mean((2, 3, 4))\n"
        "        self.head = nn.Linear(3, self.n, device=x.device)\n"
        "        return self.head(x)\n"
    )
    with pytest.raises(OwnModelError, match=r"head\.bias is made in the first forward pass, too late"):
        own_entry(path, TINY)


def test_a_shared_parameter_is_optimised_once_and_groups_of_others_are_as_they_were():
    config = TINY.config(TINY.entry("x3d"))
    for how, count in (("", 4), ("weight", 3), ("layer", 2)):
        model = VideoClassifier(Net(how))
        groups = build_optim_wrapper(model, optimiser(config, 1)).optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        assert len(parameters) == count == len(set(map(id, parameters)))
        assert [id(p) for p in parameters] == [id(p) for p in model.parameters()]


@torch.no_grad()
def test_a_parametrized_convolution_keeps_its_batch_norm():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv3d(3, 4, 3))
    net = nn.Sequential(conv, nn.BatchNorm3d(4)).eval()
    net[1].running_mean.fill_(0.5)
    clips = torch.randn(1, 3, 4, 8, 8)
    before = net(clips)
    fold(net, clips)
    assert isinstance(net[1], nn.BatchNorm3d)
    assert net(clips).equal(before)
