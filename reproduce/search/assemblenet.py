"""Search of AssembleNet's graphs: evolution, or all connections learned at once and the weak ones pruned.

Either way a graph is as wide as the budget allows, and trained by what trains the suite's models. Leaves
``journal.parquet``: graphs and their fitness, or connections and their weights.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor, nn

from baselines.assemblenet import ASSEMBLENET_50, Graph
from baselines.assemblenet.connections import dense, learned, pruned
from baselines.assemblenet.evolution import GraphOptions, GraphSpace, random_graph
from reproduce.data.manifest import Manifest
from reproduce.records import Search
from reproduce.search.method import METHODS, leave
from reproduce.search.trainings import TrainingSearch

PROCEDURE = 2  # of these two; to be raised when the same options find something else
DRAWS = 20  # graphs of the same kind, random or pruned, until one can be brought to the budget


@METHODS.register_module(name="assemblenet")
class AssembleNetSearch(TrainingSearch):
    """Evolution of graphs, or one dense graph whose weak connections are pruned."""

    family = "assemblenet"
    space_name = "AssembleNet graphs"
    what = "graph"
    strategies: ClassVar = ("connections", *TrainingSearch.strategies)
    fixed: ClassVar = {"learn_connections": True}

    def identity(self) -> list:
        """See ``Method``: network, options and recipe."""
        config, (recipe, more) = self.config, self.what_trains()
        more += [PROCEDURE] if config.strategy != "connections" else []
        return [recipe, config.strategy, config.epochs, config.batch, config.warmup, repr(self.suite.protocol), more]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        if self.config.strategy == "connections":
            self._connections(seed, manifest, folder, name)
        else:
            super().find(seed, manifest, folder, name)

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        if self.config.strategy == "connections":
            return self._dense_cost(math.ceil(self.config.epochs * videos / self.config.batch))
        return super().cost(said, videos)

    def _dense_cost(self, steps: int) -> dict[str, Any]:
        clips = steps * self.config.batch
        return dict(strategy="connections", space=self.space_name, steps=steps, architectures=1, clips=clips, devices=1)

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``: what became of the connections, or of the population."""
        from reproduce.pictures.search import draw_connections  # matplotlib takes long to import

        if self.config.strategy == "connections":
            draw_connections(pd.read_parquet(folder / "journal.parquet"), path)
        else:
            super().picture(folder, path)

    def draw(self, seed: int) -> Graph:
        """A random over-connected graph, as evolution starts from, the first that some width brings to the budget."""
        rng = random.Random(seed)
        return self.first_at_budget(random_graph(GraphOptions(), rng) for _ in range(DRAWS))

    def _connections(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        config = self.config
        model, hook, steps = self._fit(dense(ASSEMBLENET_50), seed, manifest, config.epochs, folder / "train", name)
        whole = learned(model.net)
        graph = self._pruned(whole)
        rows = [
            dict(node=i, input=j, weight=w, kept=j in graph.nodes[i].inputs)
            for i, node in enumerate(whole.nodes)
            for j, w in zip(node.inputs, node.weights or (1.0,), strict=False)
        ]
        record = Search(**self._dense_cost(steps), seed=seed, wall_s=hook.seconds_total)
        leave(folder, pd.DataFrame(rows), graph.to_dict(), record)

    def _pruned(self, whole: Graph) -> Graph:
        """The strongest connections: the share nearest to ``keep`` that some width brings to the budget."""
        keep, connections = self.config.options.keep, sum(len(node.inputs) for node in whole.nodes)
        tried = [keep + d / connections for n in range(DRAWS // 2) for d in ((n, -n) if n else (0,))]
        graphs = [pruned(whole, share) for share in tried]
        return next((graph for graph in graphs if self._solution(graph).matched), graphs[0])

    def candidates(self) -> GraphSpace:
        """See ``TrainingSearch``."""
        return GraphSpace()

    def after(self, domain: GraphSpace, code: Tensor, net: nn.Module) -> None:
        """See ``TrainingSearch``: the learned connections guide mutations."""
        domain.learned(code, learned(net))

    def row(self, candidate: Graph, fitness: float, code: list[int], cost: float) -> dict[str, Any]:
        """See ``TrainingSearch``."""
        connections = sum(len(n.inputs) for n in candidate.nodes)
        shape = dict(nodes=len(candidate.nodes), connections=connections, graph=json.dumps(candidate.to_dict()))
        return dict(log_likelihood=fitness, **shape)
