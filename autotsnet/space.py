"""What a search asks of a space, and the registry to which other packages add theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autotsnet.plugins import OpenRegistry

SPACES = OpenRegistry("space", "spaces")


Blocks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Variable:
    """One coordinate of an encoded architecture.

    Attributes:
        name: ``slow.1.0.t``: stream, block group, block, variable; ``fusion.2``; ``slow.attention.1``.
        candidates: what a code indexes.
        stage: the stage of the progressive search that decides it.
        block: variables of the same block follow each other and are searched jointly in the fine phase.
    """

    name: str
    candidates: tuple
    stage: str
    block: str


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: in logs and journals.
        decides: it searches the variables whose ``stage`` is one of these.
        warmup: steps that only train shared weights, one uniformly drawn architecture each.
        steps: steps after that, with updates of the strategy.
        share: share of the budget that its architectures may cost.
        alone: the only part of the network that exists in this stage, by the space's name for it; None: all of it.
    """

    name: str
    decides: tuple[str, ...]
    warmup: int
    steps: int
    share: float = 1.0
    alone: str | None = None


class Domain(Protocol):
    """A source of architectures: all that random search and evolution need of a space."""

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """``num`` random architectures, LongTensor ``K M``."""
        ...

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A child of each architecture, ``K M``, changed in one place."""
        ...


def variable_counts(blocks: Blocks) -> Tensor:
    """Candidates of each variable, LongTensor ``M``."""
    return torch.tensor([count for block in blocks for count in block], dtype=torch.long)


@dataclass(frozen=True)
class Product:
    """The domain of all combinations of the candidates of M variables; what they mean does not matter.

    Attributes:
        blocks: candidate counts of the variables of each block.
    """

    blocks: Blocks

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """``num`` architectures drawn uniformly, LongTensor ``K M``."""
        counts = variable_counts(self.blocks)
        draw = torch.rand(num, len(counts), generator=generator, dtype=torch.float64)
        return (draw * counts).long().clamp(max=counts - 1)

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A copy of ``codes`` (``K M``), another candidate in one variable of each."""
        counts = variable_counts(self.blocks)
        codes, rows = codes.clone(), torch.arange(len(codes))
        mutable = (counts > 1).nonzero()[:, 0]
        variables = mutable[torch.randint(len(mutable), (len(codes),), generator=generator)]
        others = counts[variables] - 1
        shift = 1 + (torch.rand(len(codes), generator=generator) * others).long().clamp(max=others - 1)
        codes[rows, variables] = (codes[rows, variables] + shift) % counts[variables]
        return codes


class ProductSpace:
    """What follows from the variables of a space whose architectures are all combinations of their candidates.

    Attributes:
        name: in messages and records.
        variables: in the order of the code.
    """

    name: str
    variables: Sequence[Variable]

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each variable in the code."""
        return {v.name: i for i, v in enumerate(self.variables)}

    @cached_property
    def counts(self) -> Tensor:
        """Number of candidates of each variable, ``M``."""
        return torch.tensor([len(v.candidates) for v in self.variables])

    @property
    def size(self) -> int:
        """Number of architectures, exact."""
        return prod(len(v.candidates) for v in self.variables)

    def positions(self, *stages: str) -> list[int]:
        """Positions in the code of the variables that those stages decide (all stages when none is named)."""
        return [i for i, v in enumerate(self.variables) if not stages or v.stage in stages]

    def blocks(self, *stages: str) -> Blocks:
        """Candidate counts of ``positions(*stages)``, grouped by block: the form that the search engine takes."""
        groups: dict[str, list[int]] = {}
        for i in self.positions(*stages):
            variable = self.variables[i]
            groups.setdefault(variable.block, []).append(len(variable.candidates))
        return tuple(tuple(g) for g in groups.values())

    def sample(self, num: int, generator: torch.Generator | np.random.Generator) -> Tensor:
        """``num`` architectures drawn uniformly, ``K M``; recorded controls were drawn by numpy's generator."""
        if isinstance(generator, np.random.Generator):
            return torch.from_numpy(generator.integers(0, self.counts.numpy(), size=(num, len(self.counts))))
        return Product(self.blocks()).sample(num, generator)

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A copy of ``codes`` (``K M``), another candidate in one variable of each."""
        return Product(self.blocks()).mutate(codes, generator)

    def neighbours(self, code: Tensor) -> Tensor:
        """Every architecture that differs from ``code`` in exactly one variable, ``K M``."""
        rows = [(i, c) for i, n in enumerate(self.counts.tolist()) for c in range(n) if c != code[i]]
        out = code.repeat(len(rows), 1)
        variables, candidates = torch.tensor(rows).T
        out[torch.arange(len(rows)), variables] = candidates
        return out

    def values(self, code: Tensor) -> dict[str, Any]:
        """The candidate of each variable, by name, of a code ``M``.

        Raises:
            ValueError: wrong length, or a code out of range; the message names the variable.
        """
        if code.shape != self.counts.shape:
            raise ValueError(
                f"a code of space {self.name!r} has {len(self.counts)} entries, got shape {tuple(code.shape)}"
            )
        bad = ((code < 0) | (code >= self.counts)).nonzero()
        if len(bad):
            v = self.variables[bad[0]]
            raise ValueError(f"{v.name}={int(code[bad[0]])} is out of range, it has {len(v.candidates)} candidates")
        return {v.name: v.candidates[c] for v, c in zip(self.variables, code.tolist(), strict=True)}

    def code(self, values: Mapping[str, Any]) -> Tensor:
        """Inverse of ``values``, ``M``.

        Raises:
            ValueError: a variable is absent, or its value is no candidate; the message names it.
        """
        code = []
        for v in self.variables:
            if v.name not in values:
                raise ValueError(f"{v.name} is absent from the architecture")
            if values[v.name] not in v.candidates:
                raise ValueError(f"{v.name}={values[v.name]} is not a candidate of space {self.name!r}: {v.candidates}")
            code.append(v.candidates.index(values[v.name]))
        return torch.tensor(code)


class CostModel(Protocol):
    """Closed-form cost of a space's architectures."""

    def gmacs(self, codes: Tensor) -> Tensor:
        """GMACs per view, ``K``, of codes ``K M``."""
        ...

    def range(self) -> tuple[float, float]:
        """GMACs of the cheapest and of the most expensive architecture."""
        ...


class SharedWeights(nn.Module):
    """Base of supernets: ``forward(*clips, architecture)`` runs one subnet.

    A supernet whose subnets run on random channels while training overrides the first two methods.
    """

    def reseed(self, seed: int) -> None:
        """Draw what is random in the next step from this seed."""

    def prefix_windows(self) -> AbstractContextManager:
        """Run subnets on the channels of the found network, inside this context."""
        return nullcontext()

    def order(self, architectures: Sequence[Any]) -> Sequence[int]:
        """Their indices, those side by side that have most in common."""
        return range(len(architectures))

    def common_parts(self) -> AbstractContextManager:
        """Inside, subnets run on one batch of clips, without gradients: what they have in common may be kept."""
        return nullcontext()


class Space(Domain, Protocol):
    """What the search loop asks of a space.

    An architecture is a row of M int64 codes, one per variable; K of them are a LongTensor ``K M``. The stages before
    a variable's own run with its code 0.

    A registered space is built with the recipe's options, and with ``frames`` and ``crop``, the suite's T and H = W. It
    should be a dataclass: its fields are its identity, of another space its name and the recipe's options are.

    Attributes:
        name: in messages and records.
        variables: in the order of the code.
        counts: candidates of each variable, LongTensor ``M``.
    """

    name: str
    variables: Sequence[Variable]
    counts: Tensor

    def sample(self, num: int, generator: torch.Generator | np.random.Generator) -> Tensor:
        """``num`` architectures drawn uniformly, ``K M``."""
        ...

    def neighbours(self, code: Tensor) -> Tensor:
        """Every architecture that differs from ``code`` (``M``) in one variable, ``K M``."""
        ...

    def encode(self, architecture: Any) -> Tensor:
        """The code of an architecture, ``M``."""
        ...

    def decode(self, code: Tensor, alone: str | None = None) -> Any:
        """The architecture of a code, hashable and with a ``hash``; see ``Stage`` for ``alone``."""
        ...

    def cost(self, num_classes: int, alone: str | None = None) -> CostModel:
        """The cost of its architectures for N classes."""
        ...

    def static_model(self, architecture: Any, num_classes: int) -> nn.Module:
        """The stand-alone network of an architecture."""
        ...

    def supernet(self, num_classes: int) -> SharedWeights:
        """The shared weights; a recipe with ``fair`` passes ``fair=True`` on."""
        ...

    def example(self, batch: int = 1) -> Tensor:
        """A batch of clips of the size that the space is made for."""
        ...

    def blocks(self) -> Blocks:
        """Candidate counts of the variables, grouped by block."""
        ...

    def stages(self, options: Any, num_classes: int) -> tuple[Stage, ...]:
        """The stages of its search; ``options`` are those of the search loop."""
        ...


def space_of(space: Space | str | dict) -> Space:
    """The space itself, from its registered name or from its config ``dict(type=name, …)``.

    Raises:
        ValueError: no such space; the message lists the known ones.
    """
    if isinstance(space, str):
        space = dict(type=space)
    if not isinstance(space, dict):
        return space
    name = space.get("type")
    if not isinstance(name, str) or SPACES.get(name) is None:
        raise ValueError(f"unknown search space {name!r}; known: {', '.join(SPACES.module_dict)}")
    return SPACES.build(space)
