"""The two-stream search space: a macro-architecture and the candidates of the six variables.

The six variables (arXiv 2108.12957, figure 2): temporal kernel t, spatial kernel k, output channels C and expansion e
of the MBConv3D blocks, the type of each TS-Fusion block, the type of each attention block. The paper's candidates are
not public; those of the presets are ours, see autotsnet/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from autotsnet.architecture import (
    STREAMS,
    BlockChoice,
    GroupChoice,
    TwoStreamArchitecture,
)
from autotsnet.cost import CostModel
from autotsnet.inputs import RGB, example
from autotsnet.layouts import LAYOUTS, Layout, layout
from autotsnet.models import SuperNet, TwoStreamNet
from autotsnet.space import SPACES, ProductSpace, Stage, Variable

STAGES = ("slow", "fast", "fusion", "attention")


@dataclass(frozen=True)
class SearchSpace(ProductSpace, Layout):
    """A finite product of candidates over a macro-architecture.

    An encoded architecture is a row of int64 codes, one per entry of ``variables``.
    """

    def at(self, frames: int, crop: int) -> SearchSpace:
        """The same candidates on clips of another size; their costs differ, and so does the range of budgets."""
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

    def extreme(self, largest: bool) -> TwoStreamArchitecture:
        """The architecture of all first or all last candidates, without fusion and attention."""
        code = (self.counts - 1) * largest
        code[self.positions("fusion", "attention")] = 0
        return self.decode(code)

    def cost(self, num_classes: int, alone: str | None = None) -> CostModel:
        """Closed-form costs; of one stream only, if ``alone`` names it."""
        return CostModel(self, num_classes, alone)

    def static_model(self, architecture: TwoStreamArchitecture, num_classes: int, **options: Any) -> TwoStreamNet:
        """The stand-alone network of an architecture; options are those of ``TwoStreamNet``."""
        return TwoStreamNet(architecture, num_classes, **options)

    def whole(self, num_classes: int, **options: Any) -> TwoStreamNet:
        """The largest static model, with every type at every position."""
        largest = self.extreme(largest=True)
        return TwoStreamNet(largest, num_classes, fusions=self.fusions, attentions=self.attentions, **options)

    def supernet(self, num_classes: int, **options: Any) -> SuperNet:
        """The shared weights; options are those of ``SuperNet``."""
        return SuperNet(self, num_classes, **options)

    def example(self, batch: int = 1) -> Tensor:
        """Clips ``B 3 T H W``."""
        return example(RGB, self.macro.frames, self.macro.crop, batch, "cpu")[0]

    def stages(self, options: Any, num_classes: int) -> tuple[Stage, ...]:
        """Each stream alone, then fusion, then attention; or everything at once, for as many steps.

        The streams share ``stream_share`` of the budget in proportion to their median costs in the space.

        Args:
            options: a ``SearchOptions``.
            num_classes: N.
        """
        if not options.progressive:
            warmup, steps = 3 * options.warmup, 2 * (options.steps + options.type_steps)
            return (Stage("joint", STAGES, warmup, steps),)
        codes = self.sample(2048, np.random.default_rng(0))
        medians = {s: median(self.cost(num_classes, s).gmacs(codes).tolist()) for s in STREAMS}
        share = {s: options.stream_share * m / sum(medians.values()) for s, m in medians.items()}
        return (
            *(Stage(s, (s,), options.warmup, options.steps, share[s], alone=s) for s in STREAMS),
            Stage("fusion", ("fusion",), options.warmup // 2, options.type_steps, options.fusion_share),
            Stage("attention", ("attention",), options.warmup // 2, options.type_steps),
        )

    def decode(self, code: Tensor, alone: str | None = None) -> TwoStreamArchitecture:
        """The architecture of a code, or one stream of it.

        Raises:
            ValueError: wrong length, or a code out of range; the message names the variable.
        """
        values = self.values(code)

        def groups(stream: str) -> Iterator[GroupChoice]:
            for g, group in enumerate(getattr(self, stream)):
                name = f"{stream}.{g}"
                blocks = (BlockChoice(*(values[f"{name}.{b}.{v}"] for v in "tke")) for b in range(group.depth))
                yield GroupChoice(values[f"{name}.c"], tuple(blocks), values[f"{stream}.attention.{g}"])

        fusions = tuple(values[f"fusion.{g}"] for g in range(len(self.macro.strides)))
        whole = TwoStreamArchitecture(self.macro, tuple(groups("slow")), tuple(groups("fast")), fusions)
        return whole.alone(alone) if alone else whole

    def encode(self, architecture: TwoStreamArchitecture) -> Tensor:
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
        return self.code(values)


PRESETS = {name: SearchSpace(**vars(found)) for name, found in LAYOUTS.items()}


def preset(name: str, frames: int | None = None, crop: int | None = None) -> SearchSpace:
    """The preset of that name, on its own clips or on clips of another size.

    Raises:
        ValueError: no such preset; the message lists them.
    """
    space = SearchSpace(**vars(layout(name)))
    return space.at(frames or space.macro.frames, crop or space.macro.crop)


def _register(name: str) -> None:
    @SPACES.register_module(name=name)
    def build(**size: int) -> SearchSpace:
        return preset(name, **size)


for _name in LAYOUTS:
    _register(_name)
