"""Costs of branches against the count, gates, the schedule's promises, and a planted optimum."""

import math

import pytest
import torch

from autotsnet.meta import on_meta
from baselines.pvnas import CANDIDATES, DiverseRates, GradientSearch, branch_macs, pvnas
from baselines.pvnas.network import PVNet
from reproduce.measure.macs import count

OPS = tuple(CANDIDATES)
BLOCKS, STRIDES = (1, 2, 1), (1, 2, 2)
FRAMES, CROP = 4, 32


def relaxed(**kwargs) -> PVNet:
    return PVNet(5, [OPS] * sum(BLOCKS), 8, 8, BLOCKS, STRIDES, dropout=0.0, **kwargs)


@pytest.mark.parametrize("ops", [*((op,) * 4 for op in OPS), ("2d", "3d", "dw3d", "2+1d")], ids="-".join)
def test_costs_of_branches_add_up_to_the_count(ops):
    table, fixed = branch_macs(on_meta(relaxed), FRAMES, CROP)
    build = dict(num_classes=5, base_channels=8, blocks=BLOCKS, strides=STRIDES)
    counted = count(lambda: pvnas(ops=ops, **build), FRAMES, CROP)
    assert fixed + sum(table[i, OPS.index(op)].item() for i, op in enumerate(ops)) == counted.macs


def test_a_path_is_the_static_network():
    torch.manual_seed(0)
    net = relaxed().eval()
    ops = ("2d", "3d", "shift", "t+2d")
    choices = [OPS.index(op) for op in ops]
    static = pvnas(num_classes=5, base_channels=8, ops=ops, blocks=BLOCKS, strides=STRIDES).eval()
    state = {}
    for name, tensor in net.state_dict().items():
        parts = name.split(".")
        if "branches" in parts:
            if choices[int(parts[1])] != int(parts[3]):
                continue
            parts[3] = "0"
        state[".".join(parts)] = tensor
    static.load_state_dict(state)
    clips = torch.randn(2, 3, FRAMES, CROP, CROP)
    with torch.no_grad():
        torch.testing.assert_close(net(clips, (choices, torch.ones(4))), static(clips))


def test_gates_are_one_and_carry_the_gradient():
    search = GradientSearch(torch.ones(4, 6), 0, 4.0)
    choices, gates = search.draw()
    assert torch.equal(gates, torch.ones(4))
    relaxed()(torch.randn(1, 3, FRAMES, CROP, CROP), (choices, gates)).sum().backward()
    assert (search.alpha.grad.abs().sum(1) > 0).all()


def test_names_that_are_none_and_too_few():
    with pytest.raises(ValueError, match=r"give 16 names, one per block, of 2d, shift"):
        pvnas(num_classes=5, ops="4d")
    with pytest.raises(ValueError, match="give 16 names"):
        pvnas(num_classes=5, ops=("2d", "3d"))


@pytest.mark.parametrize("diverse", [True, False])
def test_both_schedules_have_the_same_mean_rates(diverse):
    rates = DiverseRates(4000, 0.1, 0.01, diverse=diverse)
    weights, alpha = zip(*map(rates, range(4000)), strict=True)
    assert sum(weights) / 4000 == pytest.approx(0.05, rel=0.01)
    assert sum(alpha) / 4000 == pytest.approx(0.01, rel=0.01)


def test_the_distribution_rests_while_the_weights_move():
    rates = DiverseRates(4000, 0.1, 0.01)
    assert rates(0) == (0.1, 0.0)
    assert rates(2000) == pytest.approx((0.05, 0.01))
    assert rates(4000) == pytest.approx((0.0, 0.02))


def test_in_the_warm_up_only_the_weights_learn():
    rates = DiverseRates(100, 0.1, 0.01, diverse=False, warmup=50, rise=9)
    assert rates.total == 150
    assert [rates(i) for i in (0, 4, 9, 49)] == [pytest.approx((w, 0.0)) for w in (0.01, 0.05, 0.1, 0.1)]
    assert rates(50) == (0.1, 0.01)
    assert rates(150) == pytest.approx((0.0, 0.01))


def toy(search: GradientSearch, rates: DiverseRates, seed: int) -> tuple[float, list[float]]:
    """A search in which branches learn as they are drawn: the loss of what it found once learnt, and the diversities.

    A branch's loss falls with its training towards its own limit, at its own pace, and is noisy while the rate of the
    weights is high: what leads early is not what is best.
    """
    generator = torch.Generator().manual_seed(seed)
    limit = torch.rand(search.alpha.shape, generator=generator)
    pace = torch.exp(torch.empty(search.alpha.shape).uniform_(math.log(5), math.log(100), generator=generator))
    trained = torch.zeros(search.alpha.shape)
    rows = torch.arange(len(limit))
    diversities = []
    for step in range(rates.steps):
        rate, alpha_rate = rates(step)
        choices, _ = search.draw()
        trained[rows, choices] += rate / rates.weights
        choices, gates = search.draw()
        noise = torch.randn(len(limit), generator=generator) * rate / rates.weights
        now = (limit + torch.exp(-trained / pace))[rows, choices] + noise
        search.learn([(gates * now).sum()], alpha_rate)
        diversities.append(search.diversity())
    return float(limit[rows, search.alpha.argmax(1)].mean()), diversities


def test_the_schedule_keeps_searched_networks_diverse():
    means = {}
    for diverse in (True, False):
        runs = []
        for seed in range(2):
            search = GradientSearch(torch.ones(12, 6), 0, 12.0, seed=seed)
            runs.append(toy(search, DiverseRates(400, 0.1, 0.1, diverse=diverse), seed)[1])
        means[diverse] = [sum(d) / 2 for d in zip(*runs, strict=True)]
    assert sum(means[True]) / 400 > sum(means[False]) / 400 + 0.05


def test_the_cost_term_brings_the_expected_cost_to_the_target():
    macs = torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 6)
    search = GradientSearch(macs, 6, target=24.0)
    for _ in range(300):
        _, gates = search.draw()
        search.learn([(gates * 0).sum()], 0.05)
    assert search.expected_macs().item() == pytest.approx(24, rel=0.02)


def test_resumes_as_if_never_interrupted():
    def run(search, steps):
        for _ in range(steps):
            choices, gates = search.draw()
            search.learn([(gates * torch.tensor(choices)).sum()], 0.05)

    straight, first, second = (GradientSearch(torch.ones(3, 6), 0, 3.0, seed=s) for s in (1, 1, 2))
    run(straight, 20)
    run(first, 9)
    second.load_state_dict(first.state_dict())
    run(second, 11)
    assert torch.equal(straight.alpha, second.alpha)
    assert second.best() == straight.best()
    assert straight.diversity() < GradientSearch(torch.ones(3, 6), 0, 3.0).diversity() == pytest.approx(5 / 6)
