"""A search problem whose answer is known: a judge that trains nothing.

The space has the shape of one stream of a real one: four block groups of MBConv3D blocks; the channels C are
chosen per group, the temporal kernel t, the spatial kernel k and the expansion e per block. The planted score is
additive over blocks, with interactions between the variables of a block. The cost is that of a chain of MBConv
blocks: the channels of a group add to the cost of all its blocks and of the first block of the next group. With
such a score and cost, dynamic programming finds the best architecture under the budget exactly.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from autotsnet.space import Blocks, Product

# Candidates: kernels and expansions around X3D's (3, 3, 2.25), channels relative to the group's base.
TEMPORAL = (1, 3, 5)
SPATIAL = (3, 5)
EXPANSION = (1.5, 2.25, 3.0, 4.5)
WIDTH = (0.75, 0.875, 1.0, 1.125, 1.25)
COUNTS = (len(TEMPORAL), len(SPATIAL), len(EXPANSION))
# X3D-S at 13 x 160 x 160: base channels and side of the output of its four groups; DEPTH is ours.
BASES = (24, 48, 96, 192)
SIDES = (40, 20, 10, 5)
STEM_CHANNELS = 24
FRAMES = 13
DEPTH = (3, 4, 5, 4)


class PlantedJudge:
    """Score, GMACs and log-likelihood of encoded architectures, and the known optimum.

    Quality is the score on a scale of 0, the mean of random in-budget architectures, to 1, the optimum.

    The score of a block is a main effect per variable plus a table over all combinations of its variables
    (the interactions). Main effects rise with cost, with diminishing returns, so that the budget binds; the
    interactions are what a factorised distribution cannot represent. GMACs are whole MMACs per block, which makes
    the knapsack exact on a finite grid.

    Args:
        seed: of the planted score.
        depth: blocks per group.
        interaction: standard deviation of the interactions over that of the summed main effects.
        budget_quantile: the budget is this quantile of the GMACs of uniformly drawn architectures.
        loss_range: nats of cross-entropy between quality 0 and quality 1.
        noise: standard deviation in nats of an evaluation, independent per architecture and step. A final evaluation
            is the mean of 16, as if it saw all held-out data and a step one batch.
    """

    clips = 192  # told as the clips behind a likelihood: Auto-X3D's batch

    def __init__(
        self,
        seed: int = 0,
        depth: tuple[int, ...] = DEPTH,
        interaction: float = 0.5,
        budget_quantile: float = 0.3,
        loss_range: float = 0.5,
        noise: float = 0.0,
    ) -> None:
        """Plant the score, fix the budget, solve for the optimum."""
        self.depth, self.noise, self.loss_range = depth, noise, loss_range
        self.repeats = 16 if noise else 1  # of a final evaluation
        self._generator = torch.Generator().manual_seed(seed)
        self.blocks: Blocks = tuple(b for blocks in depth for b in ((len(WIDTH),), *(COUNTS,) * blocks))
        self._plant(np.random.default_rng(seed), interaction)
        draws = Product(self.blocks).sample(20_000, torch.Generator().manual_seed(seed))
        self.target = self.gmacs(draws).quantile(budget_quantile).item()
        self.random_score = self.score(draws)[self.gmacs(draws) <= self.target].mean().item()
        self.optimum = self._solve()
        self.optimum_score = self.score(self.optimum[None]).item()

    def _plant(self, rng: np.random.Generator, interaction: float) -> None:
        """Fill the tables: scores G W and B N, MMACs B W_in W N (G groups, B blocks, N combinations)."""
        widths, scores, mmacs = [], [], []
        base_in = STEM_CHANNELS
        for depth, base, side in zip(self.depth, BASES, SIDES, strict=False):
            widths.append(depth**0.5 * _main_effect(rng, len(WIDTH)))
            for b in range(depth):
                main = sum(np.ix_(*(_main_effect(rng, count) for count in COUNTS))).ravel()
                scores.append(main + rng.normal(0, interaction * main.std(), main.shape))
                mmacs.append(_block_mmacs(base_in, base, side, strided=b == 0))
                base_in = base
        self._width_scores = torch.from_numpy(np.stack(widths))
        self._scores = torch.from_numpy(np.stack(scores))
        self._mmacs = torch.from_numpy(np.stack(mmacs))
        self._group = torch.arange(len(self.depth)).repeat_interleave(torch.tensor(self.depth))
        self._is_width = torch.tensor([len(block) == 1 for block in self.blocks for _ in block])
        self._strides = torch.tensor([math.prod(COUNTS[v + 1 :]) for v in range(len(COUNTS))])

    def _tables(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Widths per group, ``K G``, and combinations per block, ``K B``."""
        rest = codes[:, ~self._is_width].reshape(len(codes), -1, len(COUNTS))
        return codes[:, self._is_width], (rest * self._strides).sum(-1)

    def score(self, codes: Tensor) -> Tensor:
        """Planted score, ``K``; higher is better."""
        widths, combinations = self._tables(codes)
        return self._width_scores.gather(1, widths.T).sum(0) + self._scores.gather(1, combinations.T).sum(0)

    def gmacs(self, codes: Tensor) -> Tensor:
        """Cost, ``K``."""
        widths, combinations = self._tables(codes)
        width = widths[:, self._group]
        before = torch.cat([torch.full_like(width[:, :1], WIDTH.index(1.0)), width[:, :-1]], dim=1)
        blocks = torch.arange(len(self._scores))
        return self._mmacs[blocks, before, width, combinations].sum(-1).double() / 1000

    def quality(self, codes: Tensor) -> Tensor:
        """Score on a scale from 0, the mean random in-budget architecture, to 1, the optimum, ``K``."""
        return (self.score(codes) - self.random_score) / (self.optimum_score - self.random_score)

    def scores(self, codes: Tensor, alone: None = None, final: bool = False) -> Tensor:
        """Simulated mean log-likelihood per clip of a trained network, ``K``; see ``Judge``."""
        loss = 1.0 + self.loss_range * (1 - self.quality(codes))
        if not self.noise:
            return -loss
        repeats = self.repeats if final else 1
        draws = [torch.randn(len(codes), generator=self._generator, dtype=torch.float64) for _ in range(repeats)]
        return -(loss + self.noise * torch.stack(draws)).mean(0)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the noise."""
        return dict(generator=self._generator.get_state())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue as if never interrupted."""
        self._generator.set_state(state["generator"])

    def _solve(self) -> Tensor:
        """The best architecture within the budget, ``M``, by dynamic programming.

        ``value[w, c]`` is the best score of the blocks so far, if the last one has width w and all together cost
        at most c MMACs. The result is exact: costs are whole numbers, and a block's cost depends on its choice, its
        width and the width before it only.
        """
        scores, mmacs, group = self._scores.numpy(), self._mmacs.numpy(), self._group.tolist()
        capacity = math.floor(self.target * 1000 + 1e-6)
        value = np.full((len(WIDTH), capacity + 1), -np.inf)
        value[WIDTH.index(1.0)] = 0
        trace = []
        for b, g in enumerate(group):
            new_group = b == 0 or group[b - 1] != g
            after = np.full_like(value, -np.inf)
            choice = np.zeros((*value.shape, 2), dtype=np.int16)
            for before, width in np.ndindex(len(WIDTH), len(WIDTH)):
                if not new_group and before != width:
                    continue
                bonus = self._width_scores[g, width].item() if new_group else 0.0
                for n, price in enumerate(mmacs[b, before, width]):
                    candidate = value[before, : max(0, capacity + 1 - price)] + (scores[b, n] + bonus)
                    better = candidate > after[width, price:]
                    after[width, price:][better] = candidate[better]
                    choice[width, price:][better] = (before, n)
            value = after
            trace.append(choice)
        width, left, code = int(value[:, capacity].argmax()), capacity, []
        for b in reversed(range(len(group))):
            before, n = trace[b][width, left].tolist()
            code[:0] = np.unravel_index(n, COUNTS)
            if b == 0 or group[b - 1] != group[b]:
                code[:0] = [width]
            left -= int(mmacs[b, before, width, n])
            width = before
        return torch.tensor([int(c) for c in code])


def _main_effect(rng: np.random.Generator, count: int) -> np.ndarray:
    """Score of each candidate: rising and concave, with a random slope and random deviations."""
    return rng.uniform(0.2, 1.0) * np.sqrt(np.arange(count)) + rng.normal(0, 0.2, count)


def _block_mmacs(base_in: int, base: int, side: int, strided: bool) -> np.ndarray:
    """Whole MMACs of one block, ``W_in W N``: expand 1x1x1, depthwise t x k x k, project 1x1x1.

    Width factors apply to ``base_in`` and ``base``. A strided block's expansion runs at its input's size,
    four times the pixels.
    """
    table = np.zeros((len(WIDTH), len(WIDTH), math.prod(COUNTS)), dtype=np.int64)
    pixels = FRAMES * side**2
    for w_in, w in np.ndindex(*table.shape[:2]):
        c_in, c_out = base_in * WIDTH[w_in], base * WIDTH[w]
        for n, (t, k, e) in enumerate(np.ndindex(COUNTS)):
            hidden = EXPANSION[e] * c_out
            macs = pixels * hidden * ((4 if strided else 1) * c_in + TEMPORAL[t] * SPATIAL[k] ** 2 + c_out)
            table[w_in, w, n] = round(macs / 1e6)
    return table
