"""Every child is a graph; evolution finds what is planted, and resumes."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from baselines.assemblenet.evolution import (
    LEVEL_FILTERS,
    GraphOptions,
    GraphSpace,
    merge,
    mutated,
    random_graph,
    rewired,
    split,
)
from baselines.assemblenet.graph import ASSEMBLENET_50, Graph, Node

OPTIONS = GraphOptions()


class Planted:
    """A graph is worth the mean value of its connections; a value depends on who is connected: stem or dilation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def value(self, reader: Node, read: Node) -> float:
        key = (self.seed, reader.level, reader.dilation, read.level, read.source or read.dilation)
        return random.Random(repr(key)).gauss(0, 1)

    def train(self, graph: Graph) -> tuple[Graph, float]:
        nodes, total = [], 0.0
        for node in graph.nodes:
            values = [self.value(node, graph.nodes[i]) for i in node.inputs]
            total += sum(values)
            weights = tuple(1 / (1 + math.exp(-2 * v)) for v in values) if len(values) > 1 else ()
            nodes.append(replace(node, weights=weights))
        return Graph(graph.name, tuple(nodes)), total / len(graph.nodes)


def check(graph: Graph) -> None:
    """What holds of every graph of the search, beside being one."""
    for level, total in enumerate(LEVEL_FILTERS):
        at_level = [n for n in graph.nodes if n.level == level]
        assert sum(n.filters for n in at_level) == total
        assert 1 <= len(at_level) <= OPTIONS.most_nodes
    read = {i for n in graph.nodes for i in n.inputs}
    assert read | set(graph.tops) == set(range(len(graph.nodes)))


@given(seed=st.integers(0, 10**6))
def test_children_are_graphs_over_generations(seed):
    rng, planted = random.Random(seed), Planted(seed)
    graph = random_graph(OPTIONS, rng)
    check(graph)
    for _ in range(5):
        graph = mutated(planted.train(graph)[0], OPTIONS, rng)
        check(graph)


def test_strong_connections_are_kept_and_weak_ones_dropped():
    child = rewired(ASSEMBLENET_50, GraphOptions(keep=0.5), random.Random(0))
    for old, new in zip(ASSEMBLENET_50.nodes, child.nodes, strict=True):
        strong = {i for i, w in zip(old.inputs, old.weights, strict=False) if w >= 0.5}
        weak = {i for i, w in zip(old.inputs, old.weights, strict=False) if w < 0.5}
        assert strong <= set(new.inputs)
        # A weak one comes back only where its node would be read by nobody.
        assert all(sum(i in n.inputs for n in child.nodes) == 1 for i in weak & set(new.inputs))


@pytest.mark.parametrize("index", [6, 9, 12])
def test_merging_what_was_split_gives_the_graph_back(index):
    bare = Graph("bare", tuple(replace(n, weights=()) for n in ASSEMBLENET_50.nodes))
    parts = split(bare, index)
    level = bare.nodes[index].level
    twin = max(i for i, n in enumerate(parts.nodes) if n.level == level)
    assert parts.nodes[index] == parts.nodes[twin]
    assert parts.nodes[index].filters * 2 == bare.nodes[index].filters
    assert merge(parts, index, twin) == bare


def free(codes):
    return torch.zeros(len(codes))


def evolve(strategy, planted: Planted, judged: int) -> list[float]:
    """Fitness of each graph that was judged."""
    journal = []
    for _ in range(judged):
        code = strategy.ask()
        graph, fitness = planted.train(strategy.domain.decode(code[0]))
        strategy.domain.learned(code[0], graph)
        strategy.tell(code, torch.tensor([fitness]), free(code), 1)
        journal.append(fitness)
    return journal


def evolution(seed: int, population: int = 50, tournament: int = 10) -> Evolution:
    return Evolution(GraphSpace(), free, None, EvolutionOptions(population, tournament), batch=1, seed=seed)


def test_evolution_beats_random_search_on_a_planted_fitness():
    wins = 0
    for seed in range(10):
        random_search = RandomSearch(GraphSpace(), free, None, batch=1, seed=seed)
        wins += max(evolve(evolution(seed), Planted(seed), 200)) > max(evolve(random_search, Planted(seed), 200))
    assert wins >= 9


def test_resumes_as_if_never_interrupted():
    planted, straight, first, second = Planted(0), *(evolution(seed, 8, 3) for seed in (1, 1, 99))
    whole = evolve(straight, planted, 40)
    begun = evolve(first, planted, 17)
    second.load_state_dict(first.state_dict())
    second.domain.load_state_dict(json.loads(json.dumps(first.domain.state_dict())))
    assert begun + evolve(second, planted, 23) == whole
    assert second.domain.graphs == straight.domain.graphs
