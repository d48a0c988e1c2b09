"""The Auto-X3D-style search space: one stream, searched directly in 3D, all four variables jointly.

Variables (arXiv 2112.04710): block type, filter number, expansion ratio, attention block. A group's filter number is
shared by its blocks, since their residuals need that; the other three are each block's own. Candidates are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor

from autotsnet.architecture import ATTENTIONS
from autotsnet.cost import Costs, attention_cost, block_cost, stem_cost
from autotsnet.inputs import RGB, example
from autotsnet.models import SuperNet
from autotsnet.models.x3d import (
    STEM_TEMPORAL_KERNEL,
    TYPES,
    AutoX3DNet,
    X3DArchitecture,
    X3DBlock,
    X3DGroup,
    X3DMacro,
    block_choice,
)
from autotsnet.space import SPACES, ProductSpace, Stage, Variable

STAGE = "joint"


@dataclass(frozen=True)
class X3DSpace(ProductSpace):
    """A macro-architecture and the candidates of its variables.

    The filter numbers of a group are an odd number N of equal steps, c, 2c, … Nc: with ``FairWindow`` and widths drawn
    uniformly, a step then trains each filter with probability (N+1)/2N, which is Auto-X3D's (3/5 of 5, 4/7 of 7).

    Attributes:
        name: the preset's name.
        macro: what is fixed.
        depths: blocks of each group.
        channels: filter numbers of each group.
        target: budget in GMACs per view that the preset is made for.
        types: block types, the one with the largest kernel last.
        expansions: of each block.
        attentions: after each block.
    """

    name: str
    macro: X3DMacro
    depths: tuple[int, ...]
    channels: tuple[tuple[int, ...], ...]
    target: float
    types: tuple[str, ...] = TYPES
    expansions: tuple[float, ...] = (1.0, 1.5, 2.25, 3.0)
    attentions: tuple[str, ...] = ATTENTIONS

    def __post_init__(self) -> None:
        """Check the filter numbers."""
        for g, widths in enumerate(self.channels):
            if len(widths) % 2 == 0 or {b - a for a, b in pairwise((0, *widths))} != {widths[0]}:
                raise ValueError(
                    f"space {self.name!r}: filter numbers {widths} of group {g} are not an odd number of equal steps "
                    "from 0; fair channel selection needs that"
                )

    def at(self, frames: int, crop: int) -> X3DSpace:
        """The same candidates on clips of another size; their costs differ, and so does the range of budgets."""
        return replace(self, macro=replace(self.macro, frames=frames, crop=crop))

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """All variables, in the order of the code: of each group the filter number, then its blocks."""
        return tuple(self._variables())

    def _variables(self) -> Iterator[Variable]:
        for g, (depth, channels) in enumerate(zip(self.depths, self.channels, strict=True)):
            yield Variable(f"{g}.c", channels, STAGE, f"{g}.c")
            for block in (f"{g}.{b}" for b in range(depth)):
                yield Variable(f"{block}.type", self.types, STAGE, block)
                yield Variable(f"{block}.e", self.expansions, STAGE, block)
                yield Variable(f"{block}.attention", self.attentions, STAGE, block)

    def decode(self, code: Tensor, alone: str | None = None) -> X3DArchitecture:
        """The architecture of a code ``M``; there is one stream, so ``alone`` is None.

        Raises:
            ValueError: wrong length, or a code out of range; the message names the variable.
        """
        values = self.values(code)
        groups = (
            X3DGroup(
                values[f"{g}.c"],
                tuple(X3DBlock(*(values[f"{g}.{b}.{v}"] for v in ("type", "e", "attention"))) for b in range(depth)),
            )
            for g, depth in enumerate(self.depths)
        )
        return X3DArchitecture(self.macro, tuple(groups))

    def encode(self, architecture: X3DArchitecture) -> Tensor:
        """The code of an architecture, ``M``.

        Raises:
            ValueError: the architecture does not fit this space; the message says which block and why.
        """
        if architecture.macro != self.macro:
            raise ValueError(
                f"macro-architecture {architecture.macro} is not that of space {self.name!r}: {self.macro}"
            )
        depths = tuple(len(group.blocks) for group in architecture.groups)
        if depths != self.depths:
            raise ValueError(f"groups of {depths} blocks, space {self.name!r} has {self.depths}")
        values: dict[str, object] = {}
        for g, group in enumerate(architecture.groups):
            values[f"{g}.c"] = group.channels
            for b, block in enumerate(group.blocks):
                values |= {f"{g}.{b}.{name}": value for name, value in vars(block).items()}
        return self.code(values)

    def cost(self, num_classes: int, alone: str | None = None) -> X3DCosts:
        """Closed-form costs."""
        return X3DCosts(self, num_classes)

    def static_model(self, architecture: X3DArchitecture, num_classes: int, **options: Any) -> AutoX3DNet:
        """The stand-alone network of an architecture; options are those of ``AutoX3DNet``."""
        return AutoX3DNet(architecture, num_classes, **options)

    def whole(self, num_classes: int, **options: Any) -> AutoX3DNet:
        """The largest static model, with every attention at every position."""
        largest = self.decode(self.counts - 1)
        return AutoX3DNet(largest, num_classes, attentions=self.attentions, **options)

    def supernet(self, num_classes: int, **options: Any) -> SuperNet:
        """The shared weights; options are those of ``SuperNet``."""
        return SuperNet(self, num_classes, **options)

    def example(self, batch: int = 1) -> Tensor:
        """Clips ``B 3 T H W``."""
        return example(RGB, self.macro.frames, self.macro.crop, batch, "cpu")[0]

    def stages(self, options: Any, num_classes: int) -> tuple[Stage, ...]:
        """One stage that decides everything, as long as those of both streams in the two-stream space.

        It draws more architectures a step, as all is open at once; so the searches judge about as many in all.
        """
        return (Stage(STAGE, (STAGE,), 2 * options.warmup, 2 * options.steps),)


class X3DCosts(Costs):
    """GMACs and parameters of an Auto-X3D-style space's architectures.

    Args:
        space: the space.
        num_classes: N of the classifier.
    """

    def __init__(self, space: X3DSpace, num_classes: int) -> None:
        super().__init__(space)
        macro = space.macro
        side, reads = ceil(macro.crop / 2), []  # reads: the variable of the width before a group; the stem's is fixed
        self._constant += torch.tensor(stem_cost(macro.stem, STEM_TEMPORAL_KERNEL, macro.frames, side))
        for g, (depth, stride) in enumerate(zip(space.depths, macro.strides, strict=True)):
            after, c = ceil(side / stride), f"{g}.c"
            for b in range(depth):
                name, first = f"{g}.{b}", b == 0
                block = partial(self._block, stem=macro.stem, before=side if first else after, after=after)
                self._add([*(reads if first else [c]), c, f"{name}.type", f"{name}.e"], block)
                self._add([f"{name}.attention", c], partial(attention_cost, frames=macro.frames, side=after))
            side, reads = after, [c]
        self._add(reads, lambda c: (c * macro.head,) * 2)
        head = macro.head * num_classes
        self._constant += torch.tensor((head, macro.head + head + num_classes))

    def _block(self, *values: Any, stem: int, before: int, after: int) -> tuple[int, int]:
        c_in, c, kind, e = values if len(values) == 4 else (stem, *values)
        return block_cost(c_in, c, block_choice(kind, e), self.space.macro.frames, before, after)


# S, M, L: clips, depths and stem of X3D-S, -M, -L (arXiv 2004.04730), and their GMACs as targets; the middle filter
# number of each group is X3D's width. tiny is for CPUs.
_CHANNELS = tuple(tuple(c * i // 4 for i in range(1, 8)) for c in (24, 48, 96, 192))
_X3D = dict(stem=24, strides=(2, 2, 2, 2), head=2048)
X3D_PRESETS = {
    found.name: found
    for found in (
        X3DSpace(
            "x3d_tiny",
            X3DMacro(frames=8, crop=64, stem=16, strides=(2, 2, 2), head=128),
            (1, 2, 2),
            tuple(tuple(c * i for i in range(1, 6)) for c in (8, 16, 32)),
            target=0.03,
            types=TYPES[:4],
        ),
        X3DSpace("x3d_s", X3DMacro(frames=13, crop=160, **_X3D), (3, 5, 11, 7), _CHANNELS, target=1.96),
        X3DSpace("x3d_m", X3DMacro(frames=16, crop=224, **_X3D), (3, 5, 11, 7), _CHANNELS, target=4.73),
        X3DSpace("x3d_l", X3DMacro(frames=16, crop=312, **_X3D), (5, 10, 25, 15), _CHANNELS, target=18.37),
    )
}


def _register(name: str) -> None:
    @SPACES.register_module(name=name)
    def build(frames: int | None = None, crop: int | None = None) -> X3DSpace:
        macro = X3D_PRESETS[name].macro
        return X3D_PRESETS[name].at(frames or macro.frames, crop or macro.crop)


for _name in X3D_PRESETS:
    _register(_name)
