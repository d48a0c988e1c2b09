"""GloRe: the published networks to the parameter, the arithmetic by hand, and units in every family."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from autotsnet.layers.attention import GloRe, attention
from autotsnet.layers.glore import GraphReasoning
from autotsnet.layers.quick import quicken
from autotsnet.meta import on_meta
from autotsnet.registry import family
from baselines.glore import VARIANTS
from baselines.transforms.glore import GloReUnit
from reproduce.engine.inference import accelerate
from reproduce.export import export
from reproduce.measure.macs import count
from reproduce.suites import SUITES

FRAMES, CROP, CLASSES = 8, 32, 5
SMALL = {
    "x3d": (dict(width=8, blocks=(1, 1, 1, 1), head_width=32), ["layer2.0", "layer3.0"]),
    "slowfast": (
        dict(slow_channels=8, depth=18, blocks=(1, 1, 1, 1), alpha=4),
        ["slow_path.layer2.0", "fast_path.layer3.0"],
    ),
    "tsm": (dict(base_channels=8, depth=18, blocks=(1, 1, 1, 1)), ["layer2.0", "layer3.0"]),
    "auto_tsnet_uniform": (dict(space="tiny", width=0.5), ["groups.slow.1.blocks.0", "groups.fast.1.blocks.1"]),
    "pvnas": (dict(base_channels=8, ops="t+2d", blocks=(1, 1, 1, 1)), ["blocks.1"]),
}
by_name = pytest.mark.parametrize("name", SMALL)


def build(name: str, units: bool = True):
    """A small member of a family, with units or without; deterministic."""
    torch.manual_seed(0)
    arguments, after = SMALL[name]
    transforms = [dict(type="glore", after=after)] if units else []
    return family(name).build(num_classes=CLASSES, frames=FRAMES, crop=CROP, **arguments, transforms=transforms)


def moved(net: nn.Module) -> nn.Module:
    """Its last norms not at zero."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
    return net


# Parameters of the authors' networks; MACs are derived.
@pytest.mark.parametrize(
    ("variant", "params", "gmacs"), [("glore_r50_8f", 33_731_952, 31.78), ("glore_r101_8f", 57_442_672, 50.32)]
)
def test_the_published_networks_have_their_size(variant, params, gmacs):
    make, arguments = VARIANTS[variant]
    counted = count(partial(make, **arguments), 8, 224)
    assert counted.params == params
    assert round(counted.gmacs, 2) == gmacs
    plain = count(partial(make, **arguments, units=((), (), (), ())), 8, 224)
    assert counted.params - plain.params == 2 * 411_136 + 3 * 1_641_472
    assert round(counted.gmacs - plain.gmacs, 2) == 6.49


@pytest.mark.parametrize(
    ("channels", "positions", "params", "macs"),
    [(512, (4, 28, 28), 411_136, 1_245_708_288), (1024, (4, 14, 14), 1_641_472, 1_333_788_672)],
)
def test_the_published_units_have_their_size_and_cost(channels, positions, params, macs):
    with torch.device("meta"):
        unit, x = GloReUnit(channels), torch.empty(1, channels, *positions)
        with FlopCounterMode(display=False) as counter:
            unit(x)
    c, n, s, length = channels, channels // 4, channels // 2, positions[0] * positions[1] * positions[2]
    assert params == sum(p.numel() for p in unit.parameters())
    assert macs == c * s * length + c * n * length + 2 * s * n * length + n * n * s + s * s * n + s * c * length
    assert counter.get_total_flops() == 2 * macs


def test_the_example_by_hand():
    """One node of the third channel, two states of the first two, A = 0.5, W = 1, all extended to the first two."""
    unit = GloReUnit(3, nodes=1).eval()
    unit.out[1] = nn.Identity()
    with torch.no_grad():
        unit.nodes.weight.fill_(0.5)
        unit.assign.weight.copy_(torch.tensor([[0.0, 0, 1]]).view_as(unit.assign.weight))
        for layer in (unit.reduce, unit.states, unit.out[0]):
            layer.weight.copy_(torch.eye(*layer.weight.shape[:2]).view_as(layer.weight))
        x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [5, 7, 9]]).view(1, 3, 3, 1, 1)
        branch = (unit(x) - x)[0].flatten(1)
    assert branch.tolist() == [[345, 483, 621], [817.5, 1144.5, 1471.5], [0, 0, 0]]


@given(channels=st.integers(1, 9), nodes=st.sampled_from([None, 1, 3]), dims=st.sampled_from([2, 3]))
def test_a_new_unit_is_the_identity_to_the_bit(channels, nodes, dims):
    unit, x = GloReUnit(channels, nodes, dims), torch.randn(2, channels, *[3] * dims).relu()
    assert unit.assign.out_channels == (nodes or max(1, channels // 4))
    assert unit.reduce.out_channels == 2 * unit.assign.out_channels
    assert torch.equal(unit(x), x)
    assert torch.equal(unit.eval()(x), x)


@given(seed=st.integers(0, 9), normalize=st.booleans())
def test_positions_have_no_order(seed, normalize):
    torch.manual_seed(seed)
    unit = moved(GloReUnit(8, normalize=normalize)).eval().double()
    x, order = torch.randn(2, 8, 12, dtype=torch.double), torch.randperm(12)
    y, other = (unit(z.unflatten(2, (3, 2, 2))).flatten(2) for z in (x, x[..., order]))
    torch.testing.assert_close(other, y[..., order])


def test_without_maps_nothing_is_added_and_normalising_divides_by_the_positions():
    torch.manual_seed(0)
    unit, x = moved(GloReUnit(8)).eval(), torch.randn(1, 8, 2, 3, 4)
    branch = unit(x) - x
    unit.normalize = True
    nn.init.zeros_(unit.nodes.bias)
    torch.testing.assert_close((unit(x) - x) * 24, branch, atol=1e-4, rtol=1e-4)
    nn.init.zeros_(unit.states.weight)
    assert torch.equal(unit(x), x)


def test_auto_tsnets_candidate_is_of_the_same_code():
    block = attention("glore", 16).ops["glore"]
    assert isinstance(block, GloRe)
    assert GloRe.forward is GloReUnit.forward is GraphReasoning.forward


@by_name
class TestFamily:
    """What every family does with units."""

    def test_at_first_it_says_what_it_said_without_to_the_bit(self, name):
        clips = torch.randn(2, 3, FRAMES, CROP, CROP)
        plain, net = build(name, units=False), build(name)
        assert sum(isinstance(m, GloReUnit) for m in net.modules()) == len(SMALL[name][1])
        with torch.no_grad():
            assert torch.equal(net.eval()(clips), plain.eval()(clips))
        assert count(net, FRAMES, CROP).macs > count(plain, FRAMES, CROP).macs

    def test_forward_and_backward(self, name):
        net = moved(build(name)).train()
        net(torch.randn(2, 3, FRAMES, CROP, CROP)).square().sum().backward()
        assert not [n for n, p in net.named_parameters() if p.grad is None]

    def test_as_it_is_trained_and_tested_it_computes_the_same(self, name):
        clips = torch.randn(2, 3, FRAMES, CROP, CROP).contiguous(memory_format=torch.channels_last_3d)
        net = moved(build(name))
        for dropout in net.modules():
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
        logits = net.train()(clips)
        torch.testing.assert_close(quicken(net)(clips), logits, atol=1e-4, rtol=1e-3)
        state = net.state_dict()
        net = build(name).eval()
        net.load_state_dict(state)
        with torch.no_grad():
            logits = net(clips)
            accelerate(net, clips[:1])
            torch.testing.assert_close(net(clips), logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["x3d", pytest.param("tsm", marks=pytest.mark.slow)])
def test_is_exported_for_any_batch(name, tmp_path):
    assert export(moved(build(name)).eval(), FRAMES, CROP, tmp_path).shape.startswith("B×3×")


@pytest.mark.parametrize(
    "entry", ["x3d_glore", *(pytest.param(f"{n}_glore", marks=pytest.mark.slow) for n in ("slowfast", "tsm"))]
)
def test_entries_meet_the_budget(entry):
    suite = SUITES["kinetics-quick"]
    found = suite.entry(entry)
    assert found.optional
    assert suite.solution(found).matched


def test_bad_input_is_named_in_one_line():
    net = dict(num_classes=CLASSES, frames=FRAMES, crop=CROP, **SMALL["x3d"][0])

    def transformed(**options):
        return on_meta(lambda: family("x3d").build(**net, transforms=[dict(type="glore", **options)]))

    for message, options in (
        (r"glore: X3D has no block 'layer9'; it has conv1_s.conv, ", dict(after=["layer9"])),
        (r"glore: block 'fc' of X3D gives \(2, 5\), not features", dict(after=["fc"])),
        (r"glore: nodes=0; at least one node is needed", dict(after=["layer2.0"], nodes=0)),
        (r"transform 'glore' changes nothing in X3D", dict(after=[])),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            transformed(**options)
        assert "\n" not in str(raised.value)
