"""The small interface of a search strategy, and the two controls: random search and regularised evolution."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from autotsnet.search.encoding import Cost
from autotsnet.search.estimator import AllSamplesFailedError
from autotsnet.space import Domain


class Strategy(Protocol):
    """Ask for architectures, judge them, tell; best() at any time after the first tell.

    Codes are LongTensors ``K M``, log-likelihoods means per clip (``K``, not finite for a failed sample). ``gmacs``
    and ``cost`` are in the unit of the budget, GMACs or milliseconds, ``K``.
    """

    samples: int
    """Architectures judged so far."""
    dropped: int
    """Those of them that failed."""

    def ask(self) -> Tensor:
        """Architectures to judge next; their number is the strategy's choice."""
        ...

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """Learn from judged architectures; returns the weight that each of them had, ``K``."""
        ...

    def best(self) -> Tensor:
        """The architecture that the search would end with now, ``M``."""
        ...

    def finalists(self, num: int = 32) -> Tensor:
        """At most ``num`` in-budget candidates for :meth:`best` worth judging once more, ``K M``, best() first."""
        ...

    def draws(self, num: int, generator: torch.Generator) -> Tensor:
        """Distinct architectures among ``num`` draws, ``K M``: those it favours first, of any cost."""
        ...

    def marginals(self) -> list[Tensor]:
        """Probabilities of each variable's candidates; empty where there is no distribution."""
        ...

    def stats(self) -> dict[str, float]:
        """Numbers for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, with the random state; tensors and plain data only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        ...


def sample_in_budget(
    domain: Domain,
    cost: Cost,
    num: int,
    target: float | None,
    generator: torch.Generator,
    max_draws: int = 1_000_000,
    at_once: int = 256,
) -> Tensor:
    """Draw ``num`` in-budget architectures from the domain, by rejection; LongTensor ``K M``.

    Args:
        domain: the space.
        cost: GMACs of codes.
        num: how many.
        target: budget in GMACs; None accepts all.
        generator: random state.
        max_draws: number of draws after which it gives up.
        at_once: draws whose costs are asked for together; few, where each has to be measured.

    Raises:
        ValueError: too few in ``max_draws`` draws; the message says the range that was drawn.
    """
    if target is None:
        return domain.sample(num, generator)
    kept, found, draws = [], 0, 0
    least, most = float("inf"), 0.0
    while found < num:
        if draws >= max_draws:
            raise ValueError(
                f"{found} of {num} architectures of at most {target:g} GMACs in {draws} draws; "
                f"those drawn have {least:g} to {most:g} GMACs"
            )
        codes = domain.sample(at_once, generator)
        gmacs = cost(codes)
        least, most = min(least, gmacs.min().item()), max(most, gmacs.max().item())
        kept.append(codes[gmacs <= target])
        found, draws = found + len(kept[-1]), draws + len(codes)
    return torch.cat(kept)[:num]


def distinct(codes: Tensor) -> Tensor:
    """Each row of ``codes`` (``K M``) once, in the order of first appearance."""
    rows, inverse = codes.unique(dim=0, return_inverse=True)
    first = torch.full((len(rows),), len(codes)).scatter_reduce(0, inverse, torch.arange(len(codes)), "amin")
    return codes[first.sort().values]


class Archive:
    """The likeliest in-budget architectures told so far, each once, with the last likelihood told.

    Args:
        target: budget in GMACs; None: none.
        size: how many.
    """

    def __init__(self, target: float | None, size: int = 64) -> None:
        """Start empty."""
        self.target, self.size = target, size
        self._entries: dict[tuple[int, ...], tuple[float, float]] = {}  # code: log-likelihood, GMACs; likeliest first

    def update(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor) -> None:
        """Add judged architectures; failed ones and those over budget are left out."""
        for code, value, cost in zip(codes.tolist(), log_likelihood.tolist(), gmacs.tolist(), strict=True):
            if math.isfinite(value) and (self.target is None or cost <= self.target):
                self._entries[tuple(code)] = (value, cost)
        if len(self._entries) > 2 * self.size:
            self._trim()

    def _trim(self) -> None:
        ranked = sorted(self._entries.items(), key=lambda entry: -entry[1][0])
        self._entries = dict(ranked[: self.size])

    def codes(self) -> list[Tensor]:
        """Likeliest first."""
        self._trim()
        return [torch.tensor(code) for code in self._entries]

    def best(self) -> Tensor:
        """The likeliest.

        Raises:
            ValueError: nothing in budget has been told.
        """
        if not self._entries:
            raise ValueError("nothing in budget has been told yet")
        return self.codes()[0]

    def stats(self) -> dict[str, float]:
        """Log-likelihood and GMACs of the likeliest; NaN before there is one."""
        nothing = (math.nan, math.nan)
        value, cost = max(self._entries.values(), default=nothing)
        return {"best_log_likelihood": value, "best_gmacs": cost}

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"entries": dict(self._entries)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the contents."""
        self._entries = dict(state["entries"])


class RandomSearch:
    """Fresh architectures in the budget; ends with the likeliest of them.

    Args:
        domain: the space.
        cost: GMACs of codes.
        target: budget in GMACs; None: none.
        batch: K.
        seed: of the draws.

    Attributes:
        at_once: see ``sample_in_budget``.
    """

    at_once = 256

    def __init__(self, domain: Domain, cost: Cost, target: float | None, batch: int = 14, seed: int = 0) -> None:
        """Nothing judged yet."""
        self.domain, self.cost, self.target, self.batch = domain, cost, target, batch
        self.generator = torch.Generator().manual_seed(seed)
        self.samples = self.dropped = 0
        self._archive = Archive(target)

    def ask(self) -> Tensor:
        """``batch`` fresh architectures."""
        return sample_in_budget(self.domain, self.cost, self.batch, self.target, self.generator, at_once=self.at_once)

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """Remember the best; all have the same weight.

        Raises:
            AllSamplesFailedError: no log-likelihood is finite.
        """
        finite = log_likelihood.isfinite()
        if not finite.any():
            raise AllSamplesFailedError(f"none of {len(finite)} sampled architectures has a finite loss")
        self.samples += len(codes)
        self.dropped += int((~finite).sum())
        self._archive.update(codes, log_likelihood, gmacs)
        return finite.double() / finite.sum()

    def best(self) -> Tensor:
        """The likeliest in-budget architecture told so far.

        Raises:
            ValueError: none yet.
        """
        return self._archive.best()

    def finalists(self, num: int = 32) -> Tensor:
        """The likeliest in-budget architectures told so far, ``K M``, K at most ``num``.

        Raises:
            ValueError: none yet.
        """
        self.best()
        return torch.stack(self._archive.codes()[:num])

    def draws(self, num: int, generator: torch.Generator) -> Tensor:
        """Random architectures, in the order drawn."""
        return distinct(self.domain.sample(num, generator))

    def marginals(self) -> list[Tensor]:
        """Empty: there is no distribution."""
        return []

    def stats(self) -> dict[str, float]:
        """Counts, and the incumbent's log-likelihood and GMACs."""
        return {**self._archive.stats(), "samples": self.samples, "dropped": self.dropped}

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {
            "generator": self.generator.get_state(),
            "samples": self.samples,
            "dropped": self.dropped,
            "archive": self._archive.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Strategy`."""
        self.generator.set_state(state["generator"])
        self.samples, self.dropped = state["samples"], state["dropped"]
        self._archive.load_state_dict(state["archive"])


@dataclass(frozen=True)
class EvolutionOptions:
    """Regularised evolution (Real et al., arXiv 1802.01548).

    Attributes:
        population: architectures alive at a time; 100 in the paper.
        tournament: candidates of which the likeliest becomes a parent; 25 in the paper.
    """

    population: int = 100
    tournament: int = 25


class Evolution(RandomSearch):
    """Regularised evolution: each child is a mutation of a tournament winner and replaces the oldest architecture.

    It starts with a random in-budget population and proposes in-budget architectures only. ``ask`` gives ``batch``
    children at once, as in a parallel evolution.
    """

    def __init__(
        self,
        domain: Domain,
        cost: Cost,
        target: float | None,
        options: EvolutionOptions | None = None,
        batch: int = 14,
        seed: int = 0,
    ) -> None:
        """Start with an empty population."""
        super().__init__(domain, cost, target, batch, seed)
        self.options = options or EvolutionOptions()
        self._alive: deque[tuple[Tensor, float]] = deque(maxlen=self.options.population)  # oldest first

    def ask(self) -> Tensor:
        """Random architectures until the population is full, children afterwards."""
        missing = self.options.population - len(self._alive)
        if missing > 0:
            num = min(missing, self.batch)
            return sample_in_budget(self.domain, self.cost, num, self.target, self.generator, at_once=self.at_once)
        return self._children()

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """Add the new architectures, except failed ones, and remove the oldest."""
        weights = super().tell(codes, log_likelihood, gmacs, num_clips)
        for code, value in zip(codes, log_likelihood.tolist(), strict=True):
            if math.isfinite(value):
                self._alive.append((code.clone(), value))
        return weights

    def _children(self, tries: int = 100) -> Tensor:
        """One mutation each of ``batch`` tournament winners; after too many tries over budget, the parent itself."""
        codes = torch.stack([code for code, _ in self._alive])
        fitness = torch.tensor([value for _, value in self._alive])
        contestants = torch.randint(len(codes), (self.batch, self.options.tournament), generator=self.generator)
        winners = contestants.gather(1, fitness[contestants].argmax(1, keepdim=True))[:, 0]
        children = codes[winners]
        todo = torch.arange(self.batch)
        for _ in range(tries):
            proposals = self.domain.mutate(codes[winners[todo]], self.generator)
            fits = torch.ones(len(todo), dtype=torch.bool)
            if self.target is not None:
                fits = self.cost(proposals) <= self.target
            children[todo[fits]] = proposals[fits]
            todo = todo[~fits]
            if len(todo) == 0:
                break
        return children

    def draws(self, num: int, generator: torch.Generator) -> Tensor:
        """Mutations of the population, those of the likeliest parents first."""
        if not self._alive:
            return super().draws(num, generator)
        codes = torch.stack([code for code, _ in self._alive])
        fitness = torch.tensor([value for _, value in self._alive])
        parents = torch.randint(len(codes), (num,), generator=generator)
        parents = parents[fitness[parents].argsort(descending=True, stable=True)]
        return distinct(self.domain.mutate(codes[parents], generator))

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {**super().state_dict(), "alive": list(self._alive)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Strategy`."""
        super().load_state_dict(state)
        self._alive = deque(state["alive"], maxlen=self.options.population)
