"""The search space: a macro-architecture and the candidates of the six variables.

The six variables (arXiv 2108.12957, figure 2): temporal kernel t, spatial kernel k, output channels C and expansion e
of the MBConv3D blocks, the type of each TS-Fusion block, the type of each attention block. The paper's candidates are
not public; those of the presets are ours, see autotsnet/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from autotsnet.architecture import (
    ATTENTIONS,
    FUSIONS,
    STREAMS,
    BlockChoice,
    GroupChoice,
    MacroArchitecture,
    TwoStreamArchitecture,
)

STAGES = ("slow", "fast", "fusion", "attention")


@dataclass(frozen=True)
class GroupSpace:
    """Candidates of one block group of one stream; C is shared by its blocks, t, k and e are each block's own."""

    depth: int
    channels: tuple[int, ...]
    t: tuple[int, ...] = (1, 3, 5)
    k: tuple[int, ...] = (3, 5)
    e: tuple[float, ...] = (1.0, 1.5, 2.25, 3.0)


@dataclass(frozen=True)
class Variable:
    """One coordinate of an encoded architecture.

    Attributes:
        name: ``slow.1.0.t``: stream, block group, block, variable; ``fusion.2``; ``slow.attention.1``.
        candidates: what a code indexes.
        stage: the stage of the progressive search that decides it, one of ``STAGES``.
        block: variables of the same block follow each other and are searched jointly in the fine phase.
    """

    name: str
    candidates: tuple
    stage: str
    block: str


@dataclass(frozen=True)
class SearchSpace:
    """A finite product of candidates over a macro-architecture.

    An encoded architecture is a row of int64 codes, one per entry of ``variables``.

    Attributes:
        name: the preset's name.
        macro: what is fixed.
        slow: block groups of the slow stream.
        fast: block groups of the fast stream.
        target: budget in GMACs per view that the preset is made for.
        fusions: candidates at each fusion position.
        attentions: candidates at each attention position.
    """

    name: str
    macro: MacroArchitecture
    slow: tuple[GroupSpace, ...]
    fast: tuple[GroupSpace, ...]
    target: float
    fusions: tuple[str, ...] = FUSIONS
    attentions: tuple[str, ...] = ATTENTIONS

    def __post_init__(self) -> None:
        """Check the types: a stage before theirs is searched without any, which is candidate 0."""
        for name in ("fusions", "attentions"):
            if getattr(self, name)[:1] != ("none",):
                raise ValueError(f"space {self.name!r}: the first of {name} must be 'none', got {getattr(self, name)}")

    def at(self, frames: int, crop: int) -> SearchSpace:
        """The same candidates on clips of another size; costs change, and with them which budgets are in range."""
        return replace(self, macro=replace(self.macro, frames=frames, crop=crop))

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """All variables, in the order of the code: slow stream, fast stream, fusions, attentions."""
        out = []
        for stream in STREAMS:
            for g, group in enumerate(getattr(self, stream)):
                name = f"{stream}.{g}"
                out.append(Variable(f"{name}.c", group.channels, stream, f"{name}.c"))
                for b in range(group.depth):
                    for v in "tke":
                        out.append(Variable(f"{name}.{b}.{v}", getattr(group, v), stream, f"{name}.{b}"))
        positions = range(len(self.macro.strides))
        out += [Variable(f"fusion.{g}", self.fusions, "fusion", f"fusion.{g}") for g in positions]
        for stream in STREAMS:
            names = [f"{stream}.attention.{g}" for g in positions]
            out += [Variable(n, self.attentions, "attention", n) for n in names]
        return tuple(out)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each variable in the code."""
        return {v.name: i for i, v in enumerate(self.variables)}

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of candidates of each variable."""
        return np.array([len(v.candidates) for v in self.variables])

    @property
    def size(self) -> int:
        """Number of architectures, exact."""
        return prod(len(v.candidates) for v in self.variables)

    def positions(self, *stages: str) -> list[int]:
        """Positions in the code of the variables that those stages decide (all stages when none is named)."""
        return [i for i, v in enumerate(self.variables) if not stages or v.stage in stages]

    def blocks(self, *stages: str) -> tuple[tuple[int, ...], ...]:
        """Candidate counts of ``positions(*stages)``, grouped by block: the form that the search engine takes."""
        groups: dict[str, list[int]] = {}
        for i in self.positions(*stages):
            variable = self.variables[i]
            groups.setdefault(variable.block, []).append(len(variable.candidates))
        return tuple(tuple(g) for g in groups.values())

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n architectures drawn uniformly, n × variables."""
        return rng.integers(0, self.counts, size=(n, len(self.counts)))

    def neighbours(self, code: np.ndarray) -> np.ndarray:
        """Every architecture that differs from ``code`` in exactly one variable."""
        rows = [(i, c) for i, n in enumerate(self.counts) for c in range(n) if c != code[i]]
        out = np.repeat(np.asarray(code)[None], len(rows), axis=0)
        for row, (i, c) in zip(out, rows, strict=True):
            row[i] = c
        return out

    def extreme(self, largest: bool) -> TwoStreamArchitecture:
        """The architecture with the first or the last candidate of every ordered variable, without types."""
        code = (self.counts - 1) * largest
        code[self.positions("fusion", "attention")] = 0
        return self.decode(code)

    def decode(self, code: np.ndarray) -> TwoStreamArchitecture:
        """The architecture of a code.

        Raises:
            ValueError: wrong length, or a code out of range; the message names the variable.
        """
        code = np.asarray(code)
        if code.shape != self.counts.shape:
            raise ValueError(f"a code of space {self.name!r} has {len(self.counts)} entries, got shape {code.shape}")
        bad = np.flatnonzero((code < 0) | (code >= self.counts))
        if bad.size:
            v = self.variables[bad[0]]
            raise ValueError(f"{v.name}={code[bad[0]]} is out of range, it has {len(v.candidates)} candidates")
        values = {v.name: v.candidates[c] for v, c in zip(self.variables, code.tolist(), strict=True)}

        def groups(stream: str) -> Iterator[GroupChoice]:
            for g, group in enumerate(getattr(self, stream)):
                name = f"{stream}.{g}"
                blocks = (BlockChoice(*(values[f"{name}.{b}.{v}"] for v in "tke")) for b in range(group.depth))
                yield GroupChoice(values[f"{name}.c"], tuple(blocks), values[f"{stream}.attention.{g}"])

        fusions = tuple(values[f"fusion.{g}"] for g in range(len(self.macro.strides)))
        return TwoStreamArchitecture(self.macro, tuple(groups("slow")), tuple(groups("fast")), fusions)

    def encode(self, architecture: TwoStreamArchitecture) -> np.ndarray:
        """The code of an architecture.

        Raises:
            ValueError: the architecture does not fit this space; the message says which block and why.
        """
        if architecture.macro != self.macro:
            raise ValueError(
                f"macro-architecture {architecture.macro} is not that of space {self.name!r}: {self.macro}"
            )
        values: dict[str, object] = {f"fusion.{g}": f for g, f in enumerate(architecture.fusions)}
        for stream in STREAMS:
            for g, (group, space) in enumerate(
                zip(getattr(architecture, stream) or (), getattr(self, stream), strict=False)
            ):
                name = f"{stream}.{g}"
                if len(group.blocks) != space.depth:
                    raise ValueError(f"{name} has {len(group.blocks)} blocks, space {self.name!r} has {space.depth}")
                values[f"{name}.c"] = group.channels
                values[f"{stream}.attention.{g}"] = group.attention
                for b, block in enumerate(group.blocks):
                    values |= {f"{name}.{b}.{v}": getattr(block, v) for v in "tke"}
        code = []
        for v in self.variables:
            if v.name not in values:
                raise ValueError(f"{v.name} is absent from the architecture")
            if values[v.name] not in v.candidates:
                raise ValueError(f"{v.name}={values[v.name]} is not a candidate of space {self.name!r}: {v.candidates}")
            code.append(v.candidates.index(values[v.name]))
        return np.array(code)


def _groups(
    depths: tuple[int, ...], *channels: tuple[int, ...], t: tuple[int, ...] = (1, 3, 5)
) -> tuple[GroupSpace, ...]:
    return tuple(GroupSpace(d, c, t=t) for d, c in zip(depths, channels, strict=True))


# S, M, L: crops and depths of X3D-S, -M, -L (arXiv 2004.04730); targets: X3D's S and M, and the 19.4 GMACs at which
# Auto-TSNet-L's "nearly 11 times fewer FLOPs" than SlowFast 16×8 R101 (213) arrives. Widths are ours, chosen so that
# each space brackets its target with room; tiny is for CPUs.
PRESETS = {
    space.name: space
    for space in (
        SearchSpace(
            "tiny",
            MacroArchitecture(frames=8, crop=64, alpha=4, stems=(16, 8), strides=(2, 2, 2), head=128),
            slow=_groups((1, 2, 2), (16, 24, 32), (32, 48, 64), (64, 96, 128), t=(1, 3)),
            fast=_groups((1, 2, 2), (8, 12, 16), (16, 24, 32), (32, 48, 64)),
            target=0.03,
        ),
        SearchSpace(
            "s",
            MacroArchitecture(frames=16, crop=160, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            slow=_groups((3, 5, 11, 7), (24, 32, 40, 48), (48, 64, 80, 96), (96, 128, 160, 192), (160, 224, 288, 352)),
            fast=_groups((3, 5, 11, 7), (8, 12, 16, 24), (16, 24, 32, 48), (32, 48, 64, 96), (64, 96, 128, 192)),
            target=2.0,
        ),
        SearchSpace(
            "m",
            MacroArchitecture(frames=16, crop=224, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            slow=_groups((3, 5, 11, 7), (24, 32, 40, 48), (48, 64, 80, 96), (96, 128, 160, 192), (160, 224, 288, 352)),
            fast=_groups((3, 5, 11, 7), (8, 12, 16, 24), (16, 24, 32, 48), (32, 48, 64, 96), (64, 96, 128, 192)),
            target=4.7,
        ),
        SearchSpace(
            "l",
            MacroArchitecture(frames=16, crop=312, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            slow=_groups(
                (5, 10, 25, 15),
                (24, 32, 48, 64),
                (48, 64, 96, 128),
                (96, 128, 192, 256),
                (192, 256, 320, 384),
            ),
            fast=_groups((5, 10, 25, 15), (8, 16, 24, 32), (16, 32, 48, 64), (32, 64, 96, 128), (64, 96, 128, 192)),
            target=19.4,
        ),
    )
}


def space_of(space: SearchSpace | str | dict) -> SearchSpace:
    """A space by itself, by its name or by its config ``dict(type=name, frames=…, crop=…)``.

    Raises:
        ValueError: no such space; the message lists those that there are.
    """
    if isinstance(space, str):
        return preset(space)
    if not isinstance(space, dict):
        return space
    found = preset(space["type"])
    return found.at(space.get("frames", found.macro.frames), space.get("crop", found.macro.crop))


def preset(name: str) -> SearchSpace:
    """The preset of that name.

    Raises:
        ValueError: no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown search space {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
