"""The planted problem is what it claims to be, and FP-NAS solves it."""

import itertools

import pytest
import torch

from autotsnet.search.encoding import space_size
from autotsnet.search.estimator import adaptive_samples
from autotsnet.search.fpnas import FPNAS, FPNASOptions
from autotsnet.search.planted import PlantedJudge
from autotsnet.space import Product


def test_space_is_as_large_as_the_papers():
    """At least 1e12 architectures, and the paper's first K of 14."""
    oracle = PlantedJudge()
    assert space_size(oracle.blocks) == 24**16 * 5**4
    assert adaptive_samples(FPNAS(oracle.blocks, oracle.gmacs, None).distribution.entropy().item()) == 14


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [(1, 1), (2, 1)])
def test_optimum_is_exact(seed, depth):
    """Against enumeration of all architectures of small nets."""
    oracle = PlantedJudge(seed, depth=depth)
    everything = torch.tensor(list(itertools.product(*(range(n) for block in oracle.blocks for n in block))))
    allowed = everything[oracle.gmacs(everything) <= oracle.target]
    assert 0 < len(allowed) < len(everything)
    assert oracle.score(allowed).max().item() == pytest.approx(oracle.optimum_score, abs=1e-12)
    assert oracle.gmacs(oracle.optimum[None]).item() <= oracle.target


@pytest.mark.parametrize("seed", range(3))
def test_no_exchange_improves_the_optimum(seed):
    """On the whole net: no change of one block, nor of one group's width, is better and in the budget."""
    oracle = PlantedJudge(seed)
    moves = FPNAS(oracle.blocks, oracle.gmacs, None, FPNASOptions(joint_from=0)).distribution.one_row_moves(
        oracle.optimum
    )
    assert oracle.score(moves[oracle.gmacs(moves) <= oracle.target]).max() <= oracle.optimum_score


def test_cost_of_a_block_by_hand():
    """First block, all centre candidates: 40 x 40 x 13 pixels, 24 -> e * 24 -> 24 channels, input four times larger."""
    oracle = PlantedJudge(depth=(1,))
    code = torch.tensor([[2, 1, 0, 1]])  # width 1.0, t = 3, k = 3, e = 2.25
    pixels, hidden = 40 * 40 * 13, 54
    macs = 4 * pixels * 24 * hidden + pixels * hidden * 27 + pixels * hidden * 24
    assert oracle.gmacs(code).item() == round(macs / 1e6) / 1000


def test_scale_of_quality_and_likelihood():
    oracle = PlantedJudge(loss_range=0.5)
    draws = Product(oracle.blocks).sample(5000, torch.Generator().manual_seed(1))
    allowed = draws[oracle.gmacs(draws) <= oracle.target]
    assert len(allowed) / len(draws) == pytest.approx(0.3, abs=0.03)
    assert oracle.quality(allowed).mean().item() == pytest.approx(0, abs=0.02)
    assert oracle.quality(oracle.optimum[None]).item() == 1
    assert oracle.quality(allowed).max() < 0.7  # chance does not come near
    assert oracle.scores(oracle.optimum[None]).item() == -1
    noisy = PlantedJudge(noise=0.1)
    several = noisy.optimum.repeat(2000, 1)
    assert noisy.scores(several).std().item() == pytest.approx(0.1, rel=0.1)
    assert noisy.scores(several, final=True).std().item() == pytest.approx(0.025, rel=0.1)


def test_fpnas_solves_a_small_plant():
    """8 million architectures in 600 steps."""
    oracle = PlantedJudge(3, depth=(2, 2))
    options = FPNASOptions(lr=0.1, joint_from=100, anneal=600, min_samples=4)
    strategy = FPNAS(oracle.blocks, oracle.gmacs, oracle.target, options)
    for _ in range(600):
        codes = strategy.ask()
        strategy.tell(codes, oracle.scores(codes), oracle.gmacs(codes), oracle.clips)
    finalists = strategy.finalists()
    assert (oracle.gmacs(finalists) <= oracle.target).all()
    assert oracle.quality(finalists).max() >= 0.99
