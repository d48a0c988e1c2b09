"""Monte Carlo estimators: self-checks 1, 4, 5 and 6, and the one-pass weight gradient."""

import copy
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autotsnet.search.distribution import ArchitectureDistribution
from autotsnet.search.estimator import (
    AllSamplesFailedError,
    ImportanceAccumulator,
    adaptive_samples,
    alpha_loss,
    importance_weights,
    temperature_of,
)


def test_samples_of_the_papers_space():
    """Self-check 1: 6e25 architectures give K = 14; 2^32 and lambda = 1 / (4 ln 2) give exactly 8."""
    assert adaptive_samples(math.log(6e25)) == 14
    uniform = ArchitectureDistribution(((4, 4, 3, 3),) * 12)  # 8e25
    assert adaptive_samples(uniform.entropy().item()) == 14
    assert adaptive_samples(ArchitectureDistribution(((2,),) * 32).entropy().item(), lam=0.25 / math.log(2)) == 8
    assert adaptive_samples(0.0) == 2


def test_alpha_gradient_without_signal_has_mean_zero():
    """Self-check 4: beta = 0 and equal likelihoods: weights 1/K, and the gradient averages out."""
    distribution = ArchitectureDistribution(((2, 3), (4,)))
    with torch.no_grad():
        distribution.alpha.normal_(generator=torch.Generator().manual_seed(1))
    weights = importance_weights(torch.full((7,), -2.3), torch.ones(7), target=None, beta=0, temperature=0.01)
    torch.testing.assert_close(weights, torch.full((7,), 1 / 7, dtype=torch.float64))
    # The mean over many steps of K samples is one step of as many samples at equal weight.
    many = 70_000
    codes = distribution.sample(many, torch.Generator().manual_seed(0))
    alpha_loss(distribution.log_prob(codes), torch.full((many,), 1 / many)).backward()
    assert distribution.alpha.grad.abs().max() < 5 * 0.5 / math.sqrt(many)  # 5 sigma of a Bernoulli at 1/2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(0, 0.99)), min_size=1, max_size=9), st.floats(0, 10))
def test_no_cost_term_under_budget(samples, beta):
    """Self-check 5: nobody over budget: the cost part is exactly 0 and nothing is NaN."""
    likelihood, gmacs = torch.tensor(samples, dtype=torch.float64).T
    with_cost = importance_weights(likelihood, gmacs, target=1.0, beta=beta, temperature=0.1)
    without = importance_weights(likelihood, gmacs, target=None, beta=0, temperature=0.1)
    assert torch.equal(with_cost, without)
    assert with_cost.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(0.1, 9)), min_size=1, max_size=9), st.floats(0, 10))
def test_weights_sum_to_one_minus_beta(samples, beta):
    """Self-check 6: sum_k m_k = 1 - beta as soon as one sample is over budget."""
    likelihood, gmacs = torch.tensor([*samples, (-1.0, 2.0)], dtype=torch.float64).T
    weights = importance_weights(likelihood, gmacs, target=1.0, beta=beta, temperature=0.1)
    assert weights.sum().item() == pytest.approx(1 - beta, abs=1e-9)


def test_weights_by_hand():
    weights = importance_weights(
        torch.tensor([0.0, math.log(3)]),  # likelihoods 1 : 3
        torch.tensor([1.5, 2.0]),
        target=1.0,
        beta=0.3,
        temperature=1.0,
    )
    torch.testing.assert_close(weights, torch.tensor([0.25 - 0.1, 0.75 - 0.2]).double(), rtol=0, atol=1e-6)


def test_failed_samples_weigh_nothing():
    likelihood = torch.tensor([-1.0, torch.nan, -1.0, -torch.inf])
    weights = importance_weights(likelihood, torch.tensor([0.5, 9, 2, 9]), target=1.0, beta=1, temperature=1)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0, -0.5, 0]).double())
    with pytest.raises(AllSamplesFailedError, match="none of 2"):
        importance_weights(torch.tensor([torch.nan] * 2), torch.ones(2), target=1.0, beta=1, temperature=1)


def test_temperatures():
    assert temperature_of("mean", 64) == 1
    assert temperature_of("sum", 64) == 1 / 64
    assert temperature_of(0.2, 64) == 0.2
    for wrong in ("total", 0, -1.0):
        with pytest.raises(ValueError, match="temperature > 0"):
            temperature_of(wrong, 64)


def test_alpha_gradient_raises_what_is_likely():
    """One gradient step moves probability to the better of two sampled architectures."""
    distribution = ArchitectureDistribution(((2, 2),), joint=True)
    codes = torch.tensor([[0, 1], [1, 0]])
    weights = importance_weights(torch.tensor([-0.1, -0.9]), torch.ones(2), target=None, beta=0, temperature=0.1)
    alpha_loss(distribution.log_prob(codes), weights).backward()
    with torch.no_grad():
        distribution.alpha -= 0.5 * distribution.alpha.grad
    after = distribution.probabilities(0)
    assert after[0, 1] > 0.25 > after[1, 0]


def losses_of(model, x, samples):
    """One loss per sampled 'architecture': the shared weights under different gains."""
    return [((model(x * gain)) ** 2).mean() for gain in samples]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.1, 3), min_size=1, max_size=8),
    st.sampled_from([1.0, 0.1, 1 / 64, 1e-3, math.inf]),
)
def test_one_pass_gradient_equals_the_direct_one(gains, temperature):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    direct = copy.deepcopy(model)
    x = torch.randn(16, 5, dtype=torch.float64)

    stacked = torch.stack(losses_of(direct, x, gains))
    expected = (-stacked.detach() / temperature).softmax(0)
    (expected * stacked).sum().backward()

    step = ImportanceAccumulator(model.parameters(), temperature)
    for gain in gains:
        assert math.isfinite(step.backward(losses_of(model, x, [gain])))
    torch.testing.assert_close(step.finish(), expected, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(model.parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_a_sample_in_parts_equals_it_whole_and_frees_each_part():
    torch.manual_seed(0)
    whole, x = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double(), torch.randn(12, 5).double()
    parted, graphs = copy.deepcopy(whole), []
    steps = [ImportanceAccumulator(model.parameters(), temperature=0.1) for model in (whole, parted)]

    def parts(gain):
        for rows in x.split(5):  # 5, 5 and 2
            assert not any(graph() for graph in graphs), "the part before is gone"
            out = parted(rows * gain)
            graphs.append(weakref.ref(out))
            yield (out**2).mean() * (len(rows) / len(x))
            del out

    for gain in (0.4, 1.7, math.nan, 0.9, 0.2):
        losses = steps[0].backward(losses_of(whole, x, [gain])), steps[1].backward(parts(gain))
        assert losses == pytest.approx((losses[0],) * 2, nan_ok=True)
    torch.testing.assert_close(steps[0].finish(), steps[1].finish())
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_one_pass_gradient_drops_nan():
    torch.manual_seed(0)
    model, x = nn.Linear(5, 1), torch.randn(4, 5)
    clean = copy.deepcopy(model)
    step, reference = ImportanceAccumulator(model.parameters()), ImportanceAccumulator(clean.parameters())
    for gain in (1.0, math.nan, 0.3):
        assert math.isfinite(step.backward(losses_of(model, x, [gain]))) == math.isfinite(gain)
        if math.isfinite(gain):
            reference.backward(losses_of(clean, x, [gain]))
    weights = step.finish()
    reference.finish()
    assert step.dropped == 1
    assert weights[1] == 0
    torch.testing.assert_close(model.weight.grad, clean.weight.grad)

    model.zero_grad()
    step = ImportanceAccumulator(model.parameters())
    step.backward(losses_of(model, x, [math.nan]))
    with pytest.raises(AllSamplesFailedError, match="none of 1"):
        step.finish()


def test_one_pass_gradient_takes_reduced_likelihoods():
    """Two ranks on half the batch each agree with one rank on the whole, if likelihoods are reduced."""
    torch.manual_seed(0)
    whole, x = nn.Linear(5, 2).double(), torch.randn(8, 5, dtype=torch.float64)
    ranks, halves, gains = [copy.deepcopy(whole) for _ in range(2)], x.chunk(2), (0.4, 1.7, 0.9)
    step = ImportanceAccumulator(whole.parameters(), temperature=0.1)
    parts = [ImportanceAccumulator(rank.parameters(), temperature=0.1) for rank in ranks]
    for gain in gains:
        step.backward(losses_of(whole, x, [gain]))
        local = [losses_of(rank, half, [gain])[0] for rank, half in zip(ranks, halves, strict=True)]
        reduced = sum(loss.item() for loss in local) / 2
        for part, loss in zip(parts, local, strict=True):
            part.backward([loss], lambda own, mean=reduced: mean)
    for part in (step, *parts):
        part.finish()
    mean = (ranks[0].weight.grad + ranks[1].weight.grad) / 2
    torch.testing.assert_close(mean, whole.weight.grad, rtol=1e-9, atol=1e-12)


def test_left_over_gradients_are_refused():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(ValueError, match="zero_grad"):
        ImportanceAccumulator(model.parameters())
