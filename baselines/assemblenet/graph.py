"""AssembleNet's connectivity as data: the nodes, their inputs, filters, dilations, strides and connection weights.

Source of the two found graphs: ``google-research/google-research: assemblenet/model_structures.py`` (the same in
``tensorflow/models: official/projects/assemblenet``). Weights are those after the sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotsnet.architecture import Architecture

STEM = -1
LEVELS = 4
DILATIONS = (1, 2, 4, 8)


class GraphError(ValueError):
    """The data are not a valid graph; the message names the node."""


@dataclass(frozen=True)
class Node:
    """A stem or a block.

    Attributes:
        level: 0 to 3; ``STEM`` for a stem.
        inputs: indices of the nodes it reads; of a stem, none.
        filters: base filters F; a block writes 4F channels, a stem F.
        dilation: temporal, of its 1-D convolutions.
        stride: spatial, of a block.
        weights: of its connections, in the order of ``inputs``; empty with one input.
        source: of a stem: ``"rgb"`` or ``"flow"``.
    """

    level: int
    inputs: tuple[int, ...]
    filters: int
    dilation: int = 1
    stride: int = 1
    weights: tuple[float, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Graph(Architecture):
    """Nodes in topological order; connections go from a lower level to a higher one.

    Attributes:
        name: in errors and pictures.
        nodes: stems first.
    """

    name: str
    nodes: tuple[Node, ...]

    argument = "graph"

    def __post_init__(self) -> None:
        """Raises GraphError naming the first node that does not fit."""
        for i, node in enumerate(self.nodes):
            if (node.level == STEM) != (node.source in ("rgb", "flow")) or (node.level == STEM and node.inputs):
                raise GraphError(f"{self.name} node {i}: a stem has a source, rgb or flow, and no inputs: {node}")
            if node.level == STEM:
                continue
            if not 0 <= node.level < LEVELS or not node.inputs:
                raise GraphError(f"{self.name} node {i}: a block has a level of 0 to {LEVELS - 1} and inputs: {node}")
            wrong = [j for j in node.inputs if not 0 <= j < i or self.nodes[j].level >= node.level]
            if wrong or len(set(node.inputs)) < len(node.inputs):
                raise GraphError(f"{self.name} node {i}: inputs {node.inputs} must be distinct nodes of lower levels")
            if node.weights and len(node.weights) != len(node.inputs):
                raise GraphError(f"{self.name} node {i}: {len(node.weights)} weights for {len(node.inputs)} inputs")
        if len({self.nodes[i].filters for i in self.tops}) != 1:
            raise GraphError(f"{self.name}: the top level needs at least one node, and all of equal filters")

    @property
    def tops(self) -> tuple[int, ...]:
        """Nodes of the highest level; the classifier averages them."""
        highest = max(n.level for n in self.nodes)
        return tuple(i for i, n in enumerate(self.nodes) if n.level == highest and n.level != STEM)

    def below(self, node: Node) -> tuple[int, ...]:
        """Nodes of lower levels."""
        return tuple(i for i, n in enumerate(self.nodes) if n.level < node.level)

    def to_dict(self) -> dict[str, Any]:
        """See ``Architecture``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Graph:
        """See ``Architecture``."""
        nodes = ({k: tuple(v) if isinstance(v, list) else v for k, v in n.items()} for n in data["nodes"])
        return cls(data["name"], tuple(Node(**n) for n in nodes))


def _found(name: str, filters: dict[int, int]) -> Graph:
    """The graph found by evolution on Moments in Time; ``filters`` replaces those of single nodes."""

    def stem(source: str, dilation: int) -> Node:
        return Node(STEM, (), 32, dilation, source=source)

    def block(level: int, inputs: Sequence[int], f: int, dilation: int, weights: Sequence[float] = ()) -> Node:
        return Node(level, tuple(inputs), f, dilation, 1 if level == 0 else 2, tuple(weights))

    nodes = [
        stem("rgb", 4),
        stem("rgb", 4),
        stem("flow", 1),
        stem("flow", 1),
        block(0, [1], 32, 1),
        block(0, [0], 32, 4),
        block(0, [0, 1, 2, 3], 32, 1, [0.138106, 0.846534, 0.307297, 0.286744]),
        block(0, [2, 3], 32, 2, [0.584612, 0.606633]),
        block(1, [0, 4, 5, 6, 7], 64, 2, [0.163821, 0.885292, 0.403960, 0.682344, 0.533154]),
        block(1, [0, 2, 4, 7], 64, 1, [0.028569, 0.103336, 0.751726, 0.926011]),
        block(1, [0, 5, 7], 64, 4, [0.288322, 0.762785, 0.404978]),
        block(1, [0, 5], 64, 1, [0.234748, 0.784143]),
        block(2, [4, 8, 10, 11], filters.get(12, 256), 1, [0.276165, 0.951479, 0.656877, 0.954798]),
        block(2, [8, 9], filters.get(13, 256), 4, [0.504701, 0.887682]),
        block(3, [12, 13], filters.get(14, 512), 2, [0.989220, 0.845461]),
    ]
    return Graph(name, tuple(nodes))


ASSEMBLENET_50 = _found("assemblenet_50", {})
ASSEMBLENET_101 = _found("assemblenet_101", {12: 192, 13: 192, 14: 256})
GRAPHS = {g.name: g for g in (ASSEMBLENET_50, ASSEMBLENET_101)}

# Modules per block, by level.
DEPTHS = {
    26: (2, 2, 2, 2),
    38: (2, 4, 4, 2),
    50: (3, 4, 6, 3),
    68: (3, 4, 12, 3),
    77: (3, 4, 15, 3),
    101: (3, 4, 23, 3),
}
