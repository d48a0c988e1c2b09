"""The six published Tiny Video Networks: sizes, costs and stages; TensorFlow's padding; what they take of a clip."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotsnet.meta import on_meta
from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from autotsnet.search.constraint import Runtime
from autotsnet.search.progressive import SearchError
from baselines.tiny_video_net import (
    NETWORKS,
    VARIANTS,
    Block,
    SameConv,
    SamePool,
    TinyBlock,
    TinyVideoArchitecture,
    TinyVideoSpace,
    tiny_video_net,
)
from reproduce.measure.macs import count
from reproduce.search import stage
from reproduce.search import tiny_video_net as method
from reproduce.suites import suite

# Parameters with 157 classes, millions with 174, 339 and 400, GMACs with 157, and T, side and C after each block: from
# an analytic counter over the released structures.
GOLDEN = {
    "tvn_1": (
        26_041_803,
        (26.0766, 26.4147, 26.5397),
        4.326,
        [(1, 112, 256), (1, 56, 512), (1, 19, 512), (1, 10, 2048)],
    ),
    "tvn_2": (
        109_058_289,
        (109.0938, 109.4385, 109.5659),
        34.613,
        [
            (2, 86, 256),
            (1, 43, 512),
            (1, 43, 1024),
            (1, 22, 1024),
            (1, 8, 2048),
            (1, 3, 2048),
            (1, 3, 2088),
        ],
    ),
    "tvn_3": (
        67_243_119,
        (67.2867, 67.7092, 67.8654),
        53.639,
        [(4, 80, 192), (4, 40, 1280), (2, 10, 512), (1, 5, 2560)],
    ),
    "tvn_4": (43_296_087, (43.3309, 43.6690, 43.7940), 25.918, [(4, 64, 256), (2, 32, 1536), (2, 11, 2048)]),
    "tvn_mobile_1": (7_329_129, (7.3313, 7.3526, 7.3605), 5.350, [(2, 56, 96), (2, 14, 128)]),
    "tvn_mobile_2": (5_504_982, (5.5072, 5.5285, 5.5363), 5.033, [(2, 56, 96), (2, 14, 128)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_size_cost_and_stages_are_those_of_the_released_structures(name):
    params, millions, gmacs, stages = GOLDEN[name]
    build, arguments = VARIANTS[name]
    counted = count(lambda: build(**arguments | {"num_classes": 157}), arguments["frames"], arguments["crop"])
    assert (counted.params, round(counted.gmacs, 3)) == (params, gmacs)
    features = on_meta(lambda: build(**arguments)).fc.in_features
    more = [(params + (classes - 157) * (features + 1)) / 1e6 for classes in (174, 339, 400)]
    assert [round(m, 4) for m in more] == list(millions)
    net, seen = on_meta(lambda: build(**arguments)).eval(), []
    x = torch.empty(1, 3, arguments["frames"], arguments["crop"], arguments["crop"], device="meta")
    for blocks in net.stages:
        x = blocks(x)
        seen.append((x.shape[2], x.shape[3], x.shape[1]))
    assert seen == stages


def test_what_same_pads_is_one_more_at_the_end():
    x = torch.arange(1.0, 6.0).view(1, 1, 1, 1, 5)
    conv = SameConv(1, 1, (1, 1, 4), (1, 1, 2))
    nn.init.ones_(conv.weight)
    assert conv(x).flatten().tolist() == [6, 14, 9]  # 0+1+2+3, 2+3+4+5, 4+5+0+0: one before, two after
    conv = SameConv(1, 1, (1, 1, 3), (1, 1, 2))
    nn.init.ones_(conv.weight)
    assert conv(x[..., :4]).flatten().tolist() == [6, 7]  # an even side: none before, one after
    assert conv(x).flatten().tolist() == [3, 9, 9]  # an odd side: one before, one after


def test_pools_do_not_see_what_is_padded():
    x = -torch.arange(1.0, 5.0).view(1, 1, 1, 1, 4)
    assert SamePool("max", (1, 1, 3), (1, 1, 2))(x).flatten().tolist() == [-1, -3]
    assert SamePool("avg", (1, 1, 3), (1, 1, 2))(x).flatten().tolist() == pytest.approx([-2, -3.5])
    whole = torch.randn(1, 2, 2, 4, 4)
    pooled = SamePool("avg", (1, 2, 2), (1, 2, 2))(whole)
    torch.testing.assert_close(pooled, F.avg_pool3d(whole, (1, 2, 2)))


def test_copies_after_the_first_have_no_strides_and_every_second_no_temporal_operation():
    with torch.device("meta"):
        first, *others = tiny_video_net(num_classes=5, frames=8, crop=128, network="tvn_4").stages[0]
    kernels = [[m.kernel_size for m in block.modules() if isinstance(m, nn.Conv3d)] for block in (first, *others)]
    assert [(3, 1, 1) in sizes for sizes in kernels] == [True, False, True, False, True]
    assert first.shortcut is None, "its frames are fewer"
    assert all(block.shortcut is not None for block in others)
    strides = [m.stride for block in others for m in block.modules() if isinstance(m, nn.Conv3d)]
    assert set(strides) == {(1, 1, 1)}


def test_an_operation_of_kernel_1_is_none_with_its_stride():
    block = TinyBlock(Block(("depth", 1, 2), ("conv", 1, 2), 4, 2, skip=True), 3, 4, 8, frames=4)
    assert block(torch.randn(1, 3, 4, 6, 6)).shape == (1, 8, 4, 6, 6)
    assert len(block.layers) == 1


def test_an_inverted_block_expands_first_and_ends_with_its_filters():
    spec = NETWORKS["tvn_mobile_1"][1]
    block = TinyBlock(spec, 96, 128, 768, frames=2)
    convs = [(m.in_channels, m.out_channels, m.groups) for m in block.layers.modules() if isinstance(m, nn.Conv3d)]
    assert convs[:3] == [(96, 768, 1), (768, 768, 1), (768, 768, 768)]
    assert convs[-1] == (768, 128, 1)
    assert block.out_chs == 128


def test_clips_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"built for 2 frames got clips of 8.*pass frames= to build"):
        tiny_video_net(num_classes=5, width=0.1)(torch.zeros(1, 3, 8, 32, 32))


def test_more_frames_than_the_clip_has_are_refused():
    architecture = TinyVideoArchitecture(NETWORKS["tvn_1"], frames=4, stride=3).to_dict()
    with pytest.raises(ValueError, match="of 4 frames, 3 apart, needs 10; clips have 8"):
        tiny_video_net(num_classes=5, frames=8, architecture=architecture)


def test_an_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match=r"Tiny Video Network 'tvn_5' is not one of tvn_1, .*, tvn_mobile_2"):
        tiny_video_net(num_classes=5, network="tvn_5")
    with pytest.raises(ValueError, match="spatial operation 'conv3' is not one of std, depth, max, avg"):
        Block(("conv3", 3, 1), ("max", 1, 1), 8, 2)


def test_what_is_taken_of_a_clip_are_frames_in_the_middle_resized():
    block = (Block(("std", 3, 2), ("max", 1, 1), 4, 2),)
    taken = TinyVideoArchitecture(block, frames=2, stride=3, side=16)
    net = tiny_video_net(num_classes=5, frames=8, crop=32, architecture=taken.to_dict()).eval()
    alone = tiny_video_net(
        num_classes=5, frames=2, crop=16, architecture=replace(taken, frames=None, side=None, stride=1).to_dict()
    )
    alone.load_state_dict(net.state_dict())
    clips = torch.randn(1, 3, 8, 32, 32)
    resized = F.interpolate(clips[:, :, [2, 5]], (2, 16, 16), mode="trilinear", align_corners=False)
    torch.testing.assert_close(net(clips), alone.eval()(resized))
    assert TinyVideoArchitecture.from_dict(taken.to_dict()) == taken


def test_peaks_weigh_each_frame_by_its_own_softmax():
    net = tiny_video_net(num_classes=3, frames=4, network="tvn_mobile_2", width=0.1, peaks=True).eval()
    nn.init.normal_(net.fc.weight)
    clips = torch.randn(1, 3, 4, 32, 32)
    z = net.fc(net.features(clips).mean((3, 4)).transpose(1, 2))[0]
    expected = (z * (z / 2).softmax(0)).sum(0)
    torch.testing.assert_close(net(clips)[0], expected)


SPACE = TinyVideoSpace(8, 48, width=0.125)


class Clock:
    """A planted device: a network takes as long as its blocks have filters, copies and pixels."""

    def __init__(self) -> None:
        self.now = 0.0

    def net(self, architecture: TinyVideoArchitecture) -> nn.Module:
        seconds, side, frames = 1e-4, architecture.side, architecture.frames
        for block in architecture.blocks:
            kind, k, s = block.spatial
            side = -(-side // s)
            work = frames * side**2 * block.filters * block.expansion
            seconds += 1e-8 * work * block.repeats * (k**2 if kind == "std" else k)
        net = nn.Identity()
        net.register_forward_hook(lambda *args: setattr(self, "now", self.now + seconds))
        return net


@pytest.fixture
def timed(monkeypatch):
    """Makes a runtime of so many milliseconds on the planted device."""
    clock = Clock()
    monkeypatch.setattr(TinyVideoSpace, "static_model", lambda self, architecture, classes: clock.net(architecture))
    monkeypatch.setattr(TinyVideoSpace, "example", lambda self, batch=1: torch.zeros(1, 3, 8, 48, 48))

    def make(milliseconds: float) -> Runtime:
        options = dict(warmup=1, repeats=1, clock=lambda: clock.now, device="cpu")
        return Runtime(milliseconds, space=SPACE, num_classes=5, **options)

    return make


class Planted:
    """Fitness of a code: a value for each candidate of each variable, rising with its cost; blocks count if there."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.values = [torch.rand(int(n), generator=generator).cumsum(0) / int(n) for n in SPACE.counts]

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        values = torch.stack([v[c] for v, c in zip(self.values, codes.T, strict=True)], 1).double()
        blocks = values[:, 3:].unflatten(1, (SPACE.most, -1)).clone()
        there = codes[:, 3:].unflatten(1, (SPACE.most, -1))[:, :, 0] > 0
        there[:, 0] = True
        return values[:, :3].sum(1) + (blocks.sum(2) * there).sum(1)


def found(kind: type, limit: Runtime, fitness: Planted, seed: int, evaluations: int = 200) -> float:
    """The fitness that a search of so many evaluations ends with; nothing over the limit is evaluated."""
    options = (EvolutionOptions(20, 5),) if kind is Evolution else ()
    strategy = kind(SPACE, limit.cost, limit.limit, *options, batch=4, seed=seed)
    strategy.at_once = 8
    for _ in range(evaluations // 4):
        codes = strategy.ask()
        costs = limit.cost(codes)
        assert (costs <= limit.limit).all(), "an offending candidate was evaluated"
        strategy.tell(codes, fitness(codes), costs, 1)
    assert limit.cost(strategy.best()[None]).item() <= limit.limit
    return fitness(strategy.best()[None]).item()


def test_evolution_under_a_runtime_beats_random_search_of_as_many_evaluations(timed):
    drawn = SPACE.sample(200, torch.Generator().manual_seed(0))
    limit = timed(timed(1e9).cost(drawn).quantile(0.4).item())
    better = [found(Evolution, limit, Planted(s), s) > found(RandomSearch, limit, Planted(s), s) for s in range(10)]
    assert sum(better) >= 9


def test_the_space_holds_what_its_codes_say():
    codes = SPACE.sample(30, torch.Generator().manual_seed(0))
    children = SPACE.mutate(codes, torch.Generator().manual_seed(1))
    assert ((codes != children).sum(1) == 1).all()
    for code, child in zip(codes, children, strict=True):
        architecture = SPACE.decode(code)
        assert architecture != SPACE.decode(child), "a change of a block that is not there"
        assert SPACE.decode(SPACE.encode(architecture)) == architecture
        assert (architecture.frames - 1) * architecture.stride < 8
    neighbours = SPACE.neighbours(codes[0])
    assert len(neighbours) == (SPACE.counts - 1).sum()
    assert ((neighbours != codes[0]).sum(1) == 1).all()
    for code in (codes[:3], children[:3]):
        for one in code:
            net = SPACE.static_model(SPACE.decode(one), 5).eval()
            assert net(SPACE.example(2)).shape == (2, 5)
    other = TinyVideoArchitecture(NETWORKS["tvn_1"])
    with pytest.raises(ValueError, match="is not of space 'tiny_video_net' on clips of 8 frames of 48 pixels"):
        SPACE.encode(other)
    for missing in (SPACE.cost, SPACE.supernet):
        with pytest.raises(ValueError, match="space 'tiny_video_net' has no"):
            missing(5)


def test_the_first_candidates_are_the_fastest(timed):
    limit = timed(1.0)
    low, high = limit.range()
    costs = limit.cost(SPACE.sample(200, torch.Generator().manual_seed(0)))
    assert low <= costs.min() < costs.max() <= high


@pytest.mark.parametrize("ms", [None, 1e-6])
def test_a_runtime_below_the_fastest_candidate_says_the_range(timed, monkeypatch, ms):
    s = suite("ssv2-tiny")
    config = stage.search_config(s.entry("tiny_video_net_searched"))
    config.options.update(milliseconds=ms)
    how = stage.method(s, config)
    monkeypatch.setattr(method, "Runtime", lambda most, **options: timed(most))
    monkeypatch.setattr(method, "forward_ms", lambda net, *clips: 1e-6)  # of the entry that is the reference
    message = (
        r"a runtime of 1e-06 ms is below the fastest candidate .* take 0\.1\d+ to [\d.e+]+ ms here, choose at least"
    )
    with pytest.raises(SearchError, match=message):
        _ = how.limit
