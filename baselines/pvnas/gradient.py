"""Gradient search over the PV-NAS-style space, with learning rates that keep the searched networks diverse.

The search draws one path per step (Gumbel-softmax with a straight-through gate, as GDAS), trains weights on one half of
the data and the distribution on the other, with a cost term on the expected GMACs. The paper says that its
learning-rate schedule keeps searched networks diverse; its formula is not public, ``DiverseRates`` is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotsnet.inputs import RGB, example
from baselines.pvnas.network import CANDIDATES, PVNet


@dataclass(frozen=True)
class DiverseRates:
    """Learning rates of weights and distribution, in opposite phase.

    A branch that is drawn more is trained more, scores better, and is drawn still more: a one-path search decides for
    the early leader. With these rates the distribution hardly moves while the weights learn fast, and all branches are
    drawn equally often. It decides when the weights learn slowly and branches are compared with little noise. With
    ``diverse=False`` the mean rates are the same, and the distribution's rate is constant. Restarting both in cycles
    was tried on a toy problem (``tests/baselines/pvnas``) and kept no more diversity than the plain schedule.

    Attributes:
        steps: of the search, after the warm-up.
        weights: largest rate of the weights; half a cosine to zero over the search.
        alpha: mean rate of the distribution over the search.
        diverse: False: the plain schedule.
        warmup: steps before the search that train the weights only: untrained branches cannot be ranked.
        rise: steps at the very start, in which the rate of the weights rises linearly.
    """

    steps: int
    weights: float
    alpha: float
    diverse: bool = True
    warmup: int = 0
    rise: int = 0

    @property
    def total(self) -> int:
        """Steps of warm-up and search."""
        return self.warmup + self.steps

    def __call__(self, step: int) -> tuple[float, float]:
        """Rates of the weights and of the distribution at a step."""
        wave = math.cos(math.pi * max(step - self.warmup, 0) / self.steps)
        weights = self.weights * (1 + wave) / 2 * min(1.0, (step + 1) / (self.rise + 1))
        return weights, 0.0 if step < self.warmup else self.alpha * (1 - wave if self.diverse else 1.0)


def branch_macs(net: PVNet, frames: int, crop: int) -> tuple[Tensor, int]:
    """MACs of one clip through each branch, blocks × branches, and through all the rest.

    Args:
        net: on the meta device, every block with the same number of branches.
        frames: T.
        crop: H and W.
    """
    macs: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        weight = module.weight
        macs[module] = out.numel() * weight[0].numel()

    for module in net.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            module.register_forward_hook(note)
    (clip,) = example(RGB, frames, crop)
    branches = len(net.blocks[0].branches)
    for choice in range(branches):
        net(clip, ([choice] * len(net.blocks), torch.ones(len(net.blocks), device="meta")))
    table = torch.tensor(
        [[sum(macs[m] for m in branch.modules() if m in macs) for branch in block.branches] for block in net.blocks]
    )
    return table, sum(macs.values()) - int(table.sum())


class GradientSearch:
    """The distribution over branches of each block and how it learns.

    Args:
        macs: of each branch, blocks × branches, as from ``branch_macs``.
        fixed: MACs of the rest.
        target: MACs that the searched network should cost.
        cost_weight: of ``|expected / target - 1|`` beside the loss in nats.
        temperature: of the Gumbel-softmax.
        seed: of the draws.
    """

    def __init__(
        self,
        macs: Tensor,
        fixed: int,
        target: float,
        cost_weight: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.macs, self.fixed, self.target = macs.double(), fixed, target
        self.cost_weight, self.temperature = cost_weight, temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.alpha = torch.zeros(macs.shape, requires_grad=True)
        self._adam = torch.optim.Adam([self.alpha], lr=1.0, betas=(0.5, 0.999))

    def draw(self) -> tuple[list[int], Tensor]:
        """A path: a branch per block, and gates of value 1 through which the distribution gets its gradient."""
        gumbel = -torch.empty_like(self.alpha).exponential_(generator=self.generator).log()
        soft = ((self.alpha + gumbel) / self.temperature).softmax(1)
        choices = soft.argmax(1)
        p = soft.gather(1, choices[:, None])[:, 0]
        return choices.tolist(), 1 + p - p.detach()

    def learn(self, losses: Iterable[Tensor], rate: float) -> float:
        """One step of the distribution, and the mean of the held-out losses.

        Args:
            losses: of parts of a batch, computed through the gates of one draw; taken one by one, so that memory holds
                the graph of one part only.
            rate: learning rate.
        """
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.zero_grad()
        cost = (self.expected_macs() / self.target - 1).abs()
        (of_cost,) = torch.autograd.grad(self.cost_weight * cost, self.alpha)
        values, gradients = [], []
        for loss in losses:
            gradients.append(torch.autograd.grad(loss, self.alpha, retain_graph=True)[0])  # the gates' part is shared
            values.append(loss.item())
            del loss  # frees its graph before the next one is made
        self.alpha.grad = torch.stack(gradients).mean(0) + of_cost
        self._adam.step()
        return sum(values) / len(values)

    def expected_macs(self) -> Tensor:
        """Mean MACs of the networks that are drawn."""
        return self.fixed + (self.alpha.softmax(1).double() * self.macs).sum()

    @torch.no_grad()
    def diversity(self) -> float:
        """Expected share of blocks in which two drawn networks differ: 0 when all is decided."""
        return float((1 - self.alpha.softmax(1).square().sum(1)).mean())

    @torch.no_grad()
    def entropy(self) -> float:
        """Entropy of the distribution over networks, in nats."""
        return float(-(self.alpha.softmax(1) * self.alpha.log_softmax(1)).sum())

    def probabilities(self) -> list[dict[str, float]]:
        """Probabilities of the candidates of each block."""
        return [dict(zip(CANDIDATES, row, strict=True)) for row in self.alpha.detach().softmax(1).tolist()]

    def best(self) -> tuple[str, ...]:
        """The likeliest candidate of each block."""
        return tuple(list(CANDIDATES)[i] for i in self.alpha.argmax(1).tolist())

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "alpha": self.alpha.detach().clone(),
            "adam": self._adam.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
        self._adam.load_state_dict(state["adam"])
        self.generator.set_state(state["generator"])
