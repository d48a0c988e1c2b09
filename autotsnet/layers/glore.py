"""Graph-based global reasoning (Chen et al., 2019): what all positions say together. https://arxiv.org/abs/1811.12814

B clips, C channels, L positions (T H W, or H W of a frame), N nodes, S states.
"""

from __future__ import annotations

from torch import Tensor, nn


class GraphReasoning(nn.Module):
    """A residual branch: positions to nodes by learned weights, two linear maps over the nodes, and back.

    ::

        P = reduce(x), Q = assign(x),  V = P Qᵀ
        U = W relu(V + A V)       the authors' code (facebookresearch/GloRe, network/global_reasoning_unit.py)
        U = relu(W (V − A V))     the paper's formula
        out = x + norm(extend(U Q))

    A subclass makes the layers ``reduce`` (C to S), ``assign`` (C to N), ``nodes`` (A, N to N), ``states`` (W, S to S)
    and ``out`` (S to C, and a norm whose scale starts at zero, so that a fresh branch is the identity).

    Attributes:
        as_code: the formula of the code, not the paper's.
        normalize: divide V by L, so that it does not grow with the clip.
    """

    as_code: bool
    normalize: bool

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W or B C H W -> the same shape."""
        state = self.reduce(x).flatten(2)  # B S L
        assign = self.assign(x).flatten(2)  # B N L
        graph = assign @ state.transpose(1, 2)  # B N S
        if self.normalize:
            graph = graph / state.shape[2]
        column = (..., *[None] * (x.dim() - 3))  # a graph as a map of one column, for convolutions
        mixed = self.nodes(graph[column]).flatten(2)
        if self.as_code:
            graph = self.states((graph + mixed).relu().transpose(1, 2)[column]).flatten(2)  # B S N
        else:
            graph = self.states((graph - mixed).transpose(1, 2)[column]).flatten(2).relu()
        return x + self.out((graph @ assign).unflatten(2, x.shape[2:]))
