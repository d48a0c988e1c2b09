"""REINFORCE over independent categoricals, as TEG-NAS publishes it (VITA-Group/TEGNAS, reinforce.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autotsnet.search.distribution import ArchitectureDistribution
from autotsnet.search.encoding import Cost
from autotsnet.search.fpnas import FromDistribution
from autotsnet.search.strategies import RandomSearch, distinct
from autotsnet.space import Blocks, Product

START = 1e-3  # standard deviation of the first logits
TRIES = 1000  # draws over budget before the most probable architecture in it is judged again


class Reinforce(FromDistribution, RandomSearch):
    """The reward of an architecture is what it is told, against a moving mean of the rewards before.

    Published: 500 steps of one architecture, Adam, the policy's argmax at the end. Ours: the budget; draws over it are
    rejected.

    Args:
        blocks: the space.
        cost: of codes.
        target: budget; None: none.
        lr: of Adam; 0.04 on NAS-Bench-201, 0.07 on DARTS.
        decay: of the moving mean, which is unbiased from the first reward on.
        batch: architectures per step.
        seed: of the draws.
    """

    def __init__(
        self,
        blocks: Blocks,
        cost: Cost,
        target: float | None,
        lr: float = 0.04,
        decay: float = 0.9,
        batch: int = 1,
        seed: int = 0,
    ) -> None:
        """Start with a policy that is almost uniform."""
        super().__init__(Product(blocks), cost, target, batch, seed)
        self.decay, self._sum, self._weight = decay, 0.0, 0.0
        self.distribution = ArchitectureDistribution(blocks)
        alpha = self.distribution.alpha
        with torch.no_grad():
            alpha.copy_(START * torch.randn(alpha.shape, generator=self.generator, dtype=alpha.dtype))
        self._adam = torch.optim.Adam([alpha], lr=lr, foreach=False)

    def ask(self) -> Tensor:
        """Draws of the policy that are in the budget, ``K M``."""
        codes, missing = self.distribution.sample(self.batch, self.generator), torch.ones(self.batch, dtype=torch.bool)
        for _ in range(TRIES if self.target is not None else 0):
            missing = self.cost(codes) > self.target
            if not missing.any():
                return codes
            codes[missing] = self.distribution.sample(int(missing.sum()), self.generator)
        if self.target is not None:
            codes[missing] = self.best()
        return codes

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """One step of the policy for the mean over what is told; see ``RandomSearch``."""
        weights = super().tell(codes, log_likelihood, gmacs, num_clips)
        finite = log_likelihood.isfinite()
        rewards = log_likelihood[finite].double()
        mean = rewards.mean().item()
        self._sum = self.decay * self._sum + (1 - self.decay) * mean
        self._weight = self.decay * self._weight + 1 - self.decay
        self._adam.zero_grad()
        (-(rewards - self._sum / self._weight) * self.distribution.log_prob(codes[finite])).mean().backward()
        self._adam.step()
        return weights

    def finalists(self, num: int = 32) -> Tensor:
        """``best`` and those of the highest rewards, ``K M``."""
        return distinct(torch.stack([self.best(), *self._archive.codes()[: num - 1]]))

    def stats(self) -> dict[str, float]:
        """Those of ``RandomSearch``, and the policy's entropy in nats."""
        return {**super().stats(), "entropy": self.distribution.entropy().item()}

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy``."""
        alpha = self.distribution.alpha.detach().clone()
        mean = (self._sum, self._weight)
        return {**super().state_dict(), "alpha": alpha, "adam": self._adam.state_dict(), "mean": mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy``."""
        super().load_state_dict(state)
        self.distribution.load_state_dict({"alpha": state["alpha"]})
        self._adam.load_state_dict(state["adam"])
        self._sum, self._weight = state["mean"]
