"""One-shot learning of connections: train a graph with all of them, then keep the strong ones (as AssembleNet++ does).

How many are kept is not public; see ``pruned``.
"""

from __future__ import annotations

from dataclasses import replace

from baselines.assemblenet.graph import STEM, Graph
from baselines.assemblenet.network import AssembleNet


def dense(graph: Graph) -> Graph:
    """The nodes of a graph, each reading every node of a lower level."""
    nodes = graph.nodes
    return Graph(
        f"{graph.name}, dense",
        tuple(
            replace(n, inputs=tuple(j for j, m in enumerate(nodes) if m.level < n.level), weights=())
            if n.level != STEM
            else n
            for n in nodes
        ),
    )


def learned(net: AssembleNet) -> Graph:
    """The graph of a network with the connection weights that it has now."""
    nodes = (
        replace(node, weights=tuple(fusion.logits.detach().sigmoid().tolist()) if len(node.inputs) > 1 else ())
        for node, fusion in zip(net.graph.nodes, net.fusions, strict=True)
    )
    return Graph(net.graph.name, tuple(nodes))


def pruned(graph: Graph, keep: float = 0.35) -> Graph:
    """The strongest connections of a graph with weights; each block keeps an input, and each node but the top a reader.

    Args:
        graph: with learned weights.
        keep: share of the connections; AssembleNet-50 has 30 of the 86 of its dense graph.
    """
    weights = {
        (j, i): w for i, n in enumerate(graph.nodes) for j, w in zip(n.inputs, n.weights or (1.0,), strict=False)
    }
    strongest = sorted(weights, key=weights.get, reverse=True)
    kept = set(strongest[: round(keep * len(strongest))])
    for i in range(len(graph.nodes)):
        for mine in ([e for e in strongest if e[1] == i], [e for e in strongest if e[0] == i]):
            if mine and not kept & set(mine):
                kept.add(mine[0])
    nodes = []
    for i, node in enumerate(graph.nodes):
        inputs = tuple(j for j in node.inputs if (j, i) in kept)
        strengths = tuple(weights[j, i] for j in inputs) if len(inputs) > 1 else ()
        nodes.append(replace(node, inputs=inputs, weights=strengths))
    return Graph("pruned", tuple(nodes))
