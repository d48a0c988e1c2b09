"""Encoded architectures: the one format that all search strategies use.

A space is ``blocks``: for each block the candidate counts of its variables, ``((3, 2, 2, 6, 10), (5,),
...)``. An architecture is a row of M int64 codes, the variables of a block next to each other; K
architectures are a LongTensor ``K M``. Only the space that encoded it knows what a code means (a kernel, a fusion
type).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autotsnet.space import Blocks, Product, variable_counts

Cost = Callable[[Tensor], Tensor]  # codes K M -> cost K, in the unit of the budget


def space_size(blocks: Blocks) -> int:
    """Exact number of architectures."""
    return math.prod(count for block in blocks for count in block)


@dataclass(frozen=True)
class Restriction:
    """A space with only some blocks searched: one stage of a progressive search.

    The stage's strategy is built over ``searched_blocks`` only, so that frozen blocks have neither entropy nor
    gradient; ``expand`` puts its codes back into complete architectures.

    Attributes:
        blocks: the complete space.
        searched: indices of the blocks that this stage searches.
        template: M codes of a complete architecture; gives the values of the frozen blocks.
    """

    blocks: Blocks
    searched: tuple[int, ...]
    template: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the indices and the template against the space."""
        counts = variable_counts(self.blocks).tolist()
        if len(self.template) != len(counts):
            raise ValueError(f"template has {len(self.template)} codes; the space has {len(counts)} variables")
        if bad := [v for v, (code, n) in enumerate(zip(self.template, counts, strict=True)) if not 0 <= code < n]:
            raise ValueError(f"template codes out of range at variables {bad}")
        if list(self.searched) != sorted(set(self.searched)) or not set(self.searched) <= set(range(len(self.blocks))):
            raise ValueError(f"searched={self.searched} must be rising indices below {len(self.blocks)}")

    @property
    def searched_blocks(self) -> Blocks:
        """The space of the stage."""
        return tuple(self.blocks[b] for b in self.searched)

    @property
    def domain(self) -> Product:
        """The domain that the stage draws from."""
        return Product(self.searched_blocks)

    @property
    def variables(self) -> list[int]:
        """Positions of the searched variables in a complete code."""
        start, positions = 0, []
        for b, block in enumerate(self.blocks):
            if b in self.searched:
                positions.extend(range(start, start + len(block)))
            start += len(block)
        return positions

    def expand(self, codes: Tensor) -> Tensor:
        """Complete architectures ``K M`` from the stage's codes ``K m``."""
        full = torch.tensor(self.template, dtype=torch.long).repeat(len(codes), 1)
        full[:, self.variables] = codes
        return full

    def restrict(self, codes: Tensor) -> Tensor:
        """The stage's codes ``K m`` of complete architectures ``K M``."""
        return codes[:, self.variables]
