"""Training-free indicators: on cases whose value is known, on networks, and as a judge of strategies."""

import io
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from autotsnet.search import FPNAS, Evolution, EvolutionOptions, FPNASOptions, Reinforce
from autotsnet.search.indicators import (
    INDICATORS,
    Indicator,
    IndicatorError,
    IndicatorJudge,
    Subject,
    activations,
    measure,
)
from autotsnet.search.indicators.activations import count_regions, log_det, patterns
from autotsnet.search.indicators.gradients import JACOBIAN_K, jacobian_score
from autotsnet.search.indicators.kernel import condition, regression_error
from autotsnet.search.indicators.ranks import change, rank_sum
from autotsnet.search.indicators.subject import scorable
from autotsnet.search.judges import JUDGES
from autotsnet.space import Product
from autotsnet.spaces import preset

FRAMES, CROP, CLASSES, PAIRS = 4, 8, 3, 3
SPACE = preset("tiny", FRAMES, CROP)


@pytest.fixture(autouse=True)
def _fewer_samples(monkeypatch):
    monkeypatch.setattr(activations, "SAMPLES", 100)
    monkeypatch.setattr(activations, "REACH", 0.002)


def subject(net, clips=None, classes=CLASSES, seed=0):
    if clips is None:
        clips = torch.randn(2 * PAIRS, 3, FRAMES, CROP, CROP, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(len(clips)) // 2 % classes
    return Subject(net, (clips,), labels, classes, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    code = SPACE.sample(1, torch.Generator().manual_seed(1))[0]
    return scorable(SPACE.static_model(SPACE.decode(code), CLASSES))


class Small(nn.Module):
    """Convolution, norm, activation, pool, classes."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), act()
        self.fc = nn.Linear(4, CLASSES)

    def features(self, x):
        return self.act(self.norm(self.conv(x)))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3, 4)))


# Targets on cases whose value is known


@pytest.mark.parametrize(
    ("signs", "regions"), [(torch.eye(5), 5), (torch.ones(5, 3), 1), ([[0, 1], [1, 1], [0, 1]], 2)]
)
def test_regions_are_different_patterns(signs, regions):
    assert count_regions(torch.as_tensor(signs) > 0) == regions


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_kappa_of_a_linear_layer_is_that_of_its_inputs(classes):
    torch.manual_seed(0)
    of = subject(nn.Linear(9, classes, bias=False), torch.randn(8, 9), classes=max(classes, 2))
    x = of.clips[0][::2].double()
    expected = torch.linalg.cond(x @ x.T).item()
    assert measure(["kappa"], of)[0]["kappa"] == pytest.approx(expected, rel=1e-4)


def test_nwot_of_two_clips_that_differ_in_one_of_four_units():
    signs = [torch.tensor([[True, False], [True, False]]), torch.tensor([[True, True], [True, False]])]
    assert log_det(signs) == pytest.approx(math.log(7))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_synflow_of_a_homogeneous_chain_is_its_depth_times_its_output(depth):
    torch.manual_seed(0)
    chain = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(4, 4, bias=False), nn.ReLU())))
    out = torch.ones(1, 4, dtype=torch.float64)
    for layer in chain[::2]:
        out = out @ layer.weight.double().abs().T
    value = measure(["synflow"], subject(chain, torch.randn(4, 4)))[0]["synflow"]
    assert value == pytest.approx(depth * out.sum().item(), rel=1e-12)


def test_jacobians_without_and_with_correlation():
    n = 8
    hadamard = torch.tensor([[1.0]])
    while len(hadamard) < 16:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    assert jacobian_score(hadamard[1 : n + 1]) == pytest.approx(-n, rel=1e-6)
    alike = jacobian_score(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)).repeat(n, 1))
    assert alike == pytest.approx(-(n - 1) * (1 / JACOBIAN_K - 11.513), rel=1e-3)
    with pytest.raises(IndicatorError, match="constant"):
        jacobian_score(torch.ones(4, 16))


def test_regression_on_what_was_fitted_has_no_error():
    g = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel, labels = g @ g.T, torch.arange(6) % 3
    assert regression_error(kernel, kernel, labels, labels, 3) == pytest.approx(0, abs=1e-20)
    assert regression_error(kernel, kernel.flip(0), labels, labels, 3) > 1e-3


def test_a_singular_kernel_is_an_error_that_says_so():
    g = torch.randn(4, 20, dtype=torch.float64)
    g[2] = g[1]
    for kernel in (g @ g.T, torch.zeros(4, 4)):
        with pytest.raises(IndicatorError, match="singular"):
            condition(kernel)
        with pytest.raises(IndicatorError, match="singular"):
            regression_error(kernel, kernel, torch.arange(4), torch.arange(4), 4)
    with pytest.raises(IndicatorError, match="not finite"):
        condition(torch.full((2, 2), torch.nan))
    assert condition(torch.diag(torch.tensor([1e9, 1.0]))) == pytest.approx(1e9)  # beyond what float32 resolves


def test_snip_grad_norm_and_fisher_by_hand():
    torch.manual_seed(0)
    layer = nn.Linear(5, CLASSES, bias=False)
    of = subject(layer, torch.randn(6, 5))
    x, logits = of.clips[0], layer(of.clips[0]).detach()
    delta = (logits.softmax(1) - nn.functional.one_hot(of.labels, CLASSES)) / 6
    gradient = delta.T @ x
    values = measure(["grad_norm", "snip", "fisher"], of)[0]
    assert values["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert values["snip"] == pytest.approx((layer.weight * gradient).abs().sum().item(), rel=1e-5)
    assert values["fisher"] == pytest.approx(0.5 * 5 * (logits * delta).square().mean(0).sum().item(), rel=1e-5)


def test_fisher_of_a_linear_layer_on_tokens_is_that_of_a_pointwise_convolution():
    torch.manual_seed(0)
    linear, conv = nn.Linear(5, CLASSES), nn.Conv1d(5, CLASSES, 1)
    conv.load_state_dict(dict(weight=linear.weight[..., None], bias=linear.bias))

    class Mean(nn.Module):
        def __init__(self, layer, tokens):
            super().__init__()
            self.layer, self.tokens = layer, tokens

        def forward(self, x):  # B C L
            return self.layer(x.transpose(1, 2)).mean(1) if self.tokens else self.layer(x).mean(2)

    clips = torch.randn(6, 5, 7)
    a, b = (measure(["fisher"], subject(Mean(*of), clips))[0]["fisher"] for of in ((linear, True), (conv, False)))
    assert a == pytest.approx(b, rel=1e-5)


# On networks


def test_every_indicator_has_a_value_and_leaves_the_network_as_it_was(net):
    of = subject(net)
    before = {k: v.clone() for k, v in net.named_parameters()}
    values, reasons = measure(INDICATORS, of)
    assert reasons == {}
    assert 10 < values["regions"] < activations.SAMPLES
    assert values["kappa"] > 1
    assert all(torch.equal(v, before[k]) for k, v in net.named_parameters())


def test_units_are_those_of_features_also_of_functions_and_of_smooth_activations():
    clips = torch.randn(4, 3, 2, 5, 5)
    small = Small()
    for act in (nn.ReLU, nn.SiLU, nn.Hardswish, nn.GELU):
        small.act = act()
        (signs,) = patterns(small, clips)
        assert torch.equal(signs, (small.norm(small.conv(clips)) > 0).flatten(1))
    with pytest.raises(IndicatorError, match="calls none of"):
        patterns(nn.Conv3d(3, 1, 1), clips)


def test_zeros_that_close_a_branch_are_opened():
    class Gated(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))
            nn.init.zeros_(self.norm.weight)

    net = scorable(Gated())
    assert net.scale == 1
    assert (net.norm.weight == 1).all()
    assert (net.norm.bias == 0).all()


def test_a_row_of_the_kernel_is_of_one_clip_alone(net):
    """The same clips in another order: the same kernel in that order."""
    of, order = subject(net), torch.tensor([2, 0, 1, 5, 3, 4])
    other = Subject(net, (of.clips[0][order],), of.labels[order], CLASSES, of.generator)
    torch.testing.assert_close(other.kernel, of.kernel[order][:, order], rtol=1e-3, atol=1e-3)


def test_alike_clips_have_no_kappa_and_the_rest_goes_on(net):
    of = subject(net, torch.randn(1, 3, FRAMES, CROP, CROP).repeat(2 * PAIRS, 1, 1, 1, 1))
    values, reasons = measure(["kappa", "error", "params"], of)
    assert math.isnan(values["kappa"])
    assert values["params"] > 0
    assert set(reasons) == {"kappa", "error"}
    assert "singular" in reasons["error"]


def test_zen_does_not_depend_on_the_weights_and_falls_without_features(net):
    a = measure(["zen"], subject(Small().train()))[0]["zen"]
    assert measure(["zen"], subject(Small().train()))[0]["zen"] == pytest.approx(a, rel=1e-5)
    assert "no `features`" in measure(["zen"], subject(nn.Linear(2, 2)))[1]["zen"]
    with pytest.raises(ValueError, match=r"unknown indicators magic; known: depth, error"):
        measure(["magic"], subject(net))


# Combination


def test_ranks_are_shares_of_what_is_better_and_no_value_is_last():
    nan = math.nan
    values = torch.tensor([[1.0, 5.0], [2.0, 1.0], [3.0, nan], [nan, nan]])
    signs = (-1, 1)  # less is better, more is better
    ranks = rank_sum(values, values, signs)
    assert ranks.tolist() == [0.125 + 0.125, 0.375 + 0.375, 0.625 + 0.75, 0.875 + 0.75]
    assert rank_sum(values[:1], values.repeat(5, 1), signs).item() == ranks[0]


def test_the_reward_of_a_change_is_in_units_of_the_last_ten():
    before = torch.tensor([[100.0, 0.0], [0.0, 3.0], *[[0.0, 3.0]] * 8, [4.0, 1.0]])
    assert change(torch.tensor([2.0, 1.0]), before, (-1, 1)) == pytest.approx(0.5)
    assert change(torch.tensor([4.0, math.nan]), before, (-1, 1)) == pytest.approx(-1 / 3)  # as bad as the worst so far
    assert change(torch.tensor([4.0, 1.0]), before[:0], (-1, 1)) == 0
    assert change(torch.tensor([math.nan, 1.0]), torch.tensor([[math.nan, 1.0]]), (-1, 1)) == 0
    assert change(torch.tensor([math.nan]), torch.tensor([[2.0], [3.0]]), (-1,)) == pytest.approx(0)
    assert change(torch.tensor([math.nan]), torch.tensor([[math.nan]]), (1,)) == -math.inf


# As a judge


class Videos:
    """Clips that are noise, as a data loader of this project."""

    collate_fn = staticmethod(default_collate)
    dataset = [
        dict(
            clips=torch.randint(256, (1, FRAMES, CROP, CROP, 3), generator=torch.Generator().manual_seed(i)),
            label=i % 3,
        )
        for i in range(12)
    ]


class Model:
    net = SimpleNamespace(num_classes=CLASSES)

    def data_preprocessor(self, batch, training):
        return batch

    def prepare(self, clips):
        return [(clips.permute(0, 4, 1, 2, 3) - 115) / 57]


def judge(**options):
    cfg = dict(type="indicators", pairs=2, names=("nwot", "params")) | options
    return JUDGES.build(dict(cfg, runner=SimpleNamespace(model=Model()), held_out=Videos(), space=SPACE))


def test_a_judge_measures_once_ranks_and_resumes():
    of, codes = judge(), SPACE.sample(3, torch.Generator().manual_seed(0))
    scores = of.scores(codes)
    assert scores.isfinite().all()
    assert of.images == 3 * 4
    assert torch.equal(of.scores(codes.flip(0), final=True), scores.flip(0))
    assert of.images == 3 * 4
    file = io.BytesIO()
    torch.save(of.state_dict(), file)
    file.seek(0)
    resumed = judge()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed.scores(codes), scores)
    assert resumed.images == of.images


def test_what_has_no_value_is_named_counted_and_last(monkeypatch):
    said = []
    monkeypatch.setattr("autotsnet.search.indicators.judge.print_log", lambda text, *_: said.append(text))
    numbers = iter([1.0, math.inf, 3.0, math.nan, 2.0, 4.0])
    broken = Indicator("nwot", 1, lambda _: next(numbers))
    monkeypatch.setitem(INDICATORS, "nwot", broken)
    of, codes = judge(), SPACE.sample(6, torch.Generator().manual_seed(0))
    of.scores(codes)
    assert of.failed == {"nwot": 2}
    values = torch.tensor(list(of._measured.values()), dtype=torch.float64)[:, :1]
    ranks = rank_sum(values, values, (1,))
    assert ranks[values[:, 0].isnan()].min() > ranks[~values[:, 0].isnan()].max()
    assert len(said) == 2
    assert "nwot ranks last, it is inf" in said[0]


def test_reinforce_goes_on_after_an_architecture_without_any_value(monkeypatch):
    numbers = iter([1.0, 3.0, math.nan, 2.0])
    monkeypatch.setitem(INDICATORS, "nwot", Indicator("nwot", 1, lambda _: next(numbers)))
    of, codes = judge(combine="change", names=("nwot",)), SPACE.sample(4, torch.Generator().manual_seed(0))
    rewards = torch.cat([of.scores(code[None]) for code in codes])
    assert rewards.tolist() == pytest.approx([0, 1, -1, 0.5], abs=1e-5)
    assert of.failed == {"nwot": 1}
    assert of.scores(codes, final=True).argsort().tolist()[0] == 2
    monkeypatch.setitem(INDICATORS, "nwot", Indicator("nwot", 1, lambda _: math.nan))
    for combine in ("change", "rank_sum"):
        assert judge(combine=combine, names=("nwot",)).scores(codes).isneginf().all(), "a search of nothing stops"


def test_teg_nas_by_its_three_indicators():
    of = IndicatorJudge(SimpleNamespace(model=Model()), Videos(), SPACE, pairs=2, repeats=2)
    scores = of.scores(SPACE.sample(1, torch.Generator().manual_seed(0)))
    assert scores.tolist() == [-10 * 3 / 2]  # alone, it is as good as all
    assert not of.failed
    assert of.images == 2 * 4
    with pytest.raises(ValueError, match="known: rank_sum, change"):
        judge(combine="vote")


@pytest.mark.parametrize(
    ("make", "combine"),
    [
        (lambda blocks, cost: Evolution(Product(blocks), cost, None, EvolutionOptions(4, 2), batch=2), "rank_sum"),
        (lambda blocks, cost: FPNAS(blocks, cost, None, FPNASOptions(min_samples=2, lam=0.01)), "rank_sum"),
        (lambda blocks, cost: Reinforce(blocks, cost, None), "change"),
    ],
)
def test_strategies_search_by_indicators(make, combine):
    of = judge(combine=combine)
    strategy = make(SPACE.blocks(), lambda codes: torch.ones(len(codes), dtype=torch.float64))
    for _ in range(2):
        codes = strategy.ask()
        strategy.tell(codes, of.scores(codes), torch.ones(len(codes), dtype=torch.float64), of.clips)
    assert of.scores(strategy.finalists(2), final=True).isfinite().all()
    assert strategy.samples >= 2
