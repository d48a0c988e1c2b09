"""Evolution of AssembleNet graphs, guided by the connection weights that training left.

The authors' code of this part is not public. Stated by the paper (arXiv 1905.13209): a population of over-connected
multi-stream graphs evolves; learned connection weights decide which connections a child keeps; blocks are split, merged
and change their temporal resolution; connections go from lower to higher levels. Everything else here is ours, and
named in ``EvolutionOptions``. Filters of a level always sum to those of the found graphs.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from baselines.assemblenet.graph import DILATIONS, LEVELS, STEM, Graph, Node

STEM_FILTERS = 128  # summed over the stems
LEVEL_FILTERS = (128, 256, 512, 512)  # summed over a level's nodes
LEAST_FILTERS = 16


@dataclass(frozen=True)
class EvolutionOptions:
    """What the paper leaves open.

    Attributes:
        population: graphs alive; the oldest dies. Unknown.
        tournament: contestants for a parent. Unknown.
        stems: RGB and flow stems of a first graph; two of each, as in what the authors found.
        connection: probability of each possible connection in a first graph: over-connected.
        keep: connections of a parent whose weight is below this are dropped; None: a threshold drawn uniformly for
            each child, which is how we recall the paper.
        changes: structural changes of a child beside its connections: split, merge or another dilation, each alike.
        most_nodes: of one level.
    """

    population: int = 50
    tournament: int = 10
    stems: tuple[str, ...] = ("rgb", "rgb", "flow", "flow")
    connection: float = 0.5
    keep: float | None = None
    changes: int = 1
    most_nodes: int = 4


def random_graph(options: EvolutionOptions, rng: random.Random) -> Graph:
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


def rewired(graph: Graph, options: EvolutionOptions, rng: random.Random) -> Graph:
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
    """Two nodes of a level become one of their filters together, with the inputs and readers of both."""
    a, b = graph.nodes[first], graph.nodes[second]
    inputs = tuple(sorted({*a.inputs, *b.inputs}))
    nodes = {i: replace(n, inputs=_without(n.inputs, second, first), weights=()) for i, n in enumerate(graph.nodes)}
    nodes[first] = replace(a, filters=a.filters + b.filters, inputs=inputs, weights=())
    del nodes[second]
    return _ordered(graph.name, nodes)


_NEW = 1 << 30  # key of the node that a split adds, above all others


def mutated(graph: Graph, options: EvolutionOptions, rng: random.Random) -> Graph:
    """A child: rewired, then changed in structure."""
    child = rewired(graph, options, rng)
    for _ in range(options.changes):
        changes = [c for c in (_split_change, _merge_change, _dilation_change) if c(child, options, rng, dry=True)]
        child = rng.choice(changes)(child, options, rng)
    return _whole(list(child.nodes), rng)


def _split_change(graph: Graph, options: EvolutionOptions, rng: random.Random, dry: bool = False) -> Any:
    counts = [sum(n.level == level for n in graph.nodes) for level in range(LEVELS)]
    able = [
        i
        for i, n in enumerate(graph.nodes)
        if n.level not in (STEM, LEVELS - 1) and counts[n.level] < options.most_nodes and n.filters >= 2 * LEAST_FILTERS
    ]
    return bool(able) if dry else split(graph, rng.choice(able))


def _merge_change(graph: Graph, options: EvolutionOptions, rng: random.Random, dry: bool = False) -> Any:
    able = [
        (i, j) for j, b in enumerate(graph.nodes) for i, a in enumerate(graph.nodes[:j]) if a.level == b.level != STEM
    ]
    return bool(able) if dry else merge(graph, *rng.choice(able))


def _dilation_change(graph: Graph, options: EvolutionOptions, rng: random.Random, dry: bool = False) -> Any:
    if dry:
        return True
    nodes = list(graph.nodes)
    i = rng.choice([i for i, n in enumerate(nodes) if n.source != "flow"])  # of a flow stem it has no effect
    nodes[i] = replace(nodes[i], dilation=rng.choice([d for d in DILATIONS if d != nodes[i].dilation]))
    return Graph(graph.name, tuple(nodes))


def _connections(node: Node) -> list[tuple[int, float]]:
    """Inputs and their weights; a single input has none, and is needed."""
    return list(zip(node.inputs, node.weights or (1.0,) * len(node.inputs), strict=True))


def _without(inputs: Iterable[int], gone: int, instead: int) -> tuple[int, ...]:
    return tuple(sorted({instead if i == gone else i for i in inputs}))


def _ordered(name: str, nodes: dict[int, Node]) -> Graph:
    """Renumber nodes, keyed by old number, so that levels rise."""
    order = sorted(nodes, key=lambda i: (nodes[i].level, i))
    place = {old: new for new, old in enumerate(order)}
    return Graph(name, tuple(replace(nodes[i], inputs=tuple(sorted(place[j] for j in nodes[i].inputs))) for i in order))


def _whole(nodes: list[Node], rng: random.Random) -> Graph:
    """A graph in which every node below the top is read: those that are not get a random reader."""
    top = max(n.level for n in nodes)
    for i, node in enumerate(nodes):
        if node.level < top and not any(i in n.inputs for n in nodes):
            reader = rng.choice([j for j, n in enumerate(nodes) if n.level > node.level])
            nodes[reader] = replace(nodes[reader], inputs=tuple(sorted((*nodes[reader].inputs, i))), weights=())
    return Graph("evolved", tuple(nodes))


class RandomGraphs:
    """Random graphs, the best of which is kept: what evolution must beat.

    Args:
        options: of the graphs.
        seed: of all draws.
    """

    def __init__(self, options: EvolutionOptions | None = None, seed: int = 0) -> None:
        self.options, self.rng = options or EvolutionOptions(), random.Random(seed)
        self.journal: list[tuple[Graph, float]] = []

    def ask(self) -> Graph:
        """The next graph to train; its connection weights are to be learned."""
        return random_graph(self.options, self.rng)

    def tell(self, graph: Graph, fitness: float) -> None:
        """Take in a trained graph, with the connection weights it learned; a fitness of NaN: it failed."""
        self.journal.append((graph, fitness))

    def best(self) -> Graph:
        """The fittest graph so far.

        Raises:
            ValueError: there is none.
        """
        fit = [(f, -i) for i, (_, f) in enumerate(self.journal) if math.isfinite(f)]
        if not fit:
            raise ValueError(f"none of {len(self.journal)} graphs has a finite fitness")
        return self.journal[-max(fit)[1]][0]

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        version, internal, gauss = self.rng.getstate()
        journal = [(g.to_dict(), f if math.isfinite(f) else None) for g, f in self.journal]
        return {"journal": journal, "rng": [version, list(internal), gauss]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.journal = []
        for data, fitness in state["journal"]:
            self.tell(Graph.from_dict(data), math.nan if fitness is None else fitness)


class GraphEvolution(RandomGraphs):
    """A random population at first, then children of tournament winners; the oldest dies."""

    def __init__(self, options: EvolutionOptions | None = None, seed: int = 0) -> None:
        super().__init__(options, seed)
        self._alive: deque[tuple[Graph, float]] = deque(maxlen=self.options.population)

    def ask(self) -> Graph:
        """A random graph until the population is full, a child afterwards."""
        if len(self._alive) < self.options.population:
            return random_graph(self.options, self.rng)
        contestants = self.rng.sample(list(self._alive), min(self.options.tournament, len(self._alive)))
        return mutated(max(contestants, key=lambda one: one[1])[0], self.options, self.rng)

    def tell(self, graph: Graph, fitness: float) -> None:
        """Let it in; what failed is never born."""
        super().tell(graph, fitness)
        if math.isfinite(fitness):
            self._alive.append((graph, fitness))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        self._alive.clear()
        super().load_state_dict(state)


def evolve(strategy: RandomGraphs, train: Callable[[Graph], tuple[Graph, float]], evaluations: int) -> Graph:
    """Judge so many graphs in all and return the best.

    Args:
        strategy: fresh or resumed.
        train: from a graph to the same with learned connection weights, and its fitness.
        evaluations: including those that a resumed strategy has behind it.
    """
    while len(strategy.journal) < evaluations:
        strategy.tell(*train(strategy.ask()))
    return strategy.best()
