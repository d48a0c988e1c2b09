"""Search of AssembleNet's graphs: evolution, or all connections learned at once and the weak ones pruned.

Either way a graph is as wide as the budget allows, and trained by what trains the suite's models. Leaves
``journal.parquet``: graphs and their fitness, or connections and their weights.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from autotsnet.registry import family
from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from autotsnet.search.progressive import SearchError
from baselines.assemblenet import ASSEMBLENET_50, Graph
from baselines.assemblenet.connections import dense, learned, pruned
from baselines.assemblenet.evolution import GraphOptions, GraphSpace, random_graph
from reproduce.budget import Solution, solve
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import DivergedError, RunHook
from reproduce.records import Search
from reproduce.search.method import METHODS, Method, halves, stream
from reproduce.search.short import fit, log_likelihood
from reproduce.whole_files import write_atomic, write_json

STRATEGIES = ("evolution", "random")
PROCEDURE = 2  # of these two; to be raised when the same options find something else
DRAWS = 20  # graphs of the same kind, random or pruned, until one can be brought to the budget


@METHODS.register_module(name="assemblenet")
class AssembleNetSearch(Method):
    """Evolution of graphs, or one dense graph whose weak connections are pruned."""

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
            graph, journal, cost = self._evolution(seed, manifest, folder, name)
        else:
            raise ValueError(
                f"unknown strategy {config.strategy!r} for assemblenet; known: connections, {', '.join(STRATEGIES)}"
            )
        write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
        write_json(folder / "architecture.json", graph.to_dict())
        record = Search(strategy=config.strategy, space="AssembleNet graphs", seed=seed, devices=1, **cost)
        write_json(folder / "search.json", record.model_dump())

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        config, options = self.config, self.config.options
        steps, judged = math.ceil(config.epochs * videos / config.batch), 1
        clips = steps * config.batch
        if config.strategy != "connections":
            judged, half = options.evaluations, (videos + self.suite.classes) / 2
            steps = min(said.steps, judged * math.ceil(options.epochs * half / config.batch))
            clips = (steps + options.judge_batches * judged) * config.batch
        return dict(
            strategy=config.strategy,
            space="AssembleNet graphs",
            steps=steps,
            architectures=judged,
            clips=clips,
            devices=1,
        )

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``: what became of the connections, or of the population."""
        from reproduce.pictures.search import draw_connections, draw_curves  # matplotlib takes long to import

        journal = pd.read_parquet(folder / "journal.parquet")
        if self.config.strategy == "connections":
            draw_connections(journal, path)
        else:
            fitness = journal.log_likelihood.to_numpy()
            curves = {"best so far": [np.fmax.accumulate(fitness)], "each graph": [fitness]}
            draw_curves(curves, path, "graph", "log-likelihood of held-out clips (nats per clip)")

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

    def _evolution(self, seed: int, manifest: Manifest, folder: Path, name: str) -> tuple[Graph, pd.DataFrame, dict]:
        suite, config = self.suite, self.config
        o, space = config.options, GraphSpace()
        strategy = RandomSearch(space, _free, None, batch=1, seed=seed)
        if config.strategy == "evolution":
            strategy = Evolution(space, _free, None, EvolutionOptions(o.population, o.tournament), batch=1, seed=seed)
        state, journal, seconds, steps = folder / "journal.pth", [], 0.0, 0
        if state.exists():
            saved = torch.load(state, weights_only=True)
            journal, seconds, steps = saved["journal"], saved["seconds"], saved["steps"]
            space.load_state_dict(saved["graphs"])
            strategy.load_state_dict(saved["strategy"])
        weights, held_out = halves(manifest, seed)
        batches = list(itertools.islice(stream(held_out, config, suite, seed), o.judge_batches))
        while len(journal) < o.evaluations:
            number, code = len(journal) + 1, strategy.ask()
            graph = space.decode(code[0])
            work = folder / "candidates" / str(number)
            try:
                label = f"{name}, graph {number} of {o.evaluations}"
                model, hook, n = self._fit(graph, seed, weights, o.epochs, work, label)
                space.learned(code[0], learned(model.net))
                fitness = log_likelihood(model, batches)
                seconds, steps = seconds + hook.seconds_total, steps + n
            except DivergedError:
                fitness = math.nan
            if math.isfinite(fitness):  # what failed is never born
                told = torch.tensor([fitness], dtype=torch.float64)
                strategy.tell(code, told, _free(code), config.batch * o.judge_batches)
            journal.append((int(code), fitness))
            saved = dict(journal=journal, seconds=seconds, steps=steps)
            saved |= dict(graphs=space.state_dict(), strategy=strategy.state_dict())
            write_atomic(state, lambda path, saved=saved: torch.save(saved, path))
            shutil.rmtree(work)
        if not any(math.isfinite(fitness) for _, fitness in journal):
            raise SearchError(
                f"{name}: all {len(journal)} graphs failed, the loss of none was finite; lower `lr` in the recipe's "
                "`optim_wrapper`, which makes it another search"
            )
        judged = [(space.graphs[number], fitness) for number, fitness in journal]
        rows = [
            dict(
                log_likelihood=fitness,
                nodes=len(graph.nodes),
                connections=sum(len(n.inputs) for n in graph.nodes),
                graph=json.dumps(graph.to_dict()),
            )
            for graph, fitness in judged
        ]
        clips = config.batch * (steps + o.judge_batches * len(rows))
        cost = dict(steps=steps, architectures=len(rows), clips=clips, wall_s=seconds)
        return space.decode(strategy.best()), pd.DataFrame(rows), cost

    @property
    def _size(self) -> dict[str, int]:
        protocol = self.suite.protocol
        return dict(num_classes=self.suite.classes, frames=protocol.sampling.frames, crop=protocol.crops.size)

    def _solution(self, graph: Graph, **more) -> Solution:
        """A graph at the suite's budget."""
        fixed = {k: v for k, v in self.config.net.items() if k != "type"} | dict(graph=graph.to_dict(), **more)
        assemblenet = family("assemblenet")
        return solve(assemblenet.build, assemblenet.knobs, self.suite.gmacs, **self._size, fixed=fixed)

    def _fit(
        self, graph: Graph, seed: int, manifest: Manifest, epochs: float, folder: Path, name: str
    ) -> tuple[VideoClassifier, RunHook, int]:
        """Train a graph and its connection weights at the suite's budget; resumes."""
        suite, config = self.suite, self.config
        solution = self._solution(graph, learn_connections=True)
        torch.manual_seed(seed)
        net = family("assemblenet").build(**self._size, **solution.kwargs)
        return fit(net, suite, config, seed, manifest, epochs, folder, name)


def _free(codes: torch.Tensor) -> torch.Tensor:
    """No graph costs more than another: each is as wide as the budget allows."""
    return torch.zeros(len(codes), dtype=torch.float64)
