"""Random AssembleNet graphs and their mutations, guided by trained connection weights.

The authors' code of this part is not public. Stated by the paper (arXiv 1905.13209): a population of over-connected
multi-stream graphs evolves; learned connection weights decide which connections a child keeps; blocks are split, merged
and change their temporal resolution; connections go from lower to higher levels. Everything else here is ours, and
named in ``GraphOptions``. The filters of a level have the same sum as in the found graphs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from baselines.assemblenet.graph import DILATIONS, LEVELS, STEM, Graph, Node

STEM_FILTERS = 128  # summed over the stems
LEVEL_FILTERS = (128, 256, 512, 512)  # summed over a level's nodes
LEAST_FILTERS = 16


@dataclass(frozen=True)
class GraphOptions:
    """What the paper leaves open.

    Attributes:
        stems: RGB and flow stems of a first graph; two of each, as in the graphs that the authors found.
        connection: probability of each possible connection in a first graph: over-connected.
        keep: connections of a parent with a weight below this are dropped; None: a threshold drawn uniformly for each
            child, as we remember the paper.
        changes: structural changes of a child: split, merge or another dilation, each with the same probability.
        most_nodes: largest number of nodes in a level.
    """

    stems: tuple[str, ...] = ("rgb", "rgb", "flow", "flow")
    connection: float = 0.5
    keep: float | None = None
    changes: int = 1
    most_nodes: int = 4


def random_graph(options: GraphOptions, rng: random.Random) -> Graph:
    """An over-connected graph: one to ``most_nodes`` nodes per level, one on top."""
    filters = STEM_FILTERS // len(options.stems)
    nodes = [
        Node(STEM, (), filters, rng.choice(DILATIONS) if source == "rgb" else 1, source=source)
        for source in options.stems
    ]
    for level, total in enumerate(LEVEL_FILTERS):
        most = 1 if level == LEVELS - 1 else options.most_nodes
        number = 2 ** rng.randint(0, int(math.log2(most)))  # equal shares of the level's filters
        below = [i for i, n in enumerate(nodes) if n.level < level]
        for _ in range(number):
            inputs = tuple(i for i in below if rng.random() < options.connection) or (rng.choice(below),)
            nodes.append(Node(level, inputs, total // number, rng.choice(DILATIONS), 1 if level == 0 else 2))
    return _whole(nodes, rng)


def rewired(graph: Graph, options: GraphOptions, rng: random.Random) -> Graph:
    """The connections that training found strong, and as many new ones as were dropped (in expectation)."""
    threshold = rng.random() if options.keep is None else options.keep
    nodes = list(graph.nodes)
    present = {(j, i): w for i, n in enumerate(nodes) for j, w in _connections(n)}
    possible = [(j, i) for i, n in enumerate(nodes) for j in range(i) if nodes[j].level < n.level]
    kept = {edge for edge, weight in present.items() if weight >= threshold}
    absent = [edge for edge in possible if edge not in present]
    rate = (len(present) - len(kept)) / len(absent) if absent else 0.0
    edges = kept | {edge for edge in absent if rng.random() < rate}
    for i, node in enumerate(nodes):
        if node.level == STEM:
            continue
        inputs = tuple(j for j in range(i) if (j, i) in edges)
        if not inputs:  # the strongest it had
            inputs = (max(_connections(node), key=lambda c: c[1])[0],)
        nodes[i] = replace(node, inputs=inputs, weights=())
    return _whole(nodes, rng)


def split(graph: Graph, index: int) -> Graph:
    """A node becomes two of half the filters, with the same inputs and readers."""
    node = graph.nodes[index]
    half = replace(node, filters=node.filters // 2, weights=())
    nodes = [replace(n, inputs=n.inputs + ((_NEW,) if index in n.inputs else ()), weights=()) for n in graph.nodes]
    nodes[index] = half
    return _ordered(graph.name, dict(enumerate(nodes)) | {_NEW: half})


def merge(graph: Graph, first: int, second: int) -> Graph:
    """Two nodes of a level become one with the sum of their filters, and with the inputs and readers of both."""
    a, b = graph.nodes[first], graph.nodes[second]
    inputs = tuple(sorted({*a.inputs, *b.inputs}))
    nodes = {i: replace(n, inputs=_without(n.inputs, second, first), weights=()) for i, n in enumerate(graph.nodes)}
    nodes[first] = replace(a, filters=a.filters + b.filters, inputs=inputs, weights=())
    del nodes[second]
    return _ordered(graph.name, nodes)


_NEW = 1 << 30  # key of the node that a split adds, above all others


def mutated(graph: Graph, options: GraphOptions, rng: random.Random) -> Graph:
    """A child: rewired, then changed in structure."""
    child = rewired(graph, options, rng)
    for _ in range(options.changes):
        changes = [c for c in (_split_change, _merge_change, _dilation_change) if c(child, options, rng, dry=True)]
        child = rng.choice(changes)(child, options, rng)
    return _whole(list(child.nodes), rng)


def _split_change(graph: Graph, options: GraphOptions, rng: random.Random, dry: bool = False) -> Any:
    counts = [sum(n.level == level for n in graph.nodes) for level in range(LEVELS)]
    able = [
        i
        for i, n in enumerate(graph.nodes)
        if n.level not in (STEM, LEVELS - 1) and counts[n.level] < options.most_nodes and n.filters >= 2 * LEAST_FILTERS
    ]
    return bool(able) if dry else split(graph, rng.choice(able))


def _merge_change(graph: Graph, options: GraphOptions, rng: random.Random, dry: bool = False) -> Any:
    able = [
        (i, j) for j, b in enumerate(graph.nodes) for i, a in enumerate(graph.nodes[:j]) if a.level == b.level != STEM
    ]
    return bool(able) if dry else merge(graph, *rng.choice(able))


def _dilation_change(graph: Graph, options: GraphOptions, rng: random.Random, dry: bool = False) -> Any:
    if dry:
        return True
    nodes = list(graph.nodes)
    i = rng.choice([i for i, n in enumerate(nodes) if n.source != "flow"])  # no effect on a flow stem
    nodes[i] = replace(nodes[i], dilation=rng.choice([d for d in DILATIONS if d != nodes[i].dilation]))
    return Graph(graph.name, tuple(nodes))


def _connections(node: Node) -> list[tuple[int, float]]:
    """Inputs and their weights; inputs without weights have 1."""
    return list(zip(node.inputs, node.weights or (1.0,) * len(node.inputs), strict=True))


def _without(inputs: Iterable[int], gone: int, instead: int) -> tuple[int, ...]:
    return tuple(sorted({instead if i == gone else i for i in inputs}))


def _ordered(name: str, nodes: dict[int, Node]) -> Graph:
    """Renumber nodes, keyed by old number, so that levels rise."""
    order = sorted(nodes, key=lambda i: (nodes[i].level, i))
    place = {old: new for new, old in enumerate(order)}
    return Graph(name, tuple(replace(nodes[i], inputs=tuple(sorted(place[j] for j in nodes[i].inputs))) for i in order))


def _whole(nodes: list[Node], rng: random.Random) -> Graph:
    """A graph in which every node below the top has a reader: nodes without one get a random one."""
    top = max(n.level for n in nodes)
    for i, node in enumerate(nodes):
        if node.level < top and not any(i in n.inputs for n in nodes):
            reader = rng.choice([j for j, n in enumerate(nodes) if n.level > node.level])
            nodes[reader] = replace(nodes[reader], inputs=tuple(sorted((*nodes[reader].inputs, i))), weights=())
    return Graph("evolved", tuple(nodes))


class GraphSpace:
    """The graphs as a domain of ``autotsnet.search``'s strategies.

    Graphs are not a product of variables: the code of a graph is its number in the order of creation, ``K 1``.

    Args:
        options: of the graphs.
    """

    def __init__(self, options: GraphOptions | None = None) -> None:
        self.options = options or GraphOptions()
        self.graphs: list[Graph] = []

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """``num`` random graphs, ``K 1``."""
        return self._added(random_graph(self.options, _random(generator)) for _ in range(num))

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A child of each graph, ``K 1``."""
        return self._added(mutated(self.decode(code), self.options, _random(generator)) for code in codes)

    def decode(self, code: Tensor) -> Graph:
        """The graph of a code, ``1``."""
        return self.graphs[int(code)]

    def learned(self, code: Tensor, graph: Graph) -> None:
        """Store a graph with its trained connection weights; they guide its mutations."""
        self.graphs[int(code)] = graph

    def _added(self, graphs: Iterable[Graph]) -> Tensor:
        first = len(self.graphs)
        self.graphs.extend(graphs)
        return torch.arange(first, len(self.graphs))[:, None]

    def state_dict(self) -> list[dict[str, Any]]:
        """All graphs as plain data."""
        return [graph.to_dict() for graph in self.graphs]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Continue as if never interrupted."""
        self.graphs = [Graph.from_dict(data) for data in state]


def _random(generator: torch.Generator) -> random.Random:
    return random.Random(int(torch.randint(2**62, (), generator=generator)))
