"""The Auto-X3D-style space: codes, costs, shared weights, fair channel selection."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotsnet.architecture import ATTENTIONS
from autotsnet.models import AutoX3DNet, SuperNet, recalibrate
from autotsnet.models.x3d import X3DArchitecture, X3DBlock
from autotsnet.search.progressive import SearchOptions
from autotsnet.space import space_of
from autotsnet.spaces import X3D_PRESETS, preset
from reproduce.measure.macs import count
from reproduce.search import stage

CLASSES = 10
TINY = X3D_PRESETS["x3d_tiny"]
CLIP = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last_3d)


def architectures(n: int, seed: int = 0) -> list:
    """Random architectures of the tiny space."""
    return [TINY.decode(c) for c in TINY.sample(n, np.random.default_rng(seed))]


@pytest.mark.parametrize("name", X3D_PRESETS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_encode_inverts_decode(name, seed):
    space = X3D_PRESETS[name]
    code = space.sample(1, np.random.default_rng(seed))[0]
    architecture = space.decode(code)
    assert torch.equal(space.encode(architecture), code)
    again = X3DArchitecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert again == architecture
    assert again.hash == architecture.hash


@pytest.mark.parametrize("name", X3D_PRESETS)
def test_all_four_variables_are_searched_jointly(name):
    space = space_of(name)
    assert space == X3D_PRESETS[name]
    blocks = [f"{g}.{b}" for g, depth in enumerate(space.depths) for b in range(depth)]
    assert {v.name for v in space.variables} == {
        *(f"{g}.c" for g in range(len(space.depths))),
        *(f"{b}.{v}" for b in blocks for v in ("type", "e", "attention")),
    }
    per_block = (len(space.types), len(space.expansions), len(space.attentions))
    assert space.blocks().count(per_block) == len(blocks), "type, expansion and attention of a block are one choice"
    (joint,) = space.stages(SearchOptions(), CLASSES)
    assert {v.stage for v in space.variables} == set(joint.decides)
    streams = [s for s in preset("tiny").stages(SearchOptions(), CLASSES) if s.alone]
    assert joint.warmup == sum(s.warmup for s in streams)
    assert joint.steps == sum(s.steps for s in streams)


def test_presets_are_made_around_x3d():
    """Middle filter numbers, clips and budgets of X3D; the candidates of the two-stream space's blocks."""
    for size, frames, crop, gmacs in (("s", 13, 160, 1.96), ("m", 16, 224, 4.73), ("l", 16, 312, 18.37)):
        space = X3D_PRESETS[f"x3d_{size}"]
        assert (space.macro.frames, space.macro.crop, space.target) == (frames, crop, gmacs)
        assert [c[len(c) // 2] for c in space.channels] == [24, 48, 96, 192]
        two = preset(size)
        assert {f"{t}x{k}x{k}" for t in two.fast[0].t for k in two.fast[0].k} == set(space.types)
        assert (two.fast[0].e, two.attentions) == (space.expansions, space.attentions)
        assert tuple(g.depth for g in two.fast) == space.depths


def test_closed_form_equals_the_count():
    check_cost(TINY, 20)
    check_cost(TINY.at(13, 45), 5)  # odd sides


@pytest.mark.slow
@pytest.mark.parametrize("name", X3D_PRESETS)
def test_closed_form_equals_the_count_of_every_preset(name):
    check_cost(X3D_PRESETS[name], 10)


def check_cost(space, samples):
    """Closed form against the meta device on random architectures."""
    codes = space.sample(samples, np.random.default_rng(0))
    gmacs, params = space.cost(CLASSES)(codes)
    for code, g, p in zip(codes, gmacs, params, strict=True):
        counted = count(lambda code=code: space.static_model(space.decode(code), CLASSES), *size_of(space))
        assert g == pytest.approx(counted.gmacs, rel=1e-9)
        assert p == counted.params


def size_of(space):
    """Frames and crop."""
    return space.macro.frames, space.macro.crop


@pytest.mark.parametrize("name", X3D_PRESETS)
def test_preset_brackets_its_budget(name):
    space = X3D_PRESETS[name]
    cost = space.cost(400)
    cheapest, dearest = cost.range(samples=512)
    assert cheapest <= 0.4 * space.target
    assert dearest >= 2.5 * space.target
    drawn = cost.gmacs(space.sample(4096, np.random.default_rng(0)))
    assert ((drawn / space.target - 1).abs() <= 0.02).any(), "random architectures at the budget can be drawn"


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
    for architecture in architectures(4, seed=1):
        recalibrate(net, [CLIP], architecture)
        static = net.train().extract(architecture).eval()  # while fair windows are open
        net.eval()
        assert isinstance(static, AutoX3DNet)
        with torch.no_grad():
            torch.testing.assert_close(static(CLIP), net(CLIP, architecture), atol=1e-5, rtol=1e-5)
            assert net(CLIP, architecture).std() > 0


def test_subnets_of_one_batch_share_what_they_have_in_common_and_say_the_same():
    net, base = SuperNet(TINY, 5).train(), TINY.sample(1, torch.Generator().manual_seed(0))[0]
    some, calls = [TINY.decode(c) for c in TINY.neighbours(base)[::7]], []
    net.skeleton(some[0]).stem.register_forward_hook(lambda *_: calls.append(None))  # all skeletons have it
    with torch.no_grad():
        apart = [net(CLIP, a) for a in some]
        assert len(calls) == len(some)
        with net.common_parts():
            shared = {i: net(CLIP, some[i]) for i in net.order(some)}
        assert len(calls) == len(some) + 1
    assert all(torch.equal(apart[i], shared[i]) for i in shared)


def test_a_step_touches_only_the_subnet():
    net, architecture = SuperNet(TINY, 5), TINY.decode(0 * TINY.counts)
    net(CLIP, architecture).square().sum().backward()
    used = sum(int((p.grad != 0).sum()) for p in net.parameters() if p.grad is not None)
    size = sum(p.numel() for p in TINY.static_model(architecture, 5).parameters())
    assert 0 < used <= size < sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize(("steps", "probability"), [(5, 3 / 5), (7, 4 / 7)])
def test_fair_channel_selection_trains_every_filter_equally_often(steps, probability, fair):
    """(N + 1) / 2N of the steps for each filter of a group, the paper's 3/5 and 4/7; by prefix the first ones always.

    Counted in the slices that the subnets of uniformly drawn architectures run on.
    """
    widths, draws = tuple(4 * i for i in range(1, steps + 1)), 1500
    space = replace(
        TINY, depths=(1, 1, 1), channels=(widths,) * 3, attentions=("none",), types=("1x3x3",), expansions=(1.0,)
    )
    net, used = SuperNet(space, 2, fair=fair, skeletons=steps**3).train(), torch.zeros(3, widths[-1])
    writers = [f"groups.{g}.0.project.0" for g in range(3)]
    for path in writers:  # each of its filters is marked with its number
        weight = net.whole.get_submodule(path).weight
        weight.data[:] = torch.arange(len(weight)).reshape(-1, 1, 1, 1, 1)
    for code in space.sample(draws, torch.Generator().manual_seed(0)):
        slices = net.slices(net.skeleton(space.decode(code)))
        for g, path in enumerate(writers):
            used[g, slices[f"{path}.weight"][:, 0, 0, 0, 0].long()] += 1
    used, sure = used / draws, 4 * (0.25 / draws) ** 0.5
    assert used.mean().item() == pytest.approx(probability, abs=0.0126), "three standard errors of the mean width"
    expected = [probability] * steps if fair else [(steps - i) / steps for i in range(steps)]
    np.testing.assert_allclose(used, np.tile(np.repeat(expected, 4), (3, 1)), atol=sure)


@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 32), (6, 16, 26)])
def test_filter_numbers_are_an_odd_number_of_equal_steps(widths):
    with pytest.raises(ValueError, match=r"filter numbers .* of group 1 are not an odd number of equal steps"):
        replace(TINY, channels=(TINY.channels[0], widths, TINY.channels[2]))


def test_what_does_not_fit_says_where_and_why():
    architecture = TINY.decode(0 * TINY.counts)
    data = architecture.to_dict()
    data["groups"][1]["blocks"][0]["type"] = "5x5x5"
    with pytest.raises(ValueError, match=r"1\.0\.type=5x5x5 is not a candidate of space 'x3d_tiny': \('1x3x3'"):
        TINY.encode(X3DArchitecture.from_dict(data))
    with pytest.raises(ValueError, match="macro-architecture"):
        X3D_PRESETS["x3d_s"].encode(architecture)
    data["groups"][1]["blocks"][0]["type"] = "3d"
    with pytest.raises(ValueError, match="group 1, block 0: type '3d' is not one of 1x3x3"):
        X3DArchitecture.from_dict(data)
    with pytest.raises(ValueError, match="not an architecture: KeyError 'groups'"):
        X3DArchitecture.from_dict({"macro": data["macro"]})
    assert {b.attention for a in architectures(9) for g in a.groups for b in g.blocks} == set(ATTENTIONS)
    assert X3DBlock("3x5x5", 1.5).choice.k == 5


def test_every_attention_is_exported_and_reads_weights_of_before():
    code = TINY.counts // 2
    code[[v.name.endswith("attention") for v in TINY.variables]] = torch.arange(5)
    net = AutoX3DNet(TINY.decode(code).scaled(0.25), 5).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        logits = net(CLIP)
        program = torch.export.export(net, (CLIP[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(program.module()(CLIP), logits, atol=1e-4, rtol=1e-4)
    state = {name.replace("nonlocal_", "nonlocal"): tensor for name, tensor in net.state_dict().items()}
    assert state.keys() != net.state_dict().keys()
    other = AutoX3DNet(net.architecture, 5).eval()
    other.load_state_dict(state)
    assert torch.equal(other(CLIP), logits)


def test_it_is_searched_by_a_config_alone(tiny, tmp_path):
    suite, train, _ = tiny
    config = stage.search_config(suite.entry("auto_x3d"))
    assert (config.method, config.fair) == ("supernet", True)
    found = stage.search(suite, config, 0, train, tmp_path)
    space = stage.method(suite, config).space
    assert space.cost(suite.classes).gmacs(space.encode(found.architecture)[None])[0] <= suite.gmacs
    journal = pd.read_parquet(found.folder / "journal.parquet")
    assert list(journal.stage.unique()) == ["joint"]
    assert (found.folder / "search.png").exists()
    solution = suite.solution(replace(suite.entry("auto_x3d"), architecture=found.architecture))
    assert solution.matched
    plain = stage.search_config(suite.entry("auto_x3d"))
    plain.fair = False
    assert stage.folder_of(suite, plain, 0, train, tmp_path) != found.folder
