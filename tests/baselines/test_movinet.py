"""MoViNet: published sizes and costs, streams that do not depend on how they are fed, weights of its PyTorch port."""

import resource
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotsnet.meta import on_meta
from baselines import VARIANTS
from baselines.checkpoints import MAPS, CheckpointError, convert
from baselines.movinet import INPUTS, TemporalEnsemble, divisible, hard_sigmoid, movinet, structure
from reproduce.export import export
from reproduce.measure.macs import count

# Derived from the authors' structures by another counter. Parameters with 600, 400 and 174 classes; GMACs of a base
# network on its native clip; parameters of the stream with 600 classes, its GMACs on the clip and MMACs on one frame,
# numbers in its buffers; layers. The streams of A3 to A5 have another scalar in each layer. That counter's 10.701 GMACs
# of A2's stream and 2184.2 MMACs of A5's were rounded twice: 10.70045, 2184.14995.
GOLDENS = {
    "a0": ((3_111_799, 2_701_999, 2_238_925), "2.631", 3_748_031, "2.426", "50.70", 670_944, 15),
    "a1": ((4_690_296, 4_280_496, 3_817_422), "5.866", 6_447_352, "5.540", "113.21", 1_214_416, 24),
    "a2": ((5_249_562, 4_839_762, 4_376_688), "11.558", 7_326_962, "10.700", "216.50", 2_700_096, 26),
    "a3": ((7_397_545, 6_987_745, 6_524_671), "55.593", 10_986_585 + 33, "52.134", "437.18", 4_558_848, 33),
    "a4": ((11_349_463, 10_939_663, 10_476_589), "103.34", 18_136_135 + 47, "96.74", "1212.2", 12_334_016, 47),
    "a5": ((18_650_523, 18_240_723, 17_777_649), "276.33", 31_495_875 + 59, "261.71", "2184.1", 18_748_800, 59),
    "t0": ((1_727_414, 1_522_414, 1_290_764), "1.741", 2_368_958, "1.668", "34.21", 323_600, 14),
}
by_size = pytest.mark.parametrize("size", GOLDENS)


def rounded(value: float, digits: str) -> str:
    """With as many decimals as the golden."""
    return f"{value:.{len(digits.partition('.')[2])}f}"


def meta(size: str, classes: int = 600, causal: bool = False):
    """A network without storage."""
    return on_meta(lambda: movinet(num_classes=classes, size=size, causal=causal)).eval()


@by_size
def test_base_networks_have_the_published_size_and_cost(size):
    params, gmacs, *_, layers = GOLDENS[size]
    assert tuple(sum(p.numel() for p in meta(size, n).parameters()) for n in (600, 400, 174)) == params
    frames, crop, *_ = INPUTS.get(size, (50, 160))
    assert rounded(count(meta(size), frames, crop).gmacs, gmacs) == gmacs
    assert sum(len(block) for _, block in structure(size).blocks) == layers


@by_size
def test_streams_have_the_published_size_and_cost(size):
    _, _, params, gmacs, mmacs, buffered, _ = GOLDENS[size]
    net = meta(size, causal=True)
    frames, crop, *_ = INPUTS.get(size, (50, 160))
    assert sum(p.numel() for p in net.parameters()) == params
    assert rounded(count(net, frames, crop).gmacs, gmacs) == gmacs
    assert rounded(count(net, 1, crop).gmacs * 1e3, mmacs) == mmacs
    _, state = net.stream(torch.empty(1, 3, 1, crop, crop, device="meta"))
    assert state.buffered == buffered


def randomised(net: nn.Module) -> nn.Module:
    """A network in eval mode whose every tensor does something."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    for parameter in net.parameters():
        if parameter.dim() == 0:
            nn.init.constant_(parameter, 0.3)
        elif parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return net.eval()


@pytest.fixture(scope="module", params=["a0", "a3"])
def stream(request):
    """A small stream; that of A3 knows the number of its frame."""
    torch.manual_seed(0)
    net = randomised(movinet(num_classes=7, size=request.param, causal=True, width=0.25, head_width=32))
    with torch.no_grad():
        net.fc.weight *= 3 / net(torch.randn(1, 3, 4, 32, 32)).abs().max()  # logits of a trained network's size
    return net


def fed(net, clips, *chunks):
    """Logits after each chunk of so many frames, and the last state."""
    state, out = None, []
    for chunk in clips.split(chunks, 2):
        logits, state = net.stream(chunk, state)
        out.append(logits)
    return out, state


def test_frames_chunks_and_the_whole_give_the_same_logits(stream):
    clips = torch.randn(2, 3, 12, 40, 36)
    with torch.no_grad():
        expected = stream(clips)
        assert (stream(clips.flip(2)) - expected).abs().max() > 1e-2
    for chunks in ([12], [1] * 12, [1, 5, 2, 4]):
        logits, state = fed(stream, clips, *chunks)
        torch.testing.assert_close(logits[-1], expected, atol=1e-5, rtol=0)
        assert state.seen == 12


def test_no_output_depends_on_later_frames(stream):
    clips = torch.randn(1, 3, 10, 40, 40)
    other = clips.clone()
    other[:, :, 6:] = torch.randn(1, 3, 4, 40, 40)
    with torch.no_grad():
        a, b = stream.features(clips), stream.features(other)
        torch.testing.assert_close(a[:, :, :6], b[:, :, :6], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(a[:, :, 6], b[:, :, 6], atol=1e-3)
        base = randomised(movinet(num_classes=7, width=0.25, head_width=32))
        assert not torch.allclose(base.features(clips)[:, :, 0], base.features(other)[:, :, 0], atol=1e-6)


def test_the_logits_on_the_way_are_those_of_the_shorter_clip(stream):
    clips = torch.randn(1, 3, 5, 40, 40)
    logits, _ = fed(stream, clips, *[1] * 5)
    with torch.no_grad():
        for t, of in enumerate(logits, 1):
            torch.testing.assert_close(of, stream(clips[:, :, :t]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_is_flat(stream, frames):
    clip, state, kept = torch.randn(1, 3, 1, 32, 32), None, set()
    for i in range(frames):
        if i == frames // 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        logits, state = stream.stream(clip, state)
        kept.add(state.bytes)
    assert len(kept) == 1
    assert logits.isfinite().all()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown / (1024 if sys.platform == "darwin" else 1) < 4096  # kB: a leak of one buffer a frame would be more


def test_the_size_of_the_frames_may_not_change(stream):
    _, state = stream.stream(torch.randn(1, 3, 2, 32, 32))
    with pytest.raises(ValueError, match=r"the stream began with 1×32×32 pixels .* and now gets 1×48×32; begin a new"):
        stream.stream(torch.randn(1, 3, 1, 48, 32), state)
    with pytest.raises(ValueError, match=r"and now gets 2×32×32"):
        stream.stream(torch.randn(2, 3, 1, 32, 32), state)


def test_what_cannot_be_built_or_fed_is_said(stream):
    with pytest.raises(ValueError, match=r"unknown size 'a6'; known: a0, a1"):
        movinet(num_classes=5, size="a6")
    with pytest.raises(ValueError, match=r"frames=0; it takes any number from 1 on"):
        movinet(num_classes=5, frames=0)
    with pytest.raises(ValueError, match=r"clips of 0 frames"):
        stream(torch.zeros(1, 3, 0, 32, 32))
    with pytest.raises(ValueError, match=r"one frame or more"):
        stream.stream(torch.zeros(1, 3, 0, 32, 32))
    with pytest.raises(ValueError, match=r"looks at later frames and cannot stream"):
        movinet(num_classes=5, width=0.1, head_width=8).stream(torch.zeros(1, 3, 1, 32, 32))
    with pytest.raises(ValueError, match=r"an ensemble of 2 networks got clips of 1 frames"):
        TemporalEnsemble(stream, stream)(torch.zeros(1, 3, 1, 32, 32))


def test_an_ensemble_takes_turns_for_the_cost_of_one(stream):
    torch.manual_seed(1)
    other = randomised(movinet(num_classes=7, causal=True, width=0.25, head_width=32))
    both = TemporalEnsemble(stream, other).eval()
    clips = torch.randn(2, 3, 9, 32, 32)
    with torch.no_grad():
        expected = (stream(clips[:, :, 0::2]) + other(clips[:, :, 1::2])) / 2
        torch.testing.assert_close(both(clips), expected)
    for chunks in ([9], [1] * 9, [3, 1, 5]):
        torch.testing.assert_close(fed(both, clips, *chunks)[0][-1], expected, atol=1e-5, rtol=0)
    one = meta("a0", causal=True)
    ensemble = on_meta(lambda: TemporalEnsemble(*(movinet(num_classes=600, causal=True) for _ in range(2))))
    head = sum(linear.weight.numel() for linear in (one.hidden, one.fc))
    assert count(ensemble, 50, 172).macs == count(one, 50, 172).macs + head


@pytest.mark.parametrize("causal", [False, True])
def test_a_scaled_member_learns(causal):
    torch.manual_seed(0)
    net = movinet(num_classes=2, width=0.25, head_width=16, causal=causal, drop_path=0.0, dropout=0.0)
    clips, label = torch.randn(4, 3, 4, 32, 32), torch.tensor([0, 1, 0, 1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(clips), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(layer.scale != 0 for block in net.blocks for layer in block)  # starts at 0: the input alone


@pytest.mark.slow
def test_a_stream_is_exported(stream, tmp_path):
    assert export(stream, 8, 32, tmp_path).shape == "B×3×T×32×32"


# The port, under the names of its files ----------------------------------------------------------------------


class Conv(nn.Module):
    """Convolution, norm and activation of the port: in a stream of two axes, first in space, then in time."""

    def __init__(self, ins, outs, kernel=(1, 1), stride=1, groups=1, stream=False, norm=True, act=nn.Identity):
        super().__init__()
        self.t, self.k, self.stride, self.stream = *kernel, stride, stream

        def unit(ins, kernel, stride=1):
            conv, bn = (nn.Conv2d, nn.BatchNorm2d) if stream else (nn.Conv3d, nn.BatchNorm3d)
            name = "conv2d" if stream else "conv3d"
            parts = {name: conv(ins, outs, kernel, stride, groups=groups, bias=not norm)}
            return nn.Sequential(OrderedDict(parts | ({"norm": bn(outs, eps=1e-3)} if norm else {}) | {"act": act()}))

        k = self.k
        self.conv_1 = unit(ins, (k, k), stride) if stream else unit(ins, (self.t, k, k), (1, stride, stride))
        if stream and self.t > 1:
            self.conv_2 = unit(outs, (self.t, 1))

    def forward(self, x):
        """B C T H W."""
        sides = x.shape[:-3:-1]  # W, H
        total = [max(self.k - (side % self.stride or self.stride), 0) for side in sides]
        x = F.pad(x, [p for of in total for p in (of // 2, of - of // 2)])
        if not self.stream:
            return self.conv_1(F.pad(x, (0, 0, 0, 0, self.t // 2, self.t // 2)))
        x = torch.stack([self.conv_1(frame) for frame in x.unbind(2)], 2)
        if self.t > 1:
            shape = x.shape[3:]
            x = self.conv_2(F.pad(x.flatten(3), (0, 0, self.t - 1, 0))).unflatten(3, shape)
        return x


class Pool(nn.Module):
    """Average over the pixels that are there, of sides from 3 on."""

    def forward(self, x):
        """B C T H W."""
        odd = [side % 2 for side in x.shape[3:]]
        return F.avg_pool3d(x, (1, 3, 3), (1, 2, 2), (0, *odd), ceil_mode=True, count_include_pad=False)


class Bottleneck(nn.Module):
    """A layer of the port."""

    def __init__(self, ins, outs, inner, t, k, stride, stream):
        super().__init__()
        act = nn.Hardswish if stream else nn.SiLU
        self.stream, means = stream, 2 * inner if stream else inner
        hidden = divisible(inner // 4 * (2 if stream else 1))
        self.expand = Conv(ins, inner, stream=stream, act=act)
        self.deep = Conv(inner, inner, (t, k), stride, inner, stream, act=act)
        self.se = nn.Module()
        self.se.fc1 = Conv(means, hidden, stream=stream, norm=False)
        self.se.fc2 = Conv(hidden, inner, stream=stream, norm=False)
        self.act = act()
        self.project = Conv(inner, outs, stream=stream)
        if stride > 1 or ins != outs:
            self.res = nn.Sequential(*[Pool()] * (stride > 1), Conv(ins, outs, stream=stream))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        """B C T H W."""
        y = self.deep(self.expand(x))
        if self.stream:
            now = y.mean((3, 4), keepdim=True)
            until = torch.stack([now[:, :, : t + 1].mean(2) for t in range(now.shape[2])], 2)
            y = y * hard_sigmoid(self.se.fc2(self.act(self.se.fc1(torch.cat((until, now), 1)))))
        else:
            y = y * self.se.fc2(self.act(self.se.fc1(y.mean((2, 3, 4), keepdim=True)))).sigmoid()
        return (self.res(x) if hasattr(self, "res") else x) + self.alpha * self.project(y)


class Port(nn.Module):
    """Atze00/MoViNet-pytorch's network."""

    def __init__(self, size, classes, stream):
        super().__init__()
        plan, act = structure(size), nn.Hardswish if stream else nn.SiLU
        self.conv1 = Conv(3, plan.stem, (1, 3), 2, stream=stream, act=act)
        ins, blocks = plan.stem, {}
        for b, (outs, layers) in enumerate(plan.blocks):
            for i, (inner, t, k) in enumerate(layers):
                blocks[f"b{b}_l{i}"] = Bottleneck(ins, outs, inner, t, k, 2 if not i and b != 3 else 1, stream)
                ins = outs
        self.blocks = nn.Sequential(OrderedDict(blocks))
        self.conv7 = Conv(ins, plan.project, stream=stream, act=act)
        self.classifier = nn.Sequential(
            Conv(plan.project, plan.hidden, stream=stream, norm=False),
            nn.SiLU(),
            nn.Dropout(0.2),
            Conv(plan.hidden, classes, stream=stream, norm=False),
        )

    def forward(self, clips):
        """Clips B 3 T H W to logits B N."""
        x = self.conv7(self.blocks(self.conv1(clips)))
        return self.classifier(x.mean((2, 3, 4), keepdim=True)).flatten(1)


@pytest.mark.parametrize("variant", ["movinet_a0", "movinet_a0_stream"])
def test_the_ports_weights_give_its_logits_and_the_same_bits_there_and_back(variant):
    torch.manual_seed(0)
    causal = variant.endswith("stream")
    port = randomised(Port("a0", 7, causal))
    theirs = port.state_dict()
    ours, source, made_up = convert(theirs, variant, 7)
    assert (source, made_up) == ("movinet-pytorch, streams" if causal else "movinet-pytorch", [])
    build, arguments = VARIANTS[variant]
    net = build(**arguments | {"num_classes": 7}).eval()
    net.load_state_dict(ours, strict=True)
    for height, width in ((44, 44), (43, 46)):  # even and odd on the way: 22, 11, 6, 3; 22 and 23, 11 and 12, …
        clips = torch.randn(1, 3, 6, height, width, dtype=torch.double)
        with torch.no_grad():
            expected = port.double()(clips)
            assert expected.std() > 0.01
            torch.testing.assert_close(net.double()(clips), expected, rtol=0, atol=1e-6)  # sums in single precision
    back = MAPS[source]["movinet"].theirs(ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key].double(), tensor.double()) for key, tensor in theirs.items())


@pytest.mark.parametrize("size", ["a1", "a2", "a3", "a4", "a5"])
def test_the_names_of_every_size_are_known(size):
    """A3 and A5 have a shortcut that does not pool: ``res.0`` instead of ``res.1``."""
    theirs = on_meta(lambda: Port(size, 600, False)).state_dict()
    ours, _, made_up = convert(theirs, f"movinet_{size}", 600)
    assert not made_up
    assert ours.keys() == meta(size).state_dict().keys()


def test_checkpoints_of_another_network_are_refused_in_a_line():
    state = {causal: on_meta(lambda of=causal: Port("a0", 600, of)).state_dict() for causal in (False, True)}
    with pytest.raises(
        CheckpointError, match=r"not movinet_a0: .*; it looks like movinet_a0_stream of movinet-pytorch"
    ):
        convert(state[True], "movinet_a0", 600)
    with pytest.raises(
        CheckpointError, match=r"not movinet_a0_stream: .*; it looks like movinet_a0 of movinet-pytorch"
    ):
        convert(state[False], "movinet_a0_stream")
    with pytest.raises(CheckpointError, match=r"say --classes 600 \(the files published for Kinetics-400 are reported"):
        convert(state[False], "movinet_a0")
