"""Strategies behind their common interface, on a toy whose answer can be enumerated."""

import io
import itertools
import math

import pytest
import torch

from autotsnet.search.distribution import ArchitectureDistribution
from autotsnet.search.estimator import AllSamplesFailedError
from autotsnet.search.fpnas import FPNAS, FPNASOptions, most_probable_in_budget, parsec_options
from autotsnet.search.planted import PlantedJudge
from autotsnet.search.reinforce import Reinforce
from autotsnet.search.strategies import Evolution, EvolutionOptions, RandomSearch, distinct, sample_in_budget
from autotsnet.space import Product

BLOCKS = ((3, 4), (5,), (2, 2, 3))
EVERYTHING = torch.tensor(list(itertools.product(*(range(n) for block in BLOCKS for n in block))))
TARGET = 8.0
STRATEGIES = {
    "fpnas": lambda seed=0: FPNAS(BLOCKS, gmacs, TARGET, FPNASOptions(joint_from=20, lr=0.05, anneal=300), seed=seed),
    "parsec": lambda seed=0: FPNAS(BLOCKS, gmacs, TARGET, parsec_options(4, beta=1.5, center=True, lr=0.1), seed=seed),
    "reinforce": lambda seed=0: Reinforce(BLOCKS, gmacs, TARGET, batch=4, seed=seed),
    "random": lambda seed=0: RandomSearch(Product(BLOCKS), gmacs, TARGET, batch=4, seed=seed),
    "evolution": lambda seed=0: Evolution(Product(BLOCKS), gmacs, TARGET, EvolutionOptions(10, 3), batch=4, seed=seed),
}


def gmacs(codes):
    """Larger codes cost more."""
    return codes.sum(-1).double() + 1


def log_likelihood(codes):
    """Larger codes fit better, the first variable most of all."""
    return -1 + 0.02 * codes.double() @ torch.tensor([4.0, 1, 2, 1, 1, 1]).double()


def run(strategy, steps):
    for _ in range(steps):
        codes = strategy.ask()
        strategy.tell(codes, log_likelihood(codes), gmacs(codes), num_clips=64)
    return strategy


def test_centred_weights_have_the_same_expectation_while_the_budget_binds():
    """Over all pairs of four architectures, two of them over budget."""
    gradients = []
    for center in (False, True):
        options = FPNASOptions(fixed_samples=2, center=center, beta=1.5, beta_rate=0)
        total = 0
        for pair in itertools.product(range(4), repeat=2):
            strategy = FPNAS(((4,),), gmacs, 2.0, options)
            strategy._adam.step = lambda: None
            codes = torch.tensor(pair)[:, None]
            strategy.tell(codes, -0.1 * codes[:, 0].double() ** 2, gmacs(codes), num_clips=4)
            total = total + strategy.distribution.alpha.grad / 16
        gradients.append(total)
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", STRATEGIES)
def test_finds_the_best_in_budget(name):
    """Within 0.02 nats (one unit of the weakest variable) of the enumerated optimum, and in the budget."""
    optimum = log_likelihood(EVERYTHING[gmacs(EVERYTHING) <= TARGET]).max()
    best = run(STRATEGIES[name](), 400).best()[None]
    assert gmacs(best).item() <= TARGET
    assert log_likelihood(best).item() >= optimum - 0.0201


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("interrupted_at", [3, 30])
def test_resumes_as_if_never_interrupted(name, interrupted_at):
    """State passes a ``weights_only`` load; the sequence after it is that of the uninterrupted run."""
    straight = run(STRATEGIES[name](), interrupted_at)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = STRATEGIES[name](seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(25):
        codes = straight.ask()
        assert torch.equal(codes, resumed.ask())
        for strategy in (straight, resumed):
            strategy.tell(codes, log_likelihood(codes), gmacs(codes), num_clips=64)
    assert straight.stats() == resumed.stats()
    assert torch.equal(straight.best(), resumed.best())


@pytest.mark.parametrize("name", STRATEGIES)
def test_survives_failed_samples(name):
    strategy = STRATEGIES[name]()
    codes = strategy.ask()
    values = log_likelihood(codes)
    values[0] = torch.nan
    weights = strategy.tell(codes, values, gmacs(codes), num_clips=64)
    assert weights[0] == 0
    assert weights.isfinite().all()
    assert strategy.stats()["dropped"] == 1
    before = strategy.samples
    with pytest.raises(AllSamplesFailedError):
        strategy.tell(codes, torch.full((len(codes),), torch.nan), gmacs(codes), num_clips=64)
    assert strategy.samples == before


def test_adaptive_samples_fall_with_the_entropy():
    strategy = FPNAS(BLOCKS, gmacs, TARGET, FPNASOptions(joint_from=20, lr=0.1, lam=1.0))
    assert strategy.num_samples == math.floor(math.log(len(EVERYTHING)))
    assert run(strategy, 300).num_samples == 2


def test_warm_up_moves_nothing():
    strategy = run(FPNAS(BLOCKS, gmacs, TARGET, FPNASOptions(warmup=5)), 5)
    assert (strategy.distribution.alpha == 0).all()
    assert run(strategy, 1).distribution.alpha.abs().max() > 0


@pytest.mark.parametrize("adam", ["fresh", "carry"])
def test_switch_to_joint_moves_no_probability(adam):
    strategy = run(FPNAS(BLOCKS, gmacs, TARGET, FPNASOptions(joint_from=30, lr=0.1, adam_at_switch=adam)), 29)
    coarse = strategy.distribution
    run(strategy, 1)  # steps, then switches
    assert strategy.distribution.joint
    torch.testing.assert_close(strategy.distribution.log_prob(EVERYTHING), coarse.log_prob(EVERYTHING))
    assert run(strategy, 30).distribution.log_prob(EVERYTHING).isfinite().all()


def test_warm_up_before_a_joint_search():
    strategy = run(FPNAS(BLOCKS, gmacs, TARGET, parsec_options(4, warmup=3)), 5)
    assert strategy.distribution.joint
    assert strategy.distribution.alpha.abs().max() > 0


def test_beta_follows_the_budget():
    """Up while the samples cost more than the target on average, down below it, within its range."""
    costly, cheap = EVERYTHING[-4:], EVERYTHING[:4]
    strategy = FPNAS(BLOCKS, gmacs, TARGET, FPNASOptions(beta_rate=0.1, beta_range=(1.0, 1.6)))
    trace = []
    for codes in [costly] * 3 + [cheap] * 9:
        strategy.tell(codes, log_likelihood(codes), gmacs(codes), num_clips=64)
        trace.append(strategy.beta)
    assert 1.5 < trace[0] <= max(trace) == 1.6
    assert trace[-1] == 1.0


def test_finalists_are_distinct_in_budget_and_start_with_the_best():
    for name in STRATEGIES:
        strategy = run(STRATEGIES[name](), 60)
        finalists = strategy.finalists(8)
        assert 1 < len(finalists) <= 8
        assert len(finalists.unique(dim=0)) == len(finalists)
        assert (gmacs(finalists) <= TARGET).all()
        assert torch.equal(finalists[0], strategy.best())


def test_parsec_is_joint_with_fixed_samples():
    strategy = run(FPNAS(BLOCKS, gmacs, None, parsec_options(), seed=1), 50)
    assert strategy.distribution.joint
    assert len(strategy.ask()) == 16
    assert strategy.options.beta == 0


def test_mode_over_budget_is_repaired():
    """The most probable in-budget neighbour, or the cheapest way down; never over budget without an error."""
    distribution = ArchitectureDistribution(BLOCKS)
    with torch.no_grad():
        distribution.alpha += torch.linspace(0, 3, 5)  # prefers the largest codes
    assert gmacs(distribution.mode()[None]).item() == 14
    for target in (14.0, 11.0, 6.0, 1.0):
        assert gmacs(most_probable_in_budget(distribution, gmacs, target)[None]).item() <= target
    # One step down from 14 suffices for 13: the likeliest of all that do.
    allowed = EVERYTHING[gmacs(EVERYTHING) <= 13]
    found = most_probable_in_budget(distribution, gmacs, 13.0)
    torch.testing.assert_close(distribution.log_prob(found[None])[0], distribution.log_prob(allowed).max())
    with pytest.raises(ValueError, match="below the space"):
        most_probable_in_budget(distribution, gmacs, 0.5)


def test_random_samples_are_in_the_budget():
    generator = torch.Generator().manual_seed(0)
    codes = sample_in_budget(Product(BLOCKS), gmacs, 500, TARGET, generator)
    assert len(codes) == 500
    assert (gmacs(codes) <= TARGET).all()
    with pytest.raises(ValueError, match="those drawn have 1 to 14 GMACs"):
        sample_in_budget(Product(BLOCKS), gmacs, 1, 0.5, generator, max_draws=20_000)


def test_evolution_proposes_single_changes_in_budget():
    strategy = run(STRATEGIES["evolution"](), 3)
    alive = torch.stack([code for code, _ in strategy._alive])
    for child in strategy.ask():
        assert (alive != child).sum(1).min() <= 1
        assert gmacs(child[None]).item() <= TARGET


@pytest.mark.parametrize("name", STRATEGIES)
def test_proposals_are_distinct_repeat_and_leave_the_search_alone(name):
    """The favoured ones first: the most probable, or children of the likeliest parents."""
    strategy = run(STRATEGIES[name](), 60)
    before = strategy.generator.get_state()
    proposed, again = (strategy.draws(500, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(proposed, again)
    assert torch.equal(strategy.generator.get_state(), before)
    assert 20 < len(proposed) == len(proposed.unique(dim=0))
    if name in ("fpnas", "parsec"):
        log_p = strategy.distribution.log_prob(proposed)
        assert (log_p.diff() <= 0).all()
        assert log_p[0] >= strategy.distribution.log_prob(strategy.best()[None])[0]
    if name == "evolution":
        living = torch.stack([code for code, _ in strategy._alive])
        changed = (proposed[:, None] != living).sum(-1)
        assert (changed.min(1).values <= 1).all()
        fitness = torch.tensor([value for _, value in strategy._alive])
        assert (changed[:5, fitness == fitness.max()].min(1).values <= 1).all()


def test_distinct_keeps_the_first_of_each():
    codes = torch.tensor([[3, 1], [0, 2], [3, 1], [5, 5], [0, 2]])
    assert distinct(codes).tolist() == [[3, 1], [0, 2], [5, 5]]


def test_the_entropy_term_fades():
    """Likelihoods that are all alike leave its gradient alone; so small a rate leaves the distribution as it is."""
    options = FPNASOptions(lr=1e-9, fixed_samples=4, anneal=10, entropy_weight=2.0, joint_from=None)
    strategy = FPNAS(BLOCKS, gmacs, None, options)
    with torch.no_grad():
        strategy.distribution.alpha.normal_(generator=torch.Generator().manual_seed(0))
    sizes = []
    for _ in range(10):
        codes = strategy.ask()
        strategy.tell(codes, torch.full((4,), -1.0), gmacs(codes), num_clips=64)
        sizes.append(strategy.distribution.alpha.grad.norm().item())
    assert sizes[0] > 0.1
    assert [size / sizes[0] for size in sizes] == pytest.approx([(9 - i) / 9 for i in range(10)], abs=1e-6)


def test_children_are_of_the_likeliest_of_a_tournament():
    strategy = Evolution(Product(BLOCKS), gmacs, None, EvolutionOptions(population=12, tournament=200), batch=40)
    codes = EVERYTHING[::60]
    strategy.tell(codes, log_likelihood(codes), gmacs(codes), num_clips=64)
    parent = codes[log_likelihood(codes).argmax()]
    assert ((strategy.ask() != parent).sum(1) == 1).all()


def test_the_mean_of_rewards_is_unbiased_from_the_start():
    """As published: the first reward is its own mean, and of two the second weighs more by 1/0.9."""
    strategy, told = Reinforce(BLOCKS, gmacs, None), []
    strategy._adam.step = lambda: None
    alpha = strategy.distribution.alpha
    for reward in (2.0, 5.0):
        codes = EVERYTHING[:1]
        strategy.tell(codes, torch.tensor([reward]), gmacs(codes), num_clips=1)
        (unit,) = torch.autograd.grad(-strategy.distribution.log_prob(codes).sum(), alpha)
        told.append((alpha.grad / unit)[0, 0].item())
    assert told == pytest.approx([0, 5 - (0.9 * 2 + 5) / 1.9])


def test_reinforce_is_better_than_random_search_of_as_many_on_planted_fitness():
    better = 0
    for seed in range(10):
        oracle = PlantedJudge(seed, depth=(1, 2, 2, 1))
        policy = Reinforce(oracle.blocks, oracle.gmacs, oracle.target, lr=0.1, batch=14, seed=seed)
        random = RandomSearch(Product(oracle.blocks), oracle.gmacs, oracle.target, batch=100 * 14, seed=seed)
        for strategy, steps in ((policy, 100), (random, 1)):
            for _ in range(steps):
                codes = strategy.ask()
                strategy.tell(codes, oracle.scores(codes), oracle.gmacs(codes), oracle.clips)
        found = torch.stack([policy.best(), random.best()])
        assert (oracle.gmacs(found) <= oracle.target).all()
        better += int(oracle.quality(found).argmax() == 0)
    assert better >= 9
