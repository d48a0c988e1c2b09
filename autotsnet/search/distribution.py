"""Distribution over architectures, factorised (coarse) or joint within a block (fine).

FP-NAS (arXiv 2011.10949): blocks are independent. Within a block the variables are independent too (factorised: the
number of logits is the sum of the candidate counts), or they share one categorical over the Cartesian product of their
candidates (joint: the product of the counts). A block of (3, 2, 2, 6, 10) has 23 logits or 720.

Shapes: K architectures, M variables, R categoricals (M factorised, number of blocks joint), N candidates of the widest.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn

from autotsnet.space import Blocks


class ArchitectureDistribution(nn.Module):
    """P(A|alpha), uniform at the start.

    All logits are in one padded parameter ``alpha`` (``R N``, float64, padding is never read), so that sampling
    and log-probabilities take a few tensor operations for any number of blocks. Keep it on the CPU: it is tiny,
    and one random stream there gives every rank the same architectures.

    Args:
        blocks: candidate counts of the variables of each block, see :mod:`autotsnet.search.encoding`.
        joint: one categorical per block rather than one per variable.
    """

    def __init__(self, blocks: Blocks, joint: bool = False) -> None:
        """Lay out the logits; the two forms differ in the categorical and the stride of each variable."""
        super().__init__()
        if not blocks or any(not block or min(block) < 1 for block in blocks):
            raise ValueError(f"every block needs variables, every variable a candidate; got {blocks}")
        self.blocks = tuple(tuple(block) for block in blocks)
        self.joint = joint
        rows, strides, sizes = [], [], []
        for block in self.blocks:
            for v, count in enumerate(block):
                rows.append(len(sizes) if joint else len(rows))
                strides.append(math.prod(block[v + 1 :]) if joint else 1)
                if not joint:
                    sizes.append(count)
            if joint:
                sizes.append(math.prod(block))
        counts = [count for block in self.blocks for count in block]
        # Derived from blocks: not part of the state.
        self.register_buffer("_rows", torch.tensor(rows), persistent=False)
        self.register_buffer("_strides", torch.tensor(strides), persistent=False)
        self.register_buffer("_counts", torch.tensor(counts), persistent=False)
        padding = torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]
        self.register_buffer("_padding", padding, persistent=False)
        self.alpha = nn.Parameter(torch.zeros(len(sizes), max(sizes), dtype=torch.float64))

    @property
    def num_logits(self) -> int:
        """Free logits, without padding."""
        return int((~self._padding).sum())

    def log_probabilities(self) -> Tensor:
        """Normalised log-probabilities of all categoricals, ``R N``; -inf in the padding."""
        return self.alpha.masked_fill(self._padding, -torch.inf).log_softmax(-1)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """``num`` independent architectures, LongTensor ``K M``."""
        probabilities = self.log_probabilities().detach().exp()
        return self._decode(probabilities.multinomial(num, replacement=True, generator=generator).T)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log P(A|alpha) in nats of each row of ``codes`` (``K M``), differentiable in alpha; ``K``."""
        choices = self._encode(codes)
        rows = torch.arange(choices.shape[1], device=choices.device)
        return self.log_probabilities()[rows, choices].sum(-1)

    def entropy(self) -> Tensor:
        """H(P) in nats, a scalar."""
        log_p = self.log_probabilities()
        return -(log_p.exp() * log_p.masked_fill(self._padding, 0)).sum()

    def mode(self) -> Tensor:
        """The most probable architecture, ``M``; of equally probable ones the lowest code."""
        return self._decode(self.log_probabilities().argmax(-1)[None])[0]

    def probabilities(self, block: int) -> Tensor:
        """P of every combination in one block, in the shape of its candidate counts (``blocks[block]``)."""
        shape = self.blocks[block]
        log_p = self.log_probabilities().detach()
        if self.joint:
            flat = log_p[block, : math.prod(shape)]
        else:
            flat = _outer_sum(self._variable_rows(log_p, block))
        return flat.exp().reshape(shape)

    def marginals(self) -> list[Tensor]:
        """Probabilities of each variable's candidates, in the order of the code."""
        out = []
        for b, counts in enumerate(self.blocks):
            joint = self.probabilities(b)
            for axis in range(len(counts)):
                others = [a for a in range(len(counts)) if a != axis]
                out.append(joint.sum(others) if others else joint)
        return out

    @torch.no_grad()
    def to_joint(self) -> ArchitectureDistribution:
        """The same distribution in joint form: P of every architecture and H are unchanged.

        The logit of a combination is the sum of its variables' log-probabilities, the only choice (up to a
        constant) that keeps P.

        Raises:
            ValueError: it is joint already.
        """
        if self.joint:
            raise ValueError("the distribution is joint already")
        fine = ArchitectureDistribution(self.blocks, joint=True)
        fine.alpha.copy_(self.spread(self.log_probabilities()))
        return fine

    def spread(self, values: Tensor) -> Tensor:
        """Joint table whose entries are the sums of a factorised table's over the variables; 0 in the padding.

        Args:
            values: one per logit of this factorised distribution, ``R N``.
        """
        flat = [_outer_sum(self._variable_rows(values, b)) for b in range(len(self.blocks))]
        return torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)

    def one_row_moves(self, code: Tensor) -> Tensor:
        """All architectures that differ from ``code`` (``M``) in one categorical; LongTensor ``K M``."""
        choices = self._encode(code[None])[0]
        rows, values = (~self._padding).nonzero(as_tuple=True)
        keep = values != choices[rows]
        rows, values = rows[keep], values[keep]
        moved = choices.repeat(len(rows), 1)
        moved[torch.arange(len(rows)), rows] = values
        return self._decode(moved)

    def _variable_rows(self, values: Tensor, block: int) -> list[Tensor]:
        """Rows of a factorised ``R N`` table that belong to one block, without padding."""
        start = sum(map(len, self.blocks[:block]))
        return [values[start + v, :count] for v, count in enumerate(self.blocks[block])]

    def _decode(self, choices: Tensor) -> Tensor:
        """Codes ``K M`` of categorical outcomes ``K R``."""
        return choices[:, self._rows] // self._strides % self._counts

    def _encode(self, codes: Tensor) -> Tensor:
        """Categorical outcomes ``K R`` of codes ``K M``."""
        if codes.shape[-1] != len(self._counts):
            raise ValueError(f"codes of {codes.shape[-1]} variables; the space has {len(self._counts)}")
        if ((codes < 0) | (codes >= self._counts)).any():
            wrong = ((codes < 0) | (codes >= self._counts)).any(0).nonzero().flatten().tolist()
            raise ValueError(f"codes out of range at variables {wrong}")
        choices = codes.new_zeros(len(codes), len(self._padding))
        return choices.index_add_(1, self._rows, codes * self._strides)


def _outer_sum(vectors: list[Tensor]) -> Tensor:
    """Sums over the Cartesian product, flat, the last vector's index running fastest."""
    return reduce(lambda left, right: (left[:, None] + right).flatten(), vectors)
