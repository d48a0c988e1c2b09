"""E3D: its three networks, its score with a guard, its search, and how much of the score is depth."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from autotsnet.inputs import RGB, example
from autotsnet.meta import on_meta
from autotsnet.search import RandomSearch
from autotsnet.search.constraint import CONSTRAINTS, GMACs
from autotsnet.search.indicators import INDICATORS, Subject
from autotsnet.search.judges import JUDGES
from autotsnet.space import space_of
from baselines.e3d import (
    NETWORKS,
    VARIANTS,
    E3DSpace,
    E3DStage,
    E3DStructure,
    PopulationSearch,
    alpha,
    columns,
    e3d,
    products,
    stentr,
)
from reproduce.measure.macs import count

# Backbone's parameters, GMACs of convolutions, operations as the authors count (10^9), layers, STEntr: from an analytic
# counter over the released structures. The initial network at the input of each.
GOLDEN = {
    "e3d_s": (1_976_232, 1.8637, 1.9528, 83, 202.8559, (0.5245, 0.5658, 45.1944)),
    "e3d_m": (1_840_680, 4.6429, 4.8634, 83, 204.9404, (1.2653, 1.3648, 45.4807)),
    "e3d_l": (4_097_744, 18.3403, 18.4926, 167, 411.8082, (2.5016, 2.6479, 45.6965)),
}
HEAD = 512 * (512 + 174)


def backbone(structure: E3DStructure) -> int:
    """Parameters without the two linear layers."""
    net = on_meta(lambda: e3d(num_classes=174, structure=structure.to_dict()))
    return sum(p.numel() for name, p in net.named_parameters() if not name.startswith(("hidden", "fc")))


def measured(structure: E3DStructure, frames: int, crop: int) -> tuple[float, ...]:
    of = columns([structure])
    costs = products(of, frames, crop), products(of, frames, crop, authors=True)
    return (*(round(c.item() / 1e9, 4) for c in costs), round(stentr(of, frames, crop).item(), 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_size_cost_and_score_are_those_of_the_released_structures(name):
    params, gmacs, flops, layers, score, initial = GOLDEN[name]
    build, arguments = VARIANTS[name]
    frames, crop, structure = arguments["frames"], arguments["crop"], NETWORKS[name]
    assert (backbone(structure), structure.layers) == (params, layers)
    assert measured(structure, frames, crop) == (gmacs, flops, score)
    counted = count(lambda: build(**arguments), frames, crop)
    assert counted.macs - HEAD == products(columns([structure]), frames, crop).item()
    space = E3DSpace(frames, crop, layers)
    first = space.decode(space.initial())
    assert (backbone(first), first.layers) == (313_432, 17)
    assert measured(first, frames, crop) == initial
    assert space.score(space.encode(structure)[None]).item() == pytest.approx(score, abs=1e-4)
    assert space.decode(space.encode(structure)) == structure


def test_alpha_and_its_guard():
    three = torch.tensor([3.0], dtype=torch.float64)
    for frames, sides, expected in (
        (13, (20, 10, 5), (4.0745, 4.8081, 2.2761)),
        (16, (20, 10, 5), (5.2857, 3.6242, 1.9528)),
        (16, (28, 14, 7), (3.6242, 6.1852, 2.5329)),
    ):
        assert [round(alpha(frames, side, three, three).item(), 4) for side in sides] == list(expected)
    parallel = alpha(16, 16, three, three).item()  # the authors' is infinite
    assert parallel == pytest.approx(-math.log(1e-6))
    assert alpha(16, 78, three / 3, torch.tensor([5.0])).item() < parallel, "E3D-L's first stage does not reach it"
    assert alpha(16, 16, three / 3, three / 3).item() == 1


@pytest.mark.parametrize(("frames", "crop", "unit"), [(13, 160, 8), (8, 90, 2), (4, 24, 1)])
def test_closed_forms_are_what_the_networks_cost(frames, crop, unit):
    space = space_of(dict(type="e3d", frames=frames, crop=crop, unit=unit, layers=38))
    codes = space.sample(3, torch.Generator().manual_seed(0))
    closed = space.cost(7).gmacs(codes)
    for code, gmacs in zip(codes, closed.tolist(), strict=True):
        structure = space.decode(code)
        assert structure.layers <= 38
        widths = [structure.stem, *(stage.out for stage in structure.stages)]
        assert widths == sorted(widths)
        assert gmacs == pytest.approx(count(lambda s=structure: space.static_model(s, 7), frames, crop).gmacs, rel=1e-9)
        assert (space.encode(structure) == code).all() or space.decode(space.encode(structure)) == structure
    low, high = space.cost(7).range()
    assert low < closed.min() < closed.max() < high


def test_children_stay_in_the_space():
    space, generator = E3DSpace(13, 160), torch.Generator().manual_seed(0)
    codes = space.initial().repeat(200, 1)
    for _ in range(30):
        before, codes = codes, space.mutate(codes, generator)
        assert ((codes != before).sum(1) <= 1).all()
        assert ((codes >= 0) & (codes < space.counts)).all()
        of = space.columns(codes)
        widths = torch.cat([of.stem[:, None], of.out, torch.full((200, 1), of.last)], 1)
        assert (widths.diff(dim=1) >= 0).all()
        assert (2 + 3 * of.blocks.sum(1) <= space.layers).all()
    assert (codes != space.initial()).any(0).all(), "every variable moves"


def test_a_kernel_is_no_larger_than_two_thirds_of_what_it_sees():
    assert [stage.k for stage in E3DSpace(8, 16).decode(E3DSpace(8, 16).initial()).stages] == [5, 1, 1, 1, 1]
    assert [stage.k for stage in E3DSpace(8, 48).decode(E3DSpace(8, 48).initial()).stages] == [5, 3, 3, 1, 1]


def search(kind: str, judge: str, structures: int, seed: int = 0) -> tuple[E3DSpace, E3DStructure, float]:
    """The best of a search at the budget of E3D-S."""
    space = E3DSpace(13, 160)
    limit = CONSTRAINTS.build(dict(type="e3d_flops", limit=2.0, space=space, num_classes=174))
    judge = JUDGES.build(dict(type=judge, space=space, runner=None, held_out=None))
    strategy = (RandomSearch if kind == "random" else PopulationSearch)(
        space, limit.cost, limit.limit, batch=256, seed=seed
    )
    while strategy.samples < structures:
        codes = strategy.ask()
        strategy.tell(codes, judge.scores(codes), limit.cost(codes), judge.clips)
    best = strategy.best()
    assert limit.cost(best[None]).item() <= 2.0
    return space, space.decode(best), space.score(best[None]).item()


def test_the_search_comes_to_the_published_score_and_depths():
    _, found, score = search("population", "stentr", 20_000)
    assert [stage.blocks for stage in found.stages] == [3, 6, 6, 6, 6]
    assert score > 0.99 * GOLDEN["e3d_s"][4]


def test_it_is_better_than_random_search_that_draws_more():
    """A structure in 70 is within the budget, so random search draws 150 000 to judge 2048."""
    assert all(search("population", "stentr", 8000, s)[2] > search("random", "stentr", 2048, s)[2] for s in range(3))


def test_the_score_is_almost_depth():
    """What the authors' space lets vary: the rank correlation with the number of blocks."""
    space = E3DSpace(13, 160)
    codes = space.sample(4000, torch.Generator().manual_seed(0))
    depth = JUDGES.build(dict(type="depth", space=space, runner=None, held_out=None)).scores(codes)
    assert spearmanr(space.score(codes), depth).statistic > 0.95
    _, found, _ = search("population", "depth", 20_000)
    assert [stage.blocks for stage in found.stages] == [3, 6, 6, 6, 6], "so depth alone finds the same depths"


def test_an_interrupted_population_goes_on_as_if_it_had_not_been():
    space = E3DSpace(13, 160)
    limit = GMACs(2.0, space=space, num_classes=174)

    def make() -> PopulationSearch:
        return PopulationSearch(space, limit.cost, limit.limit, population=16, batch=32)

    def step(strategy: PopulationSearch) -> None:
        codes = strategy.ask()
        strategy.tell(codes, space.score(codes), limit.cost(codes), 1)

    whole, parts = make(), make()
    for i in range(6):
        step(whole)
        step(parts)
        if i == 2:
            state, parts = parts.state_dict(), make()
            parts.load_state_dict(state)
    assert (whole.best() == parts.best()).all()
    assert whole.drawn == parts.drawn


def test_errors_name_the_value_and_the_way_out():
    space = E3DSpace(13, 160)
    with pytest.raises(ValueError, match=r"a budget of 0\.1 is below the 0\.5\d+ of the structure .*unit=8"):
        PopulationSearch(space, GMACs(0.1, space=space, num_classes=5).cost, 0.1)
    with pytest.raises(ValueError, match="E3D 'e3d_xl' is not one of e3d_s, e3d_m, e3d_l"):
        e3d(num_classes=5, network="e3d_xl")
    with pytest.raises(ValueError, match="E3D has 5 stages, got 1"):
        E3DStructure(24, (E3DStage(24, 32, 1, 5, 3),))
    with pytest.raises(ValueError, match="not an E3D: KeyError 'stem'"):
        E3DStructure.from_dict({})
    odd = replace(NETWORKS["e3d_s"], stem=20)
    with pytest.raises(ValueError, match="is not of space 'e3d', 83 layers, channels by 8"):
        space.encode(odd)
    with pytest.raises(ValueError, match="no shared weights"):
        space.supernet(5)


def test_the_indicator_that_looks_at_a_network_gives_the_score_of_its_structure():
    make, given = VARIANTS["e3d_s"]
    clips = example(RGB, given["frames"], given["crop"], batch=2)
    subject = Subject(on_meta(lambda: make(**given)), clips, torch.arange(2), 174, torch.Generator())
    assert INDICATORS["stentr"].value(subject) == pytest.approx(GOLDEN["e3d_s"][4], abs=1e-4)
