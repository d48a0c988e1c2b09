"""The two-stream network, its blocks, and the supernet."""

import numpy as np
import pytest
import torch

from autotsnet.architecture import ATTENTIONS, FUSIONS
from autotsnet.layers.attention import Attention
from autotsnet.layers.elastic import Channels
from autotsnet.layers.fusion import TSFusion
from autotsnet.models import SuperNet, TwoStreamNet, recalibrate
from autotsnet.models.supernet import FairWindow
from autotsnet.spaces import preset

TINY = preset("tiny")
CLIP = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last_3d)


def architectures(n: int, seed: int = 0) -> list:
    """Random architectures of the tiny space."""
    return [TINY.decode(c) for c in TINY.sample(n, np.random.default_rng(seed))]


@pytest.mark.parametrize("kind", FUSIONS)
def test_fusion_shapes_and_direction(kind):
    slow, fast = Channels("slow", 6), Channels("fast", 4)
    fusion = TSFusion((kind,), slow, fast, alpha=4, kernel=5, name="f").eval()
    x_slow, x_fast = torch.randn(2, 6, 2, 5, 5), torch.randn(2, 4, 8, 5, 5)
    y_slow, y_fast = fusion(x_slow, x_fast)
    assert y_slow.shape == (2, 14 if kind == "concat" else 6, 2, 5, 5)
    assert y_fast.shape == x_fast.shape
    to_slow, to_fast = kind in ("concat", "fast_to_slow", "both"), kind in ("slow_to_fast", "both")
    assert (y_slow.shape == x_slow.shape and torch.equal(y_slow, x_slow)) != to_slow
    assert torch.equal(y_fast, x_fast) != to_fast


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_keeps_shapes_and_starts_near_the_identity(kind):
    block = Attention((kind,), Channels("c", 10), "a")
    x = torch.randn(2, 10, 3, 5, 7)
    y = block(x)
    assert y.shape == x.shape
    if kind != "se":
        assert torch.equal(x, y)


@pytest.mark.parametrize("fair", [False, True])
def test_subnets_of_one_batch_share_what_they_have_in_common_and_say_the_same(fair):
    net, base = SuperNet(TINY, 5, fair=fair).train(), TINY.sample(1, torch.Generator().manual_seed(0))[0]
    some = [TINY.decode(c) for c in TINY.neighbours(base)[::7]]
    calls = []
    for stem in net.skeleton(some[0]).stems.values():  # all skeletons have these
        stem.register_forward_hook(lambda *_: calls.append(None))
    with torch.no_grad():
        net.reseed(0)
        apart = [net(CLIP, a) for a in some]
        assert len(calls) == 2 * len(some)
        net.reseed(0)
        with net.common_parts():
            order = list(range(len(some))) if fair else net.order(some)
            shared = {i: net(CLIP, some[i]) for i in order}
        assert sorted(order) == list(range(len(some)))
        assert len(calls) == (4 if fair else 2) * len(some) + (0 if fair else 2)
        assert all(torch.equal(apart[i], shared[i]) for i in order)
        assert all(net.skeleton(a).done is None for a in some), "activations do not outlive their batch"


def test_nonlocal_is_the_dot_product_non_local():
    block = Attention(("nonlocal",), Channels("c", 8), "a").ops["nonlocal_"].eval().double()
    for parameter in block.parameters():  # the last norm begins at zero
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 8, 3, 6, 6, dtype=torch.float64)
    pooled = torch.nn.functional.max_pool3d(x, (1, 2, 2))
    q, k, v = block.query(x).flatten(2), block.key(pooled).flatten(2), block.value(pooled).flatten(2)
    weights = q.transpose(1, 2) @ k / k.shape[2]  # B L L/4: the definition, with the matrix that we avoid
    y = (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
    torch.testing.assert_close(block(x), x + block.out(y))


def test_slow_stream_sees_both_end_points():
    net = TwoStreamNet(architectures(1)[0].alone("slow"), 3).eval()
    clip = CLIP.clone().requires_grad_()
    net(clip).sum().backward()
    seen = clip.grad.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
    assert seen == [0, 7]


def test_a_subnet_is_the_first_channels_of_each_space_and_the_centres_of_kernels():
    net = SuperNet(TINY, 5)
    tensors = {**dict(net.whole.named_parameters()), **dict(net.whole.named_buffers())}
    for architecture in architectures(3):
        skeleton = net.skeleton(architecture)
        for name, piece in net.slices(skeleton).items():
            expected, path = tensors[name], name.rpartition(".")[0]
            axes = zip(net.whole.get_submodule(path).axes, skeleton.get_submodule(path).axes, strict=True)
            for axis, (stored, used) in enumerate(axes):
                sizes, start, index = {c.space: c.size for c in used}, 0, []
                for channels in stored:
                    index += range(start, start + sizes.get(channels.space, 0))
                    start += channels.size
                if index and axis < expected.dim():
                    expected = expected.index_select(axis, torch.tensor(index))
            for axis in range(2, expected.dim()):
                margin = (expected.shape[axis] - piece.shape[axis]) // 2
                expected = expected.narrow(axis, margin, piece.shape[axis])
            assert torch.equal(piece, expected), name


@pytest.mark.parametrize("fair", [False, True])
def test_extracted_model_has_the_outputs_of_the_subnet(fair):
    torch.manual_seed(0)
    net = SuperNet(TINY, 5, fair=fair)
    for architecture in architectures(4):
        net.train()
        net(CLIP, architecture).square().sum().backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad.clamp(-1, 1)
    for architecture in [*architectures(6, seed=1), architectures(1)[0].alone("fast")]:
        recalibrate(net, [CLIP], architecture)
        static = net.train().extract(architecture).eval()  # while fair windows are open
        net.eval()
        with torch.no_grad():
            torch.testing.assert_close(static(CLIP), net(CLIP, architecture), atol=1e-5, rtol=1e-5)
            assert net(CLIP, architecture).std() > 0


def test_a_step_touches_only_the_subnet():
    net = SuperNet(TINY, 5)
    architecture = TINY.decode(0 * TINY.counts)
    net(CLIP, architecture).square().sum().backward()
    used = sum(int((p.grad != 0).sum()) for p in net.parameters() if p.grad is not None)
    size = sum(p.numel() for p in TwoStreamNet(architecture, 5).parameters())
    assert 0 < used <= size < sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("groups", [5, 7])
def test_fair_channel_selection_updates_every_group_equally(groups):
    """Self-check: the long-run update frequency of each group is (N + 1) / 2N: 0.6 for 5, 4/7 for 7."""
    window = FairWindow(torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    largest, updates, draws = groups * 4, np.zeros(groups * 4), 20_000
    for n in rng.integers(1, groups + 1, draws):
        window.reset()
        start = window(Channels("c", 4 * n), largest)
        updates[(start + np.arange(4 * n)) % largest] += 1
    np.testing.assert_allclose(updates / draws, (groups + 1) / (2 * groups), atol=0.012)


def test_fair_windows_agree_inside_one_forward():
    window = FairWindow(torch.Generator().manual_seed(0))
    assert window(Channels("slow.0", 3), 8) == window(Channels("slow.0", 3), 8)
    assert window(Channels("classes", 3), 8) == 0


def test_recalibration_gives_the_statistics_of_the_data():
    net = TwoStreamNet(architectures(1)[0], 3)
    shifted = CLIP * 3 + 1
    assert recalibrate(net, [shifted, shifted]) == 2
    norm = net.stems["fast"][-2]
    with torch.no_grad():
        features = shifted
        for layer in list(net.stems["fast"])[:-2]:
            features = layer(features)
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3, 4)), atol=1e-4, rtol=1e-4)
    assert norm.momentum == 0.1
    before = norm.running_mean.clone()
    with pytest.raises(ValueError, match="got no batch"):
        recalibrate(net, [])
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("fair", [False, True])
def test_recalibration_of_a_subnet_is_that_of_its_static_model(fair):
    torch.manual_seed(0)
    net, architecture = SuperNet(TINY, 3, fair=fair), architectures(1)[0]
    static = net.extract(architecture)
    batches = [CLIP, CLIP * 2 - 1, CLIP + 3]
    recalibrate(static, batches)
    recalibrate(net, batches, architecture)
    extracted = net.extract(architecture).state_dict()
    for name, value in static.state_dict().items():
        torch.testing.assert_close(extracted[name], value, msg=name)
