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
from mmengine.config import Config
from torch import Tensor, nn

from baselines.assemblenet import ASSEMBLENET_50, Graph
from baselines.assemblenet.connections import dense, learned, pruned
from baselines.assemblenet.evolution import GraphOptions, GraphSpace, random_graph
from reproduce.data.manifest import Manifest
from reproduce.records import Search
from reproduce.search.method import METHODS
from reproduce.search.trainings import STRATEGIES, TrainingSearch
from reproduce.whole_files import write_atomic, write_json

PROCEDURE = 2  # of these two; to be raised when the same options find something else
DRAWS = 20  # graphs of the same kind, random or pruned, until one can be brought to the budget


@METHODS.register_module(name="assemblenet")
class AssembleNetSearch(TrainingSearch):
    """Evolution of graphs, or one dense graph whose weak connections are pruned."""

    family = "assemblenet"
    space = "AssembleNet graphs"
    what = "graph"
    fixed: ClassVar = {"learn_connections": True}

    def identity(self) -> list:
        """See ``Method``: network, options and recipe."""
        config = self.config
        recipe = Config(dict(net=config.net, optim=config.optim_wrapper, options=config.options)).pretty_text
        more = [config.get(key) for key in ("label_smoothing", "milestones", "amp", "sub_batch", "reference_batch")]
        more += [PROCEDURE] if config.strategy in STRATEGIES else []
        return [recipe, config.strategy, config.epochs, config.batch, config.warmup, repr(self.suite.protocol), more]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        config = self.config
        if config.strategy == "connections":
            graph, journal, cost = self._connections(seed, manifest, folder, name)
        elif config.strategy in STRATEGIES:
            _, graph, journal, cost = self.evolve(seed, manifest, folder, name)
        else:
            raise ValueError(
                f"unknown strategy {config.strategy!r} for assemblenet; known: connections, {', '.join(STRATEGIES)}"
            )
        write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
        write_json(folder / "architecture.json", graph.to_dict())
        record = Search(strategy=config.strategy, space=self.space, seed=seed, devices=1, **cost)
        write_json(folder / "search.json", record.model_dump())

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        config = self.config
        steps, judged = math.ceil(config.epochs * videos / config.batch), 1
        clips = steps * config.batch
        if config.strategy != "connections":
            steps, judged, clips = self.evolved_cost(said.steps, videos)
        return dict(
            strategy=config.strategy,
            space=self.space,
            steps=steps,
            architectures=judged,
            clips=clips,
            devices=1,
        )

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``: what became of the connections, or of the population."""
        from reproduce.pictures.search import draw_connections  # matplotlib takes long to import

        journal = pd.read_parquet(folder / "journal.parquet")
        if self.config.strategy == "connections":
            draw_connections(journal, path)
        else:
            self.draw_evolution(journal, path)

    def draw(self, seed: int) -> Graph:
        """A random over-connected graph, as evolution starts from, the first that some width brings to the budget."""
        rng = random.Random(seed)
        for _ in range(DRAWS):
            graph = random_graph(GraphOptions(), rng)
            if self._solution(graph).matched:
                break
        return graph

    def _connections(self, seed: int, manifest: Manifest, folder: Path, name: str) -> tuple[Graph, pd.DataFrame, dict]:
        config = self.config
        model, hook, steps = self._fit(dense(ASSEMBLENET_50), seed, manifest, config.epochs, folder / "train", name)
        whole = learned(model.net)
        graph = self._pruned(whole)
        rows = [
            dict(node=i, input=j, weight=w, kept=j in graph.nodes[i].inputs)
            for i, node in enumerate(whole.nodes)
            for j, w in zip(node.inputs, node.weights or (1.0,), strict=False)
        ]
        cost = dict(steps=steps, architectures=1, clips=steps * config.batch, wall_s=hook.seconds_total)
        return graph, pd.DataFrame(rows), cost

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

    def row(self, candidate: Graph) -> dict[str, Any]:
        """See ``TrainingSearch``."""
        connections = sum(len(n.inputs) for n in candidate.nodes)
        return dict(nodes=len(candidate.nodes), connections=connections, graph=json.dumps(candidate.to_dict()))
