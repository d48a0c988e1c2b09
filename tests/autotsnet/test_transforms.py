"""Transforms: seen by the solver, the cost and the hash; what changes nothing or breaks the network is named."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from autotsnet.meta import on_meta
from autotsnet.registry import family
from autotsnet.transforms import MODEL_TRANSFORMS, TransformError
from reproduce.budget import solve
from reproduce.measure.macs import count
from reproduce.spec import RunSpec

SIZE = dict(num_classes=4, frames=8, crop=32)


class Gate(nn.Module):
    """Scales channels by what they are on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.linear(x.flatten(2).mean(2)).sigmoid()
        return x * scale[(..., *[None] * (x.dim() - 2))]


@pytest.fixture(autouse=True)
def exercise():
    """Transforms of another package: each is a function and a name."""

    def gated(net: nn.Module, last: int = 1) -> nn.Module:
        convs = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        for name in convs[-last:] if last else []:
            conv = net.get_submodule(name)
            with torch.device(conv.weight.device):
                net.set_submodule(name, nn.Sequential(conv, Gate(conv.out_channels)))
        return net

    def beheaded(net: nn.Module) -> nn.Module:
        return nn.Sequential(net, nn.Linear(4, 3, device=next(net.parameters()).device))

    def torn(net: nn.Module) -> nn.Module:
        return nn.Sequential(net, nn.Linear(5, 4, device=next(net.parameters()).device))

    def lost(net: nn.Module) -> nn.Module:
        return net.get_submodule("nowhere")

    for transform in (gated, beheaded, torn, lost):
        MODEL_TRANSFORMS.register_module(module=transform)
    yield
    for transform in (gated, beheaded, torn, lost):
        MODEL_TRANSFORMS.module_dict.pop(transform.__name__)


@pytest.mark.parametrize("name", ["tsm", "auto_tsnet_uniform"])
def test_any_family_takes_one_and_the_solver_sees_it(name):
    fixed = dict(space="tiny") if name == "auto_tsnet_uniform" else {}
    build, transforms = family(name).build, [dict(type="gated", last=2)]
    plain = count(lambda: build(**SIZE, **fixed), 8, 32)
    more = count(lambda: build(**SIZE, **fixed, transforms=transforms), 8, 32)
    assert more.params > plain.params
    assert more.macs > plain.macs
    solution = solve(build, family(name).knobs, 0.01, **SIZE, fixed=fixed | dict(transforms=transforms))
    assert count(lambda: build(**SIZE, **solution.kwargs), 8, 32).gmacs == solution.gmacs
    assert solution.matched


def test_the_hash_sees_it_and_the_network_is_built_with_it(tiny, monkeypatch):
    suite, train, test = tiny
    entry, spec = suite.entry("tsm"), RunSpec.of(suite, suite.entry("tsm"), 0, train, test)
    assert "transforms" not in spec.net
    recipe = type(entry).recipe

    def with_transform(self):
        config = recipe(self)
        config.net.transforms = [dict(type="gated")]
        return config

    monkeypatch.setattr(type(entry), "recipe", with_transform)
    gated = RunSpec.of(suite, replace(entry, note="another, so that nothing is remembered"), 0, train, test)
    assert gated.net["transforms"] == [dict(type="gated")]
    assert gated.hash != spec.hash
    net = on_meta(lambda: family("tsm").build(**{k: v for k, v in gated.net.items() if k != "type"}))
    assert any(isinstance(m, Gate) for m in net.modules())


def test_bad_transforms_are_named():
    build = family("tsm").build
    for transform, message in (
        (dict(type="gated", last=0), r"transform 'gated' changes nothing in TSM; take it out, or see its options"),
        (dict(type="torn"), r"with transform 'torn', Sequential does not run on clips of shape \(2, 3, 8, 32, 32\): "),
        (dict(type="beheaded"), r"with transform 'beheaded', Sequential returns \(2, 3\), not logits of \(2, 4\)"),
        (dict(type="lost"), r"transform 'lost' of TSM: TSM has no attribute `nowhere`"),
        (dict(type="missing"), r"unknown transform 'missing'; known: .*gated"),
    ):
        with pytest.raises(TransformError, match=message):
            on_meta(lambda transform=transform: build(**SIZE, transforms=[transform]))
    for transforms, bad in (("gated", "'g'"), (dict(type="gated"), "'type'"), ([dict(last=2)], r"{'last': 2}")):
        with pytest.raises(TransformError, match=rf"transforms are a list of dict\(type=name, …\), with {bad} in it"):
            on_meta(lambda transforms=transforms: build(**SIZE, transforms=transforms))
