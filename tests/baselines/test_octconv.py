"""OctConv: costs to the digit, the arithmetic by hand, and every family with it."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmaction.models.backbones.x3d import SEModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from autotsnet.architecture import ATTENTIONS, TwoStreamArchitecture
from autotsnet.layers.quick import quicken
from autotsnet.meta import on_meta
from autotsnet.models.families import uniform_architecture
from autotsnet.registry import family
from baselines.transforms.octconv import Octave, OctConv, OctNorm, octconv
from reproduce.engine.inference import accelerate
from reproduce.export import export
from reproduce.measure.macs import count
from reproduce.suites import SUITES

FRAMES, CROP, CLASSES = 8, 64, 5
SMALL = {
    "x3d": dict(width=8, blocks=(1, 2, 1, 1), head_width=32),
    "slowfast": dict(slow_channels=8, fast_channels=4, depth=50, blocks=(1, 1, 1, 1), alpha=4),
    "slow": dict(channels=8, depth=18, blocks=(1, 2, 1, 1)),
    "tsm": dict(base_channels=8, depth=18, blocks=(1, 2, 1, 1)),
    "auto_tsnet_uniform": dict(space="tiny"),
    "pvnas": dict(base_channels=8, ops=("2d", "shift", "dw3d", "2+1d", "3d", "t+2d"), blocks=(2, 2, 1, 1)),
    "tsm_mobilenetv2": dict(width=0.5),
    "assemblenet": dict(width=0.25, modules=(1, 1, 1, 1), flow_iterations=2),
    "glore": dict(channels=8, blocks=(1, 2, 1, 1), units=((), (1,), (1,), ())),
}
INSIDE = {
    "pvnas": [f"blocks.{i}" for i in range(4)],
    "tsm_mobilenetv2": [f"layer{i}" for i in range(1, 5)],
    "assemblenet": ["nodes.4.0.residual.0"],
}
by_name = pytest.mark.parametrize("name", SMALL)


def build(name: str, alpha: float = 0.25, crop: int = CROP, **more):
    """A small member of a family with two frequencies, or without for alpha 0; deterministic."""
    torch.manual_seed(0)
    inside = dict(inside=INSIDE[name]) if name in INSIDE else {}
    transforms = [dict(type="octconv", alpha=alpha, **inside)] if alpha else []
    arguments = dict(num_classes=CLASSES, frames=FRAMES, crop=crop) | SMALL[name] | more
    return family(name).build(**arguments, transforms=transforms)


def features(high: int, low: int, side: int = 4, **kwargs) -> Octave:
    return Octave(torch.randn(2, high, side, side, **kwargs), torch.randn(2, low, side // 2, side // 2, **kwargs))


# Blocks of the ResNets; MACs of alpha 0, 1/8, 1/4, 1/2, 3/4 at 224², of R50 to the last digit, of the others in G. R50,
# R101 and R152 of 0 and 1/2 are also what d-li14/octconv.pytorch prints.
RESNETS = {
    "R26": ((2, 2, 2, 2), ("2.342", "2.087", "1.858", "1.480", "1.208")),
    "R50": ((3, 4, 6, 3), (4089184256, 3565196288, 3103526912, 2367143936, 1880035328)),
    "R101": ((3, 4, 23, 3), ("7.801", "6.625", "5.598", "3.991", "2.982")),
    "R152": ((3, 8, 36, 3), ("11.514", "9.685", "8.092", "5.615", "4.084")),
    "R200": ((3, 24, 36, 3), ("15.007", "12.564", "10.439", "7.144", "5.121")),
}


@pytest.mark.parametrize(
    "name", [n if n in ("R26", "R50") else pytest.param(n, marks=pytest.mark.slow) for n in RESNETS]
)
def test_resnets_cost_what_the_authors_do(name):
    blocks, costs = RESNETS[name]
    for alpha, cost in zip((0, 0.125, 0.25, 0.5, 0.75), costs, strict=True):
        transforms = [dict(type="octconv", alpha=alpha)] if alpha else []
        # A ResNet per frame: the shift costs nothing.
        one_frame = dict(num_classes=1000, frames=1, crop=224, blocks=blocks, transforms=transforms)
        counted = count(partial(family("tsm").build, **one_frame), 1, 224)
        assert (counted.macs if isinstance(cost, int) else f"{counted.gmacs:.3f}") == cost
        if name == "R50":
            assert counted.params == 25_557_032


@pytest.mark.parametrize(
    ("conv", "side", "lows", "macs"),
    [
        ((64, 64, 3, 1, 1), 56, (0, 0), 115_605_504),
        ((64, 64, 3, 1, 1), 56, (32, 32), 50_577_408),
        ((64, 64, 3, 2, 1), 56, (0, 0), 28_901_376),
        ((64, 64, 3, 2, 1), 56, (32, 32), 18_063_360),
        ((64, 256, 1), 56, (0, 128), 32_112_640),
        ((256, 128, 1), 28, (128, 0), 16_056_320),
    ],
)
def test_layers_cost_what_the_authors_do(conv, side, lows, macs):
    with torch.device("meta"):
        layer, low = OctConv(nn.Conv2d(*conv), *lows), lows[0]
        x = torch.empty(1, conv[0], side, side)
        x = Octave.split(x, low) if low else x
        with FlopCounterMode(display=False) as counter:
            layer(x)
    assert counter.get_total_flops() == 2 * macs


def paths(stride: int) -> OctConv:
    layer = OctConv(nn.Conv2d(4, 2, 1, stride, bias=False), 2, 1)
    for name, value in dict(hh=1, hl=2, lh=3, ll=4).items():
        nn.init.constant_(getattr(layer, name).weight, value)
    return layer


@pytest.mark.parametrize(
    ("stride", "high", "low"),
    [
        (1, [[28, 30, 38, 40], [36, 38, 46, 48], [56, 58, 66, 68], [64, 66, 74, 76]], [[58, 74], [106, 122]]),
        (2, [[33, 43], [61, 71]], [[90]]),
    ],
)
def test_the_example_by_hand(stride, high, low):
    x = Octave(torch.arange(32.0).view(1, 2, 4, 4), torch.arange(8.0).view(1, 2, 2, 2))
    y = paths(stride)(x)
    assert y.high[0, 0].tolist() == high
    assert y.low[0, 0].tolist() == low


sizes = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(0, 3))


@given(sizes=sizes, stride=st.sampled_from([1, 2]), bias=st.booleans(), time=st.booleans())
def test_on_constant_maps_it_is_the_plain_convolution(sizes, stride, bias, time):
    high_in, low_in, high_out, low_out = sizes
    kernel, strides = ((3, 1, 1), (1, stride, stride)) if time else (1, stride)
    kind = nn.Conv3d if time else nn.Conv2d
    conv = kind(high_in + low_in, high_out + low_out, kernel, strides, bias=bias)
    values = torch.randn(2, conv.in_channels, *[1] * (2 + time))
    x = values.expand(-1, -1, *[3] * time, 4, 4)
    layer, plain = OctConv(conv, low_in, low_out), conv(x)
    y = layer(Octave.split(x, low_in) if low_in else x)
    if low_out:
        assert y.low.shape == (2, low_out, *[1] * time, 2 // stride, 2 // stride)
        y = y.whole()
    torch.testing.assert_close(y, plain)
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in conv.parameters())


@given(channels=st.integers(1, 6), out=st.integers(1, 6), kernel=st.sampled_from([1, 3]), side=st.integers(1, 6))
def test_without_low_channels_it_is_the_plain_convolution_to_the_bit(channels, out, kernel, side):
    conv, x = nn.Conv2d(channels, out, kernel, padding=kernel // 2), torch.randn(2, channels, side, side)
    assert torch.equal(OctConv(conv, 0, 0)(x), conv(x))


def test_without_exchange_frequencies_do_not_see_each_other():
    layer, x = OctConv(nn.Conv2d(6, 6, 3, padding=1), 2, 3), features(4, 2)
    for path in (layer.hl, layer.lh):
        nn.init.zeros_(path.weight)
    y, other = layer(x), layer(Octave(x.high, torch.randn_like(x.low)))
    assert torch.equal(y.high, other.high)
    assert not torch.equal(y.low, other.low)
    depthwise = OctConv(nn.Conv2d(6, 6, 3, padding=1, groups=6), 2, 2)
    assert [name for name, _ in depthwise.named_children()] == ["hh", "ll"]
    assert torch.equal(depthwise(x).low, depthwise.ll(x.low))


def test_groups_are_those_of_each_path():
    conv, x = nn.Conv2d(8, 12, 1, groups=2, bias=False), features(4, 4)
    layer = OctConv(conv, 4, 6)
    assert {path.groups for path in layer.children()} == {2}
    assert sum(p.numel() for p in layer.parameters()) == conv.weight.numel()
    assert layer(x).low.shape == (2, 6, 2, 2)


def test_norms_and_gates_act_on_each_frequency():
    x, norm = features(5, 3), nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.running_mean)
    made = OctNorm(norm.eval(), 3).eval()(x)
    torch.testing.assert_close(made.whole(), norm(x.whole()))
    block = SEModule(8, 1 / 4)
    clip = Octave(torch.randn(2, 5, 2, 4, 4), torch.randn(2, 3, 2, 2, 2))
    means = torch.cat([clip.high.mean((2, 3, 4)), clip.low.mean((2, 3, 4))], 1)[..., None, None, None]
    gate = block.fc2(block.fc1(means).relu()).sigmoid()
    made = block(clip)
    torch.testing.assert_close(made.high, clip.high * gate[:, :5])
    torch.testing.assert_close(made.low, clip.low * gate[:, 5:])


@given(high=st.integers(1, 3), low=st.integers(1, 3), frames=st.integers(1, 3), side=st.sampled_from([2, 4, 6]))
def test_features_are_split_and_put_together(high, low, frames, side):
    x = Octave(torch.randn(1, high, frames, side, side), torch.randn(1, low, frames, side // 2, side // 2))
    again = Octave.split(x.whole(), low)
    assert torch.equal(again.high, x.high)
    torch.testing.assert_close(again.low, x.low)
    dense = torch.randn(1, high + low, frames, side, side)
    for y in (x + dense, dense + x):
        torch.testing.assert_close(y.low, x.low + Octave.split(dense, low).low)
    joined = torch.cat([dense, x], 1)
    assert joined.high.shape[1] == high + low + high
    assert joined.low is not x.low
    assert torch.equal(joined.low, x.low)


@by_name
class TestFamily:
    """What every family does with two frequencies."""

    def test_costs_less_and_keeps_its_weights(self, name):
        plain, less = build(name, 0), build(name)
        assert count(less, FRAMES, CROP).macs < count(plain, FRAMES, CROP).macs
        weights = ([p.detach().flatten() for p in net.parameters()] for net in (plain, less))
        assert torch.equal(*(torch.cat(each).sort().values for each in weights))

    def test_forward_and_backward(self, name):
        net = build(name).train()
        out = net(torch.randn(2, 3, FRAMES, CROP, CROP))
        assert out.shape == (2, CLASSES)
        out.square().sum().backward()
        assert not [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]

    def test_as_it_is_trained_and_tested_it_computes_the_same(self, name):
        clips = torch.randn(2, 3, FRAMES, CROP, CROP).contiguous(memory_format=torch.channels_last_3d)
        net = build(name)
        for norm in net.modules():
            if isinstance(norm, _BatchNorm):
                nn.init.uniform_(norm.weight, 0.5, 1)
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


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_auto_tsnet_with_every_attention_and_fusion(kind):
    plain = uniform_architecture("tiny").to_dict()
    for stream in ("slow", "fast"):
        for group in plain[stream]:
            group["attention"] = kind
    plain["fusions"] = ["concat", "both", "slow_to_fast"]
    architecture = TwoStreamArchitecture.from_dict(plain)
    net = family("auto_tsnet").build(
        num_classes=CLASSES,
        frames=FRAMES,
        crop=48,
        architecture=architecture,
        transforms=[dict(type="octconv", alpha=0.25)],
    )
    net(torch.randn(2, 3, FRAMES, 48, 48)).sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


SLOW = (pytest.param(name, marks=pytest.mark.slow) for name in ("tsm", "slowfast", "auto_tsnet_uniform"))


@pytest.mark.parametrize("name", ["x3d", *SLOW])
def test_is_exported_for_any_batch(name, tmp_path):
    net = build(name).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    done = export(net, FRAMES, CROP, tmp_path)
    assert done.shape.startswith("B×3×")


def test_stages_but_the_last_have_two_frequencies_by_default():
    net = on_meta(lambda: build("slowfast"))
    names = {name.rpartition(".")[0] for name, m in net.named_modules() if isinstance(m, nn.Conv3d)}
    split = {n for n in names if isinstance(net.get_submodule(n), OctConv)}
    assert not any(n.startswith(("slow_path.conv1", "laterals.0")) for n in split)
    assert all(net.get_submodule(f"laterals.{i}.conv") is not None for i in (1, 2, 3))
    first = net.get_submodule("slow_path.layer4.0.conv1.conv")
    assert [n for n, _ in first.named_children()] == ["hh", "lh"], "the last stage reads both and gives one"
    assert "slow_path.layer4.0.conv2.conv" not in split


@pytest.mark.parametrize(
    "entry", ["x3d_oct", *(pytest.param(f"{n}_oct", marks=pytest.mark.slow) for n in ("slowfast", "tsm"))]
)
def test_entries_meet_the_budget(entry):
    suite = SUITES["kinetics-quick"]
    found = suite.entry(entry)
    assert found.optional
    assert suite.solution(found).matched


def test_bad_input_is_named_in_one_line():
    for message, wrong in (
        (r"octconv: alpha=1 is no share of channels", lambda: build("x3d", 1)),
        (r"octconv: alpha=-0.5 is no share of channels", lambda: build("x3d", -0.5)),
        (r"octconv: X3D: alpha=0.01 leaves none of the 18 channels of layer1.0.conv1.conv", lambda: build("x3d", 0.01)),
        (r"octconv: X3D: maps of layer3.0.*are 3×3 and have no half", lambda: build("x3d", crop=48)),
        (r"octconv: MViT has no stages", lambda: octconv(family("mvit").build(num_classes=2), 0.5, clips=())),
        (r"octconv: X3D has no module 'layer9'", lambda: octconv(build("x3d", 0), 0.5, ["layer9"], clips=())),
        (r"octconv: build X3D with frames and crop", lambda: octconv(build("x3d", 0), 0.5)),
        (r"OctConv: a map of 3×4 has no half", lambda: paths(2)(torch.zeros(1, 2, 3, 4))),
        (r"OctConv: a map of 5×5 has no half", lambda: OctConv(nn.Conv2d(2, 2, 1), 0, 1)(torch.zeros(1, 2, 5, 5))),
        (r"OctConv: 4 groups do not divide 6 channels", lambda: OctConv(nn.Conv2d(8, 8, 1, groups=4), 2, 2)),
        (r"OctConv: 8 low of 8 channels in, 0 of 8 out", lambda: OctConv(nn.Conv2d(8, 8, 1), 8, 0)),
        (r"OctConv: a stride of \(3, 3\) in space", lambda: OctConv(nn.Conv2d(8, 8, 1, 3), 2, 2)),
        (r"OctConv: a depthwise convolution has 2 low", lambda: OctConv(nn.Conv2d(8, 8, 1, groups=8), 2, 0)),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            on_meta(wrong)
        assert "\n" not in str(raised.value)
