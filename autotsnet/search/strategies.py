"""The small interface of a search strategy, and the two controls: random search and regularised evolution."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from autotsnet.search.encoding import Blocks, Cost, uniform_codes, variable_counts
from autotsnet.search.estimator import AllSamplesFailedError


class Strategy(Protocol):
    """Ask for architectures, judge them, tell; best() at any time after the first tell.

    Codes are LongTensors ``K M``, log-likelihoods means per clip (``K``, not finite for a failed sample),
    GMACs ``K``.
    """

    samples: int
    """Architectures judged so far."""

    def ask(self) -> Tensor:
        """Architectures to judge next; their number is the strategy's choice."""
        ...

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int = 1) -> Tensor:
        """Learn from judged architectures; returns the weight that each of them had, ``K``."""
        ...

    def best(self) -> Tensor:
        """The architecture that the search would end with now, ``M``."""
        ...

    def stats(self) -> dict[str, float]:
        """Numbers for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything to continue from, random state included; tensors and plain data only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        ...


def sample_in_budget(
    blocks: Blocks,
    cost: Cost,
    num: int,
    target: float | None,
    generator: torch.Generator,
    *,
    tolerance: float | None = None,
    max_draws: int = 1_000_000,
) -> Tensor:
    """``num`` architectures uniform over those in the budget, by rejection; LongTensor ``K M``.

    Args:
        blocks: the space.
        cost: GMACs of codes.
        num: how many.
        target: budget in GMACs; None accepts all.
        generator: random state.
        tolerance: accept only within this fraction of the target, above or below (0.02: +-2 %); None: all at
            most the target.
        max_draws: when to give up.

    Raises:
        ValueError: too few in so many draws; says the range that was drawn.
    """
    if target is None:
        return uniform_codes(blocks, num, generator)
    low, high = (0.0, target) if tolerance is None else (target * (1 - tolerance), target * (1 + tolerance))
    kept, found, draws = [], 0, 0
    least, most = float("inf"), 0.0
    while found < num:
        if draws >= max_draws:
            raise ValueError(
                f"{found} of {num} architectures between {low:g} and {high:g} GMACs in {draws} draws; "
                f"those drawn have {least:g} to {most:g} GMACs"
            )
        codes = uniform_codes(blocks, 256, generator)
        gmacs = cost(codes)
        least, most = min(least, gmacs.min().item()), max(most, gmacs.max().item())
        kept.append(codes[(gmacs >= low) & (gmacs <= high)])
        found, draws = found + len(kept[-1]), draws + len(codes)
    return torch.cat(kept)[:num]


class _Incumbent:
    """The likeliest in-budget architecture told so far."""

    def __init__(self, target: float | None) -> None:
        self.target = target
        self.code: Tensor | None = None
        self.log_likelihood = float("-inf")
        self.gmacs = float("nan")

    def update(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor) -> None:
        allowed = log_likelihood.isfinite()
        if self.target is not None:
            allowed &= gmacs <= self.target
        k = log_likelihood.masked_fill(~allowed, -torch.inf).argmax()
        if allowed[k] and log_likelihood[k] > self.log_likelihood:
            self.code, self.log_likelihood = codes[k].clone(), log_likelihood[k].item()
            self.gmacs = gmacs[k].item()

    def best(self) -> Tensor:
        if self.code is None:
            raise ValueError("nothing in budget has been told yet")
        return self.code


class RandomSearch:
    """Uniform over the architectures in the budget; ends with the likeliest of them.

    Args:
        blocks: the space.
        cost: GMACs of codes.
        target: budget in GMACs; None: none.
        batch: K.
        seed: of the draws.
    """

    def __init__(self, blocks: Blocks, cost: Cost, target: float | None, batch: int = 14, seed: int = 0) -> None:
        """Nothing judged yet."""
        self.blocks, self.cost, self.target, self.batch = blocks, cost, target, batch
        self.generator = torch.Generator().manual_seed(seed)
        self.samples = self.dropped = 0
        self._incumbent = _Incumbent(target)

    def ask(self) -> Tensor:
        """``batch`` fresh architectures."""
        return sample_in_budget(self.blocks, self.cost, self.batch, self.target, self.generator)

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int = 1) -> Tensor:
        """Remember the best; all weigh alike.

        Raises:
            AllSamplesFailedError: no log-likelihood is finite.
        """
        finite = log_likelihood.isfinite()
        if not finite.any():
            raise AllSamplesFailedError(f"none of {len(finite)} sampled architectures has a finite loss")
        self.samples += len(codes)
        self.dropped += int((~finite).sum())
        self._incumbent.update(codes, log_likelihood, gmacs)
        return finite.double() / finite.sum()

    def best(self) -> Tensor:
        """The likeliest in-budget architecture told so far.

        Raises:
            ValueError: none yet.
        """
        return self._incumbent.best()

    def stats(self) -> dict[str, float]:
        """Counts, and the incumbent's log-likelihood and GMACs."""
        return {
            "samples": self.samples,
            "dropped": self.dropped,
            "best_log_likelihood": self._incumbent.log_likelihood,
            "best_gmacs": self._incumbent.gmacs,
        }

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        incumbent = self._incumbent
        return {
            "generator": self.generator.get_state(),
            "samples": self.samples,
            "dropped": self.dropped,
            "incumbent": (incumbent.code, incumbent.log_likelihood, incumbent.gmacs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Strategy`."""
        self.generator.set_state(state["generator"])
        self.samples, self.dropped = state["samples"], state["dropped"]
        incumbent = self._incumbent
        incumbent.code, incumbent.log_likelihood, incumbent.gmacs = state["incumbent"]


@dataclass(frozen=True)
class EvolutionOptions:
    """Regularised evolution (Real et al., arXiv 1802.01548).

    Attributes:
        population: living architectures; the paper's 100.
        tournament: candidates of which the likeliest becomes a parent; the paper's 25.
    """

    population: int = 100
    tournament: int = 25


class Evolution(RandomSearch):
    """Regularised evolution: children of tournament winners, one variable changed; the oldest die.

    Starts with a random in-budget population and only ever proposes architectures in the budget. Its children
    are asked for in batches, a parallel evolution of that width.
    """

    def __init__(
        self,
        blocks: Blocks,
        cost: Cost,
        target: float | None,
        options: EvolutionOptions | None = None,
        batch: int = 14,
        seed: int = 0,
    ) -> None:
        """Nobody lives yet."""
        super().__init__(blocks, cost, target, batch, seed)
        self.options = options or EvolutionOptions()
        self._counts = variable_counts(blocks)
        self._alive: deque[tuple[Tensor, float]] = deque(maxlen=self.options.population)  # oldest first

    def ask(self) -> Tensor:
        """Random architectures until the population is full, children afterwards."""
        missing = self.options.population - len(self._alive)
        if missing > 0:
            num = min(missing, self.batch)
            return sample_in_budget(self.blocks, self.cost, num, self.target, self.generator)
        return torch.stack([self._child() for _ in range(self.batch)])

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int = 1) -> Tensor:
        """Let the new in, the oldest out; failed samples are never born."""
        weights = super().tell(codes, log_likelihood, gmacs, num_clips)
        for code, value in zip(codes, log_likelihood.tolist(), strict=True):
            if torch.tensor(value).isfinite():
                self._alive.append((code.clone(), value))
        return weights

    def _child(self) -> Tensor:
        """One mutation of a tournament's winner, in the budget."""
        contestants = self._randint(len(self._alive), self.options.tournament)
        parent = max((self._alive[i] for i in contestants), key=lambda one: one[1])[0]
        # All single mutations at once, in random order: the first in the budget is a uniform one of those.
        variables = torch.arange(len(self._counts)).repeat_interleave(self._counts - 1)
        moves = parent.repeat(len(variables), 1)
        shift = torch.cat([torch.arange(1, n) for n in self._counts.tolist()])
        rows = torch.arange(len(variables))
        moves[rows, variables] = (parent[variables] + shift) % self._counts[variables]
        allowed = rows if self.target is None else rows[self.cost(moves) <= self.target]
        if len(allowed) == 0:
            return parent
        return moves[allowed[self._randint(len(allowed), 1)[0]]]

    def _randint(self, high: int, num: int) -> list[int]:
        return torch.randint(high, (num,), generator=self.generator).tolist()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Strategy`."""
        return {**super().state_dict(), "alive": list(self._alive)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Strategy`."""
        super().load_state_dict(state)
        self._alive = deque(state["alive"], maxlen=self.options.population)
