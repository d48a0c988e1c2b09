"""Auto-X3D-style networks: one stream of MBConv3D blocks, an attention position after each.

Auto-X3D (arXiv 2112.04710) searches block type, filter number, expansion ratio and attention block jointly, directly in
3D. Its candidates, macro-architecture and found networks are not public: all of these are ours, chosen so that only the
second stream sets this space and the two-stream space apart; see autotsnet/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from autotsnet.architecture import ATTENTIONS, Architecture, BlockChoice, one_of
from autotsnet.layers.attention import Attention
from autotsnet.layers.elastic import Channels, Linear
from autotsnet.layers.mbconv3d import MBConv3D
from autotsnet.models.families import KNOBS
from autotsnet.models.two_stream import Part, Stem, new
from autotsnet.registry import MODELS, register_family

TYPES = tuple(f"{t}x{k}x{k}" for t in (1, 3, 5) for k in (3, 5))
STEM_TEMPORAL_KERNEL = 5  # X3D's stem


@dataclass(frozen=True)
class X3DMacro:
    """What the search does not change.

    Attributes:
        frames: frames of a clip, T; only costs depend on it.
        crop: side of the square clip in pixels; only costs depend on it.
        stem: output channels of the stem.
        strides: spatial stride of the first block of each block group.
        head: width of the hidden layer of the head.
    """

    frames: int
    crop: int
    stem: int
    strides: tuple[int, ...]
    head: int


@dataclass(frozen=True)
class X3DBlock:
    """One MBConv3D block: its type, which is its depthwise kernel, expansion e, and the attention after it."""

    type: str
    e: float
    attention: str = "none"

    @property
    def choice(self) -> BlockChoice:
        """Its t, k and e."""
        return block_choice(self.type, self.e)


def block_choice(kind: str, e: float) -> BlockChoice:
    """A block type and an expansion as t, k and e."""
    t, k, _ = map(int, kind.split("x"))
    return BlockChoice(t, k, e)


@dataclass(frozen=True)
class X3DGroup:
    """One block group: the filter number of all its blocks, and the blocks."""

    channels: int
    blocks: tuple[X3DBlock, ...]


@dataclass(frozen=True)
class X3DArchitecture(Architecture):
    """A point of the Auto-X3D-style space.

    Attributes:
        macro: what is fixed.
        groups: the block groups, one per stride of ``macro``.
    """

    macro: X3DMacro
    groups: tuple[X3DGroup, ...]

    argument = "architecture"
    scales: ClassVar = {"width": 1.0, "expansion": 1.0}

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.macro.strides):
            raise ValueError(f"{len(self.groups)} block groups for {len(self.macro.strides)} strides")
        for g, group in enumerate(self.groups):
            for b, block in enumerate(group.blocks):
                one_of(block.type, TYPES, f"group {g}, block {b}: type")
                one_of(block.attention, ATTENTIONS, f"group {g}, block {b}: attention")

    def scaled(self, width: float, expansion: float = 1.0) -> X3DArchitecture:
        """All channel counts times ``width`` (at least 1, rounded) and all expansions times ``expansion``."""

        def wide(channels: int) -> int:
            return max(1, round(channels * width))

        groups = (
            X3DGroup(wide(g.channels), tuple(replace(b, e=b.e * expansion) for b in g.blocks)) for g in self.groups
        )
        macro = replace(self.macro, stem=wide(self.macro.stem), head=wide(self.macro.head))
        return X3DArchitecture(macro, tuple(groups))

    def to_dict(self) -> dict:
        """See ``Architecture``."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: dict) -> X3DArchitecture:
        """See ``Architecture``."""
        try:
            macro = X3DMacro(**{**data["macro"], "strides": tuple(data["macro"]["strides"])})
            groups = (
                X3DGroup(g["channels"], tuple(X3DBlock(b["type"], float(b["e"]), b["attention"]) for b in g["blocks"]))
                for g in data["groups"]
            )
            return cls(macro, tuple(groups))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an architecture: {type(error).__name__} {error}") from error


@MODELS.register_module()
class AutoX3DNet(nn.Module):
    """The Auto-X3D-style network of one architecture::

        clip ─ stem ─ block ─ attention ─ block ─ attention ─ … ─ pool ─ hidden ─ classes

    Args:
        architecture: what to build: the value, its dict form, or a file of ``save``.
        num_classes: N.
        dropout: before the classifier (Auto-X3D: 0.5).
        attentions: the types to hold weights for at every position; default: the architecture's.
        part: makes a part of a class and its arguments; a supernet makes equal parts once.
    """

    head = ("hidden", "dropout", "classifier")
    done: dict[int, tuple] | None = None  # of the last subnet on the same clip: by level, path and output

    def __init__(
        self,
        architecture: X3DArchitecture | dict | str | Path,
        num_classes: int,
        *,
        dropout: float = 0.5,
        attentions: Sequence[str] | None = None,
        part: Part = new,
    ) -> None:
        super().__init__()
        self.architecture = architecture = X3DArchitecture.given(architecture)
        macro = architecture.macro
        at = Channels("stem", macro.stem)
        self.stem = part(Stem, at, STEM_TEMPORAL_KERNEL)
        self.groups = nn.ModuleList()
        for g, (group, stride) in enumerate(zip(architecture.groups, macro.strides, strict=True)):
            ins, at, parts = at, Channels(f"{g}", group.channels), []
            for b, block in enumerate(group.blocks):
                name = f"{g}.{b}"
                first = b == 0
                parts += [
                    part(
                        MBConv3D,
                        (ins if first else at,),
                        at,
                        block.choice,
                        stride=stride if first else 1,
                        name=name,
                    ),
                    part(Attention, tuple(attentions or (block.attention,)), at, f"{name}.attention"),
                ]
            self.groups.append(nn.Sequential(*parts))
        hidden = Channels("head", macro.head)
        self.hidden = Linear(at, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden, Channels("classes", num_classes))

    def forward(self, clip: Tensor) -> Tensor:
        """Clips B 3 T H W, normalised -> logits B N."""
        pooled = self.features(clip).mean((2, 3, 4))
        return self.classifier(self.dropout(self.hidden(pooled).relu()))

    def features(self, clip: Tensor) -> Tensor:
        """Clips B 3 T H W -> B C T H' W', whose mean is what the head gets."""
        x = clip
        for level, path in enumerate(self.paths()):
            if self.done is None:
                x = path[-1](x)
                continue
            if self.done.get(level, (None,))[0] != path:
                self.done[level] = path, path[-1](x)
            x = self.done[level][1]
        return x

    def paths(self) -> list[tuple[nn.Module, ...]]:
        """What settles the output of the stem and of each block and attention: all parts up to there."""
        return [*accumulate([(self.stem,), *((part,) for part in chain(*self.groups))])]


@register_family(*KNOBS, architecture=X3DArchitecture)
def auto_x3d(
    *,
    num_classes: int,
    architecture: X3DArchitecture | dict | str | Path,
    frames: int | None = None,
    crop: int | None = None,
    width: float = 1.0,
    expansion: float = 1.0,
    dropout: float = 0.5,
) -> nn.Module:
    """The static network of an Auto-X3D-style architecture, scaled.

    Args:
        num_classes: N.
        architecture: the value, its dict form, or the path of its file.
        frames: frames per clip; any number will do.
        crop: side of the test crop in pixels; any value, the network is convolutional.
        width: factor on all channel counts; the solver uses it to meet a budget.
        expansion: factor on all expansions; the solver uses it for the last percent.
        dropout: before the classifier.
    """
    return AutoX3DNet(X3DArchitecture.given(architecture).scaled(width, expansion), num_classes, dropout=dropout)
