"""Distribution over encoded architectures: self-checks 2 and 3, normalisation, sampling."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotsnet.search.distribution import ArchitectureDistribution
from autotsnet.search.encoding import Restriction, space_size
from autotsnet.space import Product

SMALL_BLOCKS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(
    tuple
)


def randomised(blocks, joint=False, seed=0, scale=2.0):
    """A distribution with random logits."""
    distribution = ArchitectureDistribution(blocks, joint)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        distribution.alpha.normal_(std=scale, generator=generator)
    return distribution


def everything(blocks):
    """All architectures of a small space."""
    counts = [range(count) for block in blocks for count in block]
    return torch.tensor(list(itertools.product(*counts)))


def test_logits_of_the_papers_layer():
    """Self-check 2: (3, 2, 2, 6, 10) has 23 factorised and 720 joint logits."""
    assert ArchitectureDistribution(((3, 2, 2, 6, 10),)).num_logits == 23
    assert ArchitectureDistribution(((3, 2, 2, 6, 10),), joint=True).num_logits == 720


@settings(max_examples=30, deadline=None)
@given(SMALL_BLOCKS, st.booleans(), st.integers(0, 99))
def test_probabilities_sum_to_one(blocks, joint, seed):
    distribution = randomised(blocks, joint, seed)
    log_p = distribution.log_prob(everything(blocks))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert distribution.entropy().item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(SMALL_BLOCKS, st.integers(0, 99))
def test_conversion_moves_no_probability(blocks, seed):
    """Self-check 3: P of every architecture, H and the mode's P are the same on both sides of the switch."""
    coarse = randomised(blocks, seed=seed)
    fine = coarse.to_joint()
    codes = everything(blocks)
    torch.testing.assert_close(fine.log_prob(codes), coarse.log_prob(codes), rtol=0, atol=1e-12)
    torch.testing.assert_close(fine.entropy(), coarse.entropy(), rtol=0, atol=1e-12)
    for b in range(len(blocks)):
        torch.testing.assert_close(fine.probabilities(b), coarse.probabilities(b), rtol=0, atol=1e-12)
    assert torch.equal(fine.mode(), coarse.mode())
    with pytest.raises(ValueError, match="joint already"):
        fine.to_joint()


@settings(max_examples=30, deadline=None)
@given(SMALL_BLOCKS, st.booleans(), st.integers(0, 99))
def test_mode_is_the_most_probable(blocks, joint, seed):
    distribution = randomised(blocks, joint, seed)
    best = distribution.log_prob(everything(blocks)).max()
    torch.testing.assert_close(distribution.log_prob(distribution.mode()[None])[0], best)


def test_wide_blocks_beside_narrow_ones():
    """Padding is never drawn, never counted and never gets a gradient."""
    blocks = ((3, 2, 2, 6, 10), (2,), (1, 5))
    distribution = ArchitectureDistribution(blocks, joint=True)
    codes = distribution.sample(500, torch.Generator().manual_seed(0))
    counts = torch.tensor([3, 2, 2, 6, 10, 2, 1, 5])
    assert ((codes >= 0) & (codes < counts)).all()
    assert distribution.entropy().item() == pytest.approx(math.log(space_size(blocks)))
    (distribution.log_prob(codes).sum() + distribution.entropy()).backward()
    assert distribution.alpha.grad.isfinite().all()
    assert (distribution.alpha.grad[1, 2:] == 0).all()


def test_joint_can_hold_what_factorised_cannot():
    """A joint block correlates its variables: mass on (0, 0) and (1, 1) only."""
    distribution = ArchitectureDistribution(((2, 2),), joint=True)
    with torch.no_grad():
        distribution.alpha[0] = torch.tensor([0.0, -30, -30, 0])
    codes = distribution.sample(200, torch.Generator().manual_seed(0))
    assert (codes[:, 0] == codes[:, 1]).all()
    assert 50 < codes[:, 0].sum() < 150


@pytest.mark.parametrize("joint", [False, True])
def test_sampling_follows_the_probabilities(joint):
    blocks = ((2, 3), (4,))
    distribution = randomised(blocks, joint, scale=1.0)
    codes = distribution.sample(40_000, torch.Generator().manual_seed(0))
    observed = torch.zeros(2, 3, dtype=torch.float64)
    observed.index_put_((codes[:, 0], codes[:, 1]), torch.tensor(1 / 40_000).double(), accumulate=True)
    torch.testing.assert_close(observed, distribution.probabilities(0), rtol=0, atol=0.012)  # 5 sigma at p = 1/2


def test_same_seed_same_architectures():
    distribution = randomised(((3, 4), (5,)))
    first, second = (distribution.sample(20, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_one_row_moves_are_all_neighbours():
    blocks = ((2, 3), (4,))
    code = torch.tensor([1, 0, 2])
    assert len(ArchitectureDistribution(blocks).one_row_moves(code)) == 1 + 2 + 3
    moves = ArchitectureDistribution(blocks, joint=True).one_row_moves(code)
    assert len(moves.unique(dim=0)) == 5 + 3
    assert not (moves == code).all(1).any()


def test_bad_codes_are_named():
    distribution = ArchitectureDistribution(((2, 3),))
    with pytest.raises(ValueError, match=r"variables \[1\]"):
        distribution.log_prob(torch.tensor([[1, 3]]))
    with pytest.raises(ValueError, match="the space has 2"):
        distribution.log_prob(torch.tensor([[1, 2, 0]]))
    with pytest.raises(ValueError, match="a candidate"):
        ArchitectureDistribution(((2, 0),))


def test_restriction_freezes_the_rest():
    restriction = Restriction(((2, 3), (4,), (5, 2)), searched=(0, 2), template=(1, 2, 3, 4, 1))
    assert restriction.searched_blocks == ((2, 3), (5, 2))
    stage = restriction.domain.sample(9, torch.Generator().manual_seed(0))
    full = restriction.expand(stage)
    assert full.shape == (9, 5)
    assert (full[:, 2] == 3).all()
    assert torch.equal(restriction.restrict(full), stage)
    with pytest.raises(ValueError, match=r"variables \[0\]"):
        Restriction(((2,),), searched=(0,), template=(2,))
    with pytest.raises(ValueError, match="rising"):
        Restriction(((2,), (2,)), searched=(1, 0), template=(0, 0))


def test_uniform_codes_are_uniform():
    codes = Product(((2, 5),)).sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes[:, 1].bincount() / 20_000, torch.full((5,), 0.2), rtol=0, atol=0.015)
