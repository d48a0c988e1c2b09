"""Search of E3D's space by a score that needs no videos: seconds on a CPU. Leaves ``journal.parquet``."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from autotsnet.search import RandomSearch
from autotsnet.search.constraint import GMACs
from autotsnet.search.judges import JUDGES
from autotsnet.search.progressive import SearchError
from baselines.e3d import E3DSpace, E3DStructure, PopulationSearch
from reproduce.data.manifest import Manifest
from reproduce.records import Search
from reproduce.search.method import METHODS, Method, leave

STRATEGIES = {"stentr": "stentr", "depth": "depth", "random": "stentr"}  # and their judges
DRAWS = 20  # random structures, until a width brings one to the budget


@METHODS.register_module(name="e3d")
class E3DSearch(Method):
    """The authors' population search: by STEntr, by depth alone, or random search by STEntr."""

    @cached_property
    def space(self) -> E3DSpace:
        """On the suite's clips."""
        protocol, options = self.suite.protocol, self.config.options
        return E3DSpace(protocol.sampling.frames, protocol.crops.size, options.layers, options.unit)

    def identity(self) -> list:
        """See ``Method``: strategy and options; the videos have no part in it."""
        protocol = self.suite.protocol
        return [self.config.strategy, dict(self.config.options), protocol.sampling.frames, protocol.crops.size]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        config, o = self.config, self.config.options
        if config.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {config.strategy!r} for e3d; known: {', '.join(STRATEGIES)}")
        began = time.perf_counter()
        limit = GMACs(self.suite.gmacs, space=self.space, num_classes=self.suite.classes)
        judge = JUDGES.build(dict(type=STRATEGIES[config.strategy], space=self.space))
        if config.strategy == "random":
            strategy = RandomSearch(self.space, limit.cost, limit.limit, o.population, seed)
        else:
            try:
                strategy = PopulationSearch(self.space, limit.cost, limit.limit, o.population, seed=seed)
            except ValueError as error:
                raise SearchError(f"{name}: {error}") from error
        rows = []
        while (strategy.samples if config.strategy == "random" else strategy.drawn) < o.structures:
            codes = strategy.ask()
            scores, costs = judge.scores(codes), limit.cost(codes)
            strategy.tell(codes, scores, costs, judge.clips)
            rows.append(dict(score=scores.max().item(), **strategy.stats()))
        found = self.space.decode(strategy.best())
        wall_s = time.perf_counter() - began
        record = Search(**self._cost(), seed=seed, wall_s=wall_s)
        leave(folder, pd.DataFrame(rows), found.to_dict(), record)

    def _cost(self) -> dict[str, Any]:
        """Nothing is trained, no clip is seen; what the budget lets through is chance, so drawn ones are counted."""
        return dict(
            strategy=self.config.strategy,
            space=self.space.name,
            steps=0,
            architectures=self.config.options.structures,
            clips=0,
            devices=1,
        )

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        return self._cost()

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``."""
        from reproduce.pictures.search import draw_curves  # matplotlib takes long to import

        journal = pd.read_parquet(folder / "journal.parquet")
        best = np.maximum.accumulate(journal.score.to_numpy())
        draw_curves({"best so far": [best], "best of a step": [journal.score.to_numpy()]}, path, "step", "score")

    def draw(self, seed: int) -> E3DStructure:
        """A random structure, the first that some width brings to the budget."""
        generator = torch.Generator().manual_seed(seed)
        drawn = (self.space.decode(self.space.sample(1, generator)[0]) for _ in range(DRAWS))
        return self.first_at_budget(drawn)
