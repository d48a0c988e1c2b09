"""Search of EvaNet's modules by evolution; what is found is an ensemble of diverse winners at the budget."""

from __future__ import annotations

import json
from typing import Any

import torch

from baselines.evanet import Structures
from baselines.evanet_evolution import StructureSpace, winners
from reproduce.search.method import METHODS
from reproduce.search.trainings import TrainingSearch

DRAWS = 20  # random ensembles, or of winners, until one can be brought to the budget


@METHODS.register_module(name="evanet")
class EvaNetSearch(TrainingSearch):
    """Evolution of modules, or random ones; each candidate is trained alone, the winners share the budget."""

    family = "evanet"
    space_name = StructureSpace.name

    def chosen(self, judged: list[tuple[Structures, float]], best: Structures) -> Structures:
        """See ``TrainingSearch``: the fittest ensemble that some width brings to the budget."""
        ensembles = winners(judged, self.config.options.members, self.config.options.distance)
        return next((e for e in ensembles[:DRAWS] if self._solution(e).matched), ensembles[0])

    def draw(self, seed: int) -> Structures:
        """An ensemble of random structures, of as many members, the first that some width brings to the budget."""
        space, generator = self.candidates(), torch.Generator().manual_seed(seed)
        codes = (space.sample(self.config.options.members, generator) for _ in range(DRAWS))
        return self.first_at_budget(Structures(tuple(space.decode(c).members[0] for c in some)) for some in codes)

    def candidates(self) -> StructureSpace:
        """See ``TrainingSearch``."""
        return StructureSpace(self.config.options.repeats, largest=self.config.options.largest)

    def before(self, domain: StructureSpace, done: int) -> None:
        """See ``TrainingSearch``: mutations become smaller."""
        domain.progress = done / self.config.options.evaluations

    def row(self, candidate: Structures, fitness: float, code: list[int], cost: float) -> dict[str, Any]:
        """See ``TrainingSearch``."""
        modules = candidate.members[0].modules
        branches, repeats = sum(len(m.branches) for m in modules), sum(m.repeats for m in modules)
        shape = dict(branches=branches, repeats=repeats, structures=json.dumps(candidate.to_dict()))
        return dict(log_likelihood=fitness, **shape)
