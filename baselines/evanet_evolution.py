"""Random EvaNet structures, their mutations, and the choice of diverse winners.

The authors' code of this part is not public. Stated by the paper (arXiv 1811.10636): modules evolve in their layer
types, temporal lengths, parallel branches and repeats; mutations are large and diverse early, limited later; the result
is an ensemble of diverse winners. Everything else here is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from autotsnet.space import Product, ProductSpace, Variable
from baselines.evanet import CONVS, SINGLE, TIMES, WIDTHS, Module, Structure, Structures, layers_of

KINDS = ("none", SINGLE, "max", "conv", "conv-conv")
STAGE = "modules"
FITTEST = 16  # structures that may become members
TRIES = 1000  # mutations until a structure differs: most variables of absent branches change nothing


class StructureSpace(ProductSpace):
    """The structures as a domain of ``autotsnet.search``'s strategies: a fixed number of places for branches.

    Args:
        repeats: candidates of the repeats of a module.
        places: for branches of a module, each of which may be empty; the published networks have up to six.
        largest: variables that a child changes at the start of the evolution; one at its end.
    """

    name = "EvaNet modules"

    def __init__(self, repeats: Sequence[int] = (1, 2, 3, 4, 5, 6), places: int = 6, largest: int = 12) -> None:
        self.repeats, self.places, self.largest = tuple(repeats), places, largest
        self.progress = 0.0  # share of the evolution that is over

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Of the stem, of the pools, then of each module: repeats, and of each place its kind and its layers."""
        return tuple(self._variables())

    def _variables(self) -> Iterator[Variable]:
        def variable(name: str, candidates: tuple) -> Variable:
            return Variable(name, candidates, STAGE, name)

        yield variable("stem.op", CONVS)
        yield variable("stem.time", TIMES)
        yield from (variable(f"pool.{i}", TIMES) for i in range(3))
        for m in range(len(WIDTHS)):
            yield variable(f"{m}.repeats", self.repeats)
            for p in (f"{m}.{i}" for i in range(self.places)):
                yield variable(f"{p}.kind", KINDS)
                for layer in (0, 1):
                    yield variable(f"{p}.{layer}.op", CONVS)
                    yield variable(f"{p}.{layer}.time", TIMES)

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A child of each structure, ``K M``: another structure, of many changes early and few later."""
        changes = max(1, round(self.largest * (1 - self.progress)))
        return torch.stack([self._child(code, changes, generator) for code in codes])

    def _child(self, code: Tensor, changes: int, generator: torch.Generator) -> Tensor:
        domain, parent, child = Product(self.blocks()), self.decode(code), code
        for _ in range(TRIES):
            before = self.decode(child)
            child = domain.mutate(child[None], generator)[0]
            changes -= self.decode(child) != before  # what changes nothing does not count
            if changes <= 0 and self.decode(child) != parent:
                break
        return child

    def decode(self, code: Tensor) -> Structures:
        """The structure of a code ``M``, as the only member; a module without branches has a single one."""
        values = self.values(code)
        modules = []
        for m in range(len(WIDTHS)):
            branches = [self._branch(values, f"{m}.{i}") for i in range(self.places)]
            modules.append(Module(values[f"{m}.repeats"], tuple(b for b in branches if b) or (SINGLE,)))
        pools = tuple(values[f"pool.{i}"] for i in range(3))
        return Structures((Structure(f"{values['stem.op']}-{values['stem.time']}", pools, tuple(modules)),))

    @staticmethod
    def _branch(values: dict[str, Any], place: str) -> str:
        kind = values[f"{place}.kind"]
        layers = [f"{values[f'{place}.{i}.op']}-{values[f'{place}.{i}.time']}" for i in (0, 1)]
        pool = f"max-{values[f'{place}.0.time']}"
        return {"none": "", SINGLE: SINGLE, "max": pool, "conv": layers[0], "conv-conv": " ".join(layers)}[kind]

    def encode(self, structures: Structures) -> Tensor:
        """A code of the only member, ``M``; what a structure leaves open is the first candidate.

        Raises:
            ValueError: it is not in this space; the message names the variable.
        """
        (structure,) = structures.members
        values = {v.name: v.candidates[0] for v in self.variables}
        values |= {f"pool.{i}": time for i, time in enumerate(structure.pools)}
        ((values["stem.op"], values["stem.time"]),) = layers_of(structure.stem)
        for m, module in enumerate(structure.modules):
            values[f"{m}.repeats"] = module.repeats
            for i, branch in enumerate(module.branches):
                layers = layers_of(branch)
                pool = branch.startswith("max")
                values[f"{m}.{i}.kind"] = "max" if pool else (SINGLE, "conv", "conv-conv")[len(layers)]
                for number, (op, time) in enumerate(layers):
                    values[f"{m}.{i}.{number}.time"] = time
                    if not pool:
                        values[f"{m}.{i}.{number}.op"] = op
        return self.code(values)


def distance(a: Structure, b: Structure) -> float:
    """The share of their branches, repeats, pools and stems that two structures do not have in common, 0 to 1."""
    ours, theirs = (
        Counter(
            [("stem", s.stem), *(("pool", *p) for p in enumerate(s.pools))]
            + [(i, branch) for i, m in enumerate(s.modules) for branch in (m.repeats, *m.branches)]
        )
        for s in (a, b)
    )
    return 1 - (ours & theirs).total() / (ours | theirs).total()


def winners(judged: Sequence[tuple[Structures, float]], number: int, least: float) -> list[Structures]:
    """Ensembles of the fittest structures, the best first: of those that differ before those of any.

    Args:
        judged: structures of one member and their fitness; not a number: it failed.
        number: of members; fewer where fewer are alive.
        least: distance of any two members that differ.
    """
    alive = {found.members[0]: fitness for found, fitness in judged if fitness == fitness}
    ranked = sorted(alive, key=alive.get, reverse=True)[:FITTEST]
    choices = combinations(range(len(ranked)), min(number, len(ranked)))

    def order(choice: tuple[int, ...]) -> tuple[bool, int]:
        alike = any(distance(ranked[a], ranked[b]) < least for a, b in combinations(choice, 2))
        return alike, sum(choice)

    return [Structures(tuple(ranked[i] for i in choice)) for choice in sorted(choices, key=order)]
