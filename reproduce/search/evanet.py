"""Search of EvaNet's modules by evolution; what is found is an ensemble of diverse winners at the budget."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmengine.config import Config

from baselines.evanet import Structures
from baselines.evanet_evolution import StructureSpace, winners
from reproduce.budget import BudgetError
from reproduce.data.manifest import Manifest
from reproduce.records import Search
from reproduce.search.method import METHODS
from reproduce.search.trainings import STRATEGIES, TrainingSearch
from reproduce.whole_files import write_atomic, write_json

DRAWS = 20  # random ensembles, or of winners, until one can be brought to the budget


@METHODS.register_module(name="evanet")
class EvaNetSearch(TrainingSearch):
    """Evolution of modules, or random ones; each candidate is trained alone, the winners share the budget."""

    family = "evanet"
    space = StructureSpace.name

    def identity(self) -> list:
        """See ``Method``: network, options and recipe."""
        config = self.config
        recipe = Config(dict(net=config.net, optim=config.optim_wrapper, options=config.options)).pretty_text
        more = [config.get(key) for key in ("label_smoothing", "milestones", "amp", "sub_batch", "reference_batch")]
        return [recipe, config.strategy, config.batch, config.warmup, repr(self.suite.protocol), more]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        o, strategy = self.config.options, self.config.strategy
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r} for evanet; known: {', '.join(STRATEGIES)}")
        judged, _, journal, cost = self.evolve(seed, manifest, folder, name)
        write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
        ensembles = winners(judged, o.members, o.distance)
        found = next((e for e in ensembles[:DRAWS] if self._solution(e).matched), ensembles[0])
        write_json(folder / "architecture.json", found.to_dict())
        record = Search(strategy=strategy, space=self.space, seed=seed, devices=1, **cost)
        write_json(folder / "search.json", record.model_dump())

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        steps, judged, clips = self.evolved_cost(said.steps, videos)
        found = dict(strategy=self.config.strategy, space=self.space, devices=1)
        return found | dict(steps=steps, architectures=judged, clips=clips)

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``."""
        self.draw_evolution(pd.read_parquet(folder / "journal.parquet"), path)

    def draw(self, seed: int) -> Structures:
        """An ensemble of random structures, of as many members, the first that some width brings to the budget."""
        space, generator = self.candidates(), torch.Generator().manual_seed(seed)
        for _ in range(DRAWS):
            codes = space.sample(self.config.options.members, generator)
            found = Structures(tuple(space.decode(code).members[0] for code in codes))
            with suppress(BudgetError):  # out of reach of every width
                if self._solution(found).matched:
                    break
        return found

    def candidates(self) -> StructureSpace:
        """See ``TrainingSearch``."""
        return StructureSpace(self.config.options.repeats, largest=self.config.options.largest)

    def before(self, domain: StructureSpace, done: int) -> None:
        """See ``TrainingSearch``: mutations become smaller."""
        domain.progress = done / self.config.options.evaluations

    def row(self, candidate: Structures) -> dict[str, Any]:
        """See ``TrainingSearch``."""
        modules = candidate.members[0].modules
        branches, repeats = sum(len(m.branches) for m in modules), sum(m.repeats for m in modules)
        return dict(branches=branches, repeats=repeats, structures=json.dumps(candidate.to_dict()))
