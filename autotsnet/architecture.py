"""Architectures as frozen values: JSON in and out, and a hash that names them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

FUSIONS = ("none", "concat", "fast_to_slow", "slow_to_fast", "both")
ATTENTIONS = ("none", "se", "nonlocal", "glore", "temporal")
STREAMS = ("slow", "fast")


class Architecture(ABC):
    """A point of a space: what a search finds, and what its family builds a network from.

    Attributes:
        argument: of the family's build function, that takes an architecture.
        scales: knobs of the family at which the network is the architecture itself; empty where it states no width.
    """

    argument: ClassVar[str]
    scales: ClassVar[Mapping[str, float]] = {}

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of ``to_dict``, and of its JSON.

        Raises:
            ValueError: the data is no architecture; the message names what is wrong.
        """

    def arguments(self) -> dict[str, Any]:
        """Keywords of the family's build function."""
        return {self.argument: self.to_dict()}

    @classmethod
    def of(cls, net: Mapping[str, Any]) -> Self | None:
        """Inverse of ``arguments``; None where a network's config names no architecture."""
        return cls.from_dict(net[cls.argument]) if net.get(cls.argument) else None

    @classmethod
    def given(cls, value: Self | dict | str | Path) -> Self:
        """An architecture as a config states it: the value, its dict form, or the path of its file."""
        if isinstance(value, dict):
            return cls.from_dict(value)
        return cls.load(value) if isinstance(value, (str, Path)) else value

    @property
    def hash(self) -> str:
        """Twelve hex digits of the content; equal architectures, equal hashes."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def save(self, path: str | Path) -> None:
        """Write readable JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is no architecture; the message names the file.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class MacroArchitecture:
    """What the search does not change.

    Attributes:
        frames: frames of the fast stream, T.
        crop: side of the square clip in pixels; only costs depend on it.
        alpha: the slow stream sees ``frames / alpha`` frames.
        stems: output channels of the slow and of the fast stem.
        strides: spatial stride of the first block of each block group.
        head: width of the hidden layer of the head.
        fusion_kernel: temporal kernel of the fast-to-slow fusion (SlowFast: 5 or 7).
    """

    frames: int
    crop: int
    alpha: int
    stems: tuple[int, int]
    strides: tuple[int, ...]
    head: int
    fusion_kernel: int = 5

    def __post_init__(self) -> None:
        if self.frames % self.alpha:
            raise ValueError(f"frames={self.frames} is no multiple of alpha={self.alpha}; the slow stream needs one")


@dataclass(frozen=True)
class BlockChoice:
    """One MBConv3D block: temporal kernel t, spatial kernel k, expansion e (of the output channels)."""

    t: int
    k: int
    e: float


@dataclass(frozen=True)
class GroupChoice:
    """One block group of one stream: output channels of all its blocks, the blocks, the attention at its end."""

    channels: int
    blocks: tuple[BlockChoice, ...]
    attention: str = "none"


@dataclass(frozen=True)
class TwoStreamArchitecture(Architecture):
    """A point of Auto-TSNet's space; with a class count it is all that ``autotsnet.models.TwoStreamNet`` needs.

    A stream that is ``None`` is absent (stage 1 of the search trains each stream alone).

    Attributes:
        macro: what is fixed.
        slow: block groups of the slow stream.
        fast: block groups of the fast stream.
        fusions: one of ``FUSIONS`` after the stem and after each block group but the last.
    """

    macro: MacroArchitecture
    slow: tuple[GroupChoice, ...] | None
    fast: tuple[GroupChoice, ...] | None
    fusions: tuple[str, ...]

    argument = "architecture"
    scales: ClassVar = {"width": 1.0, "expansion": 1.0}

    def __post_init__(self) -> None:
        groups = len(self.macro.strides)
        if self.slow is None and self.fast is None:
            raise ValueError("an architecture needs at least one stream, both are absent")
        if len(self.fusions) != groups:
            raise ValueError(
                f"{len(self.fusions)} fusions for {groups} positions (after the stem and each group but the last)"
            )
        for name, stream in (("slow", self.slow), ("fast", self.fast)):
            if stream is None:
                if set(self.fusions) != {"none"}:
                    raise ValueError(f"fusions {self.fusions} need both streams, but {name} is absent")
                continue
            if len(stream) != groups:
                raise ValueError(f"{name} has {len(stream)} block groups, the macro-architecture {groups}")
            for g, group in enumerate(stream):
                one_of(group.attention, ATTENTIONS, f"{name} group {g}: attention")
        for i, fusion in enumerate(self.fusions):
            one_of(fusion, FUSIONS, f"fusion {i}")

    def alone(self, stream: str) -> TwoStreamArchitecture:
        """The same architecture with one stream only, hence without fusion."""
        other = STREAMS[1 - STREAMS.index(stream)]
        return replace(self, **{other: None}, fusions=("none",) * len(self.fusions))

    def scaled(self, width: float, expansion: float = 1.0) -> TwoStreamArchitecture:
        """All channel counts times ``width`` (at least 1, rounded) and all expansions times ``expansion``."""

        def stream(groups):
            return groups and tuple(
                replace(
                    g,
                    channels=max(1, round(g.channels * width)),
                    blocks=tuple(replace(b, e=b.e * expansion) for b in g.blocks),
                )
                for g in groups
            )

        macro = replace(
            self.macro,
            stems=tuple(max(1, round(c * width)) for c in self.macro.stems),
            head=max(1, round(self.macro.head * width)),
        )
        return replace(self, macro=macro, slow=stream(self.slow), fast=stream(self.fast))

    def to_dict(self) -> dict:
        """See ``Architecture``."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: dict) -> TwoStreamArchitecture:
        """See ``Architecture``."""

        def stream(groups):
            return groups and tuple(
                GroupChoice(
                    g["channels"],
                    tuple(BlockChoice(b["t"], b["k"], float(b["e"])) for b in g["blocks"]),
                    g["attention"],
                )
                for g in groups
            )

        try:
            macro = {k: tuple(v) if isinstance(v, list) else v for k, v in data["macro"].items()}
            return cls(MacroArchitecture(**macro), stream(data["slow"]), stream(data["fast"]), tuple(data["fusions"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an architecture: {type(error).__name__} {error}") from error


def one_of(value: str, allowed: tuple[str, ...], what: str) -> None:
    """Raise a ValueError that lists the allowed values if the value is not one of them."""
    if value not in allowed:
        raise ValueError(f"{what} {value!r} is not one of {', '.join(allowed)}")
