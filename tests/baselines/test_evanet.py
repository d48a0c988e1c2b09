"""EvaNet: the published networks node by node, exact iTGM, SAME padding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.evanet import (
    PUBLISHED,
    MaxPool,
    Structures,
    TGMConv3d,
    Unit,
    evanet,
    layers_of,
    same,
)
from baselines.evanet_evolution import StructureSpace, distance, winners
from reproduce.measure.macs import count

# Parameters with 400 classes; GMACs at 64x224, 32x224, 64x256, of the structures as decoded from the released strings.
GOLDENS = {
    "a": (32_804_188, {(64, 224): 142.71, (32, 224): 71.35, (64, 256): 186.39}),
    "b": (40_296_514, {(64, 224): 101.00, (32, 224): 50.50, (64, 256): 131.91}),
}
WIDTHS = {"a": (256, 510, 1024, 2046), "b": (255, 510, 1023, 2048)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_their_size_and_cost(name):
    params, costs = GOLDENS[name]
    for (frames, crop), gmacs in costs.items():
        counted = count(lambda: evanet(num_classes=400, structures=name), frames, crop)
        assert counted.params == params
        assert round(counted.gmacs, 2) == gmacs


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_node_by_node(name):
    """Repeats and widths; times of the layers are in the costs."""
    with torch.device("meta"):
        net = evanet(num_classes=400, structures=name).members[0]
    units = [[u for u in stage if isinstance(u, Unit)] for stage in net.stages]
    assert [len(stage) for stage in units] == [m.repeats for m in PUBLISHED[name].modules]
    assert tuple(stage[-1].out_chs for stage in units) == WIDTHS[name]
    assert [type(u.shortcut) is nn.Identity for u in units[2]] == [False, *[True] * (len(units[2]) - 1)]


def test_odd_repeats_have_no_convolution_in_time_but_their_pools():
    with torch.device("meta"):
        res4 = [u for u in evanet(num_classes=2).members[0].stages[2] if isinstance(u, Unit)]
    for number, unit in enumerate(res4):
        assert [m.kernel[0] for m in unit.modules() if isinstance(m, MaxPool)] == [7, 11]
        mixed = [m.time for m in unit.modules() if isinstance(m, TGMConv3d)]
        assert mixed == ([11] if number % 2 == 0 else [])


def tgm(time: int, centre: float = 0.0) -> TGMConv3d:
    """A layer of 2 to 3 channels."""
    torch.manual_seed(0)
    layer = TGMConv3d(2, 3, time, 3, (1, 1, 1)).double()
    nn.init.constant_(layer.centres, centre)
    nn.init.zeros_(layer.scales)
    return layer


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (3, (0.270198, 0.459603, 0.270198)),
        (5, (0.097309, 0.217613, 0.370156, 0.217613, 0.097309)),
    ],
)
def test_profiles_are_those_of_the_source(time, expected):
    for profile in tgm(time).profiles():
        torch.testing.assert_close(profile, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_centres_end_at_the_ends_of_the_kernel():
    for centre, peak in ((-9.0, 0), (9.0, 4)):
        assert (tgm(5, centre).profiles().argmax(1) == peak).all()


def test_an_itgm_layer_is_the_dense_convolution_of_its_mixture():
    layer, x = tgm(5), torch.randn(2, 2, 6, 4, 4, dtype=torch.float64)
    nn.init.normal_(layer.centres)
    nn.init.normal_(layer.scales)
    f = layer.profiles()
    kernel = torch.zeros(3, 2, 5, 3, 3, dtype=torch.float64)
    for o in range(3):
        for i in range(2):
            shares = layer.mixing[o, i].softmax(0)
            for t in range(5):
                kernel[o, i, t] = layer.weight[o, i, 0] * sum(shares[m] * f[m, t] for m in range(4))
    torch.testing.assert_close(layer(x), F.conv3d(x, kernel, padding=(2, 1, 1)))
    assert sum(p.numel() for p in layer.parameters()) == 2 * 3 * 9 + 4 * 2 * 3 + 8


def test_same_padding_is_tensorflows():
    x = torch.zeros(1, 1, 4, 5, 6)
    assert same(x, (3, 7, 7), (2, 2, 2)).shape == (1, 1, 5, 5 + 6, 6 + 5)  # even sides: one more at the end
    x = torch.arange(6.0).reshape(1, 1, 1, 1, 6)
    assert MaxPool((1, 1, 3), (1, 1, 2))(-x).flatten().tolist() == [0.0, -2.0, -4.0], "0 of the padding never wins"
    assert MaxPool((1, 2, 2), (1, 2, 2))(torch.zeros(1, 1, 3, 7, 7)).shape[2:] == (3, 4, 4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_short_clips_pass(name):
    net = evanet(num_classes=3, structures=name, width=0.05, repeats=(1, 1, 1, 1)).eval()
    for frames in (4, 8):
        assert net(torch.randn(1, 3, frames, 32, 32)).shape == (1, 3)


def test_an_ensemble_says_the_mean_of_its_members():
    net, clips = evanet(num_classes=3, structures="ab", width=0.05).eval(), torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(net(clips), (net.members[0](clips) + net.members[1](clips)) / 2)


def test_what_is_no_structure_says_so():
    with pytest.raises(ValueError, match="unknown structures 'c'; known: a, b"):
        evanet(num_classes=3, structures="c")
    data = Structures((PUBLISHED["a"],)).to_dict()
    assert Structures.from_dict(data) == Structures((PUBLISHED["a"],))
    data["members"][0]["modules"][0]["branches"][0] = "3d-2"
    with pytest.raises(ValueError, match="branch '3d-2' is none of: single, max-T"):
        Structures.from_dict(data)
    with pytest.raises(ValueError, match="no structures of EvaNet: KeyError 'members'"):
        Structures.from_dict({})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_are_in_the_space(name):
    space, published = StructureSpace(), Structures((PUBLISHED[name],))
    assert space.decode(space.encode(published)) == published


def test_mutations_are_large_early_and_small_late_and_always_change_something():
    space, generator = StructureSpace(), torch.Generator().manual_seed(0)
    parents = space.sample(40, generator)
    changed = []
    for space.progress in (0.0, 0.5, 1.0):
        children = space.mutate(parents, generator)
        pairs = [[space.decode(c).members[0] for c in pair] for pair in zip(parents, children, strict=True)]
        assert all(a != b for a, b in pairs)
        changed.append(sum(distance(a, b) for a, b in pairs) / len(pairs))
    assert changed[0] > 1.3 * changed[1] > 1.3 * 2 * changed[2]


def test_all_that_evolves_changes():
    """Layer types, temporal lengths, branches, repeats."""
    space, generator = StructureSpace(), torch.Generator().manual_seed(0)
    space.progress = 1.0
    (parent,) = Structures((PUBLISHED["b"],)).members
    code = space.encode(Structures((parent,))).repeat(200, 1)
    seen = set()
    for child in (space.decode(c).members[0] for c in space.mutate(code, generator)):
        seen |= {"stem"} if child.stem != parent.stem else set()
        seen |= {"pools"} if child.pools != parent.pools else set()
        for a, b in zip(parent.modules, child.modules, strict=True):
            seen |= {"repeats"} if a.repeats != b.repeats else set()
            seen |= {"branches"} if len(a.branches) != len(b.branches) else set()
            if len(a.branches) == len(b.branches):
                for old, new in zip(a.branches, b.branches, strict=True):
                    alike = [op for op, _ in layers_of(old)] == [op for op, _ in layers_of(new)]
                    seen |= ({"time"} if alike else {"type"}) if old != new else set()
    assert seen == {"stem", "pools", "repeats", "branches", "time", "type"}


def test_winners_are_the_fittest_that_differ():
    space, generator = StructureSpace(), torch.Generator().manual_seed(0)
    space.progress = 1.0
    first, other = (space.decode(c) for c in space.sample(2, generator))
    twin = space.decode(space.mutate(space.encode(first)[None], generator)[0])
    judged = [(first, -1.0), (twin, -1.1), (other, -2.0), (first, float("nan"))]
    assert winners(judged, 2, 0.5)[0].members == (*first.members, *other.members)
    assert winners(judged[:2], 2, 0.5)[0].members == (*first.members, *twin.members), "where there is no other"
