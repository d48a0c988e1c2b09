"""E3D (Wang et al., ICLR 2023): deep networks of channel-wise blocks, found by an entropy. https://arxiv.org/abs/2303.02693

Structures, block, score and search follow the authors (``alibaba/lightweight-neural-architecture-search``:
``tinynas/models/cnn3dnet.py``, ``blocks_cnn_3d``, ``scores/compute_stentr.py``, ``spaces``). The score, STEntr, needs
neither videos nor weights. It grows almost in proportion to depth, and the space bounds depth by hand: what it finds
is to be set against ``depth``, a judge that counts blocks.

B clips, C channels, T frames, H W pixels, N classes; K structures, M variables of a code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autotsnet.architecture import Architecture, one_of
from autotsnet.inputs import RGB, example
from autotsnet.registry import Knob, register_family
from autotsnet.search.constraint import CONSTRAINTS
from autotsnet.search.indicators.trivial import alpha
from autotsnet.search.judges import JUDGES
from autotsnet.search.strategies import RandomSearch
from autotsnet.space import SPACES, Product, ProductSpace, Stage, Variable

STRIDES = (2, 2, 2, 1, 2)  # in space, of the first block of each stage; the stem has another 2, time has none


@dataclass(frozen=True)
class E3DStage:
    """One stage: channels of its blocks at their ends and inside, kernel in time and space, number of blocks."""

    out: int
    mid: int
    kt: int
    k: int
    blocks: int


@dataclass(frozen=True)
class E3DStructure(Architecture):
    """All that the network is made of.

    Attributes:
        stem: channels of the 1x3x3 convolution.
        stages: five.
        last: channels of the 1x1x1 convolution.
    """

    stem: int
    stages: tuple[E3DStage, ...]
    last: int = 512

    argument = "structure"

    def __post_init__(self) -> None:
        if len(self.stages) != len(STRIDES):
            raise ValueError(f"E3D has {len(STRIDES)} stages, got {len(self.stages)}")

    @property
    def layers(self) -> int:
        """Convolutions of the main path, as the authors count them."""
        return 2 + 3 * sum(stage.blocks for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """See ``Architecture``."""
        return dict(stem=self.stem, stages=[asdict(stage) for stage in self.stages], last=self.last)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> E3DStructure:
        """See ``Architecture``."""
        try:
            return cls(data["stem"], tuple(E3DStage(**stage) for stage in data["stages"]), data["last"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an E3D: {type(error).__name__} {error}") from error


def _structure(*stages: tuple[int, int, int, int, int]) -> E3DStructure:
    return E3DStructure(24, tuple(E3DStage(*stage) for stage in stages))


# configs/action_recognition/models/E3D_{S,M,L}.txt
NETWORKS = {
    "e3d_s": _structure(
        (24, 32, 1, 5, 3), (48, 96, 3, 3, 6), (120, 176, 3, 3, 6), (120, 176, 3, 3, 6), (256, 384, 3, 3, 6)
    ),
    "e3d_m": _structure(
        (24, 32, 1, 5, 3), (64, 96, 3, 3, 6), (120, 176, 3, 3, 6), (120, 176, 3, 3, 6), (184, 464, 3, 3, 6)
    ),
    "e3d_l": _structure(
        (24, 32, 1, 5, 3), (48, 120, 3, 3, 13), (120, 176, 3, 3, 13), (120, 176, 3, 3, 13), (192, 480, 3, 3, 13)
    ),
}


def conv_norm(in_chs: int, out_chs: int, kernel: tuple, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution of odd kernel and norm."""
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(in_chs, out_chs, kernel, (1, stride, stride), padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out_chs))


class E3DBlock(nn.Module):
    """Pointwise, channel-wise, pointwise convolution; a shortcut only where the channels stay."""

    def __init__(self, in_chs: int, mid: int, out_chs: int, kernel: tuple[int, int, int], stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_chs, mid, (1, 1, 1))
        self.conv2 = conv_norm(mid, mid, kernel, stride, groups=mid)
        self.conv3 = conv_norm(mid, out_chs, (1, 1, 1))
        self.relu = nn.ReLU()
        self.shortcut = None
        if in_chs == out_chs:  # an odd side is rounded up, as the convolution does
            strided = nn.AvgPool3d((1, 2, 2), (1, 2, 2), ceil_mode=True)
            self.shortcut = strided if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W``."""
        out = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        return self.relu(out if self.shortcut is None else out + self.shortcut(x))


class E3D(nn.Module):
    """Stem, five stages, last convolution, pooling, two linear layers.

    Args:
        num_classes: N.
        structure: channels, kernels and depths.
        hidden: channels between the linear layers.
        dropout: probability of a dropout before the classifier.
    """

    head = ("hidden", "swish", "dropout", "fc")

    def __init__(self, num_classes: int, structure: E3DStructure, hidden: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, structure.stem, (1, 3, 3), 2), nn.ReLU())
        in_chs, self.stages = structure.stem, nn.ModuleList()
        for stage, stride in zip(structure.stages, STRIDES, strict=True):
            blocks = nn.Sequential()
            for i in range(stage.blocks):
                kernel = (stage.kt, stage.k, stage.k)
                blocks.append(E3DBlock(in_chs, stage.mid, stage.out, kernel, stride if i == 0 else 1))
                in_chs = stage.out
            self.stages.append(blocks)
        self.last = nn.Sequential(*conv_norm(in_chs, structure.last, (1, 1, 1)), nn.ReLU())
        self.hidden = nn.Linear(structure.last, hidden)
        self.swish = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, num_classes)

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T H/32 W/32``."""
        x = self.stem(clips)
        for stage in self.stages:
            x = stage(x)
        return self.last(x)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = self.features(clips).mean((2, 3, 4))
        return self.fc(self.dropout(self.swish(self.hidden(x))))


@register_family(Knob("width", 0.05, 4, 0.005), Knob("bottleneck", 0.5, 2, 0.01), architecture=E3DStructure)
def e3d(
    *,
    num_classes: int,
    frames: int = 13,
    crop: int = 160,
    network: str = "e3d_s",
    structure: dict[str, Any] | None = None,
    width: float = 1.0,
    bottleneck: float = 1.0,
    blocks: Sequence[int] | None = None,
    hidden: int = 512,
    dropout: float = 0.2,
) -> nn.Module:
    """E3D; the defaults are E3D-S.

    ::

        clip B 3 T H W -> 1x3x3 -> 5 x stage -> 1x1x1 -> pool -> linear, swish, linear -> logits B N

    Args:
        num_classes: N.
        frames: T; nothing in the net strides in time, any T will do.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        network: a published one of ``NETWORKS``.
        structure: another one, the dict form of an ``E3DStructure``.
        width: knob; factor on all channels.
        bottleneck: knob; factor on the channels inside of the blocks.
        blocks: of each stage, in place of the network's.
        hidden: channels between the linear layers; the authors' number is not public, this one is ours.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: no such network; the message lists the known ones.
    """
    one_of(network, tuple(NETWORKS), "E3D")
    made = E3DStructure.from_dict(structure) if structure else NETWORKS[network]

    def scaled(channels: int, factor: float) -> int:
        return max(1, round(channels * factor))

    stages = tuple(
        replace(stage, out=scaled(stage.out, width), mid=scaled(stage.mid, width * bottleneck), blocks=n)
        for stage, n in zip(made.stages, blocks or [stage.blocks for stage in made.stages], strict=True)
    )
    made = E3DStructure(scaled(made.stem, width), stages, scaled(made.last, width))
    return E3D(num_classes, made, hidden, dropout)


# Frames and side of configs/action_recognition; the README's accuracies are of Something-Something-V1.
VARIANTS = {
    name: (e3d, {"num_classes": 174, "frames": frames, "crop": crop, "network": name})
    for name, frames, crop in (("e3d_s", 13, 160), ("e3d_m", 16, 224), ("e3d_l", 16, 312))
}


class Columns(NamedTuple):
    """K structures, column by column: ``K`` of the stem, else ``K 5``."""

    stem: Tensor
    out: Tensor
    mid: Tensor
    kt: Tensor
    k: Tensor
    blocks: Tensor
    last: int


def columns(structures: Sequence[E3DStructure]) -> Columns:
    """Structures of the same last channels, side by side."""
    fields = zip(
        *(zip(*(tuple(vars(stage).values()) for stage in s.stages), strict=True) for s in structures), strict=True
    )
    parts = [torch.tensor(field, dtype=torch.float64) for field in fields]
    return Columns(torch.tensor([float(s.stem) for s in structures], dtype=torch.float64), *parts, structures[0].last)


def stentr(of: Columns, frames: int, side: int) -> Tensor:
    """The spatio-temporal entropy score, ``K``, of structures on clips of T frames and R pixels: higher is better."""
    ones = torch.ones_like(of.stem)
    side = side // 2
    total = (3 * 9 * alpha(frames, side, ones, 3 * ones)).log() / 2
    in_chs = of.stem
    for i, stride in enumerate(STRIDES):
        side //= stride
        out, mid, kt, k, blocks = (column[:, i] for column in of[1:6])
        kernel = (kt * k**2 * alpha(frames, side, kt, k)).log() + mid.log()
        total = total + (in_chs.log() + (blocks - 1) * out.log() + blocks * kernel) / 2
        in_chs = out
    return total + in_chs.log() / 2 + math.log(of.last)


def products(of: Columns, frames: int, side: int, authors: bool = False) -> Tensor:
    """Multiply-accumulates of all convolutions, ``K``.

    Args:
        of: structures.
        frames: T.
        side: H and W.
        authors: as their code counts: sides are fractions, norms cost two operations an element, activations and the
            pooling of a shortcut one.
    """
    more, norm = (1, 2) if authors else (0, 0)

    def strided(side: float, stride: int) -> float:
        return side / stride if authors else math.ceil(side / stride)

    side = strided(side, 2)
    total, in_chs = side**2 * of.stem * (3 * 9 + norm + more), of.stem
    for i, stride in enumerate(STRIDES):
        before, side = side**2, strided(side, stride)
        out, mid, kt, k, blocks = (column[:, i] for column in of[1:6])
        rest = side**2 * (mid * (kt * k**2 + norm + more) + out * (mid + norm + more))
        first = before * mid * (in_chs + norm + more) + rest
        if stride == 2:
            first = first + more * before * in_chs * (in_chs == out)
        total = total + first + (blocks - 1) * (side**2 * mid * (out + norm + more) + rest)
        in_chs = out
    return frames * (total + side**2 * of.last * (in_chs + norm + more))


KERNELS = ((1, 3), (1, 5), (3, 3))
RATIOS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # of inner channels to those at the ends
SCALES = (2.0, 1.5, 1.25, 0.8, 0.6, 0.5)  # by which a mutation multiplies channels
DEEPER = (-2, -1, 1, 2)
MOST_STEM, LAST = 4, 64  # channels, in units of 8; never more than the last convolution has, though the authors say 640
FIRST_DEPTH = 3  # at most, of the first stage


@SPACES.register_module(name="e3d")
@dataclass(frozen=True)
class E3DSpace(ProductSpace):
    """E3D's space: channels, kernel, inner channels and depth of each stage, with the authors' mutation.

    Attributes:
        frames: T of the clips.
        crop: their side.
        layers: the bound on ``E3DStructure.layers``; 83 for S and M, 167 for L. It also bounds each stage.
        unit: all channels are multiples of it: 8 in the paper, less for small clips.
        name: in messages and records.
    """

    frames: int
    crop: int
    layers: int = 83
    unit: int = 8
    name: str = "e3d"

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Of the stem, then of each stage: channels, kernel, ratio, blocks."""
        out = [Variable("stem", tuple(self.unit * (i + 1) for i in range(MOST_STEM)), "all", "stem")]
        channels = tuple(self.unit * (i + 1) for i in range(LAST))
        for s, depth in enumerate(self.depths):
            named = (("out", channels), ("kernel", KERNELS), ("ratio", RATIOS), ("blocks", tuple(range(1, depth + 1))))
            out += [Variable(f"{s}.{name}", candidates, "all", f"{s}") for name, candidates in named]
        return tuple(out)

    @property
    def depths(self) -> tuple[int, ...]:
        """The most blocks of each stage."""
        stages = len(STRIDES) - 1
        return (FIRST_DEPTH, *(max(1, self.layers // 3 // stages),) * stages)

    def columns(self, codes: Tensor) -> Columns:
        """What the codes say, ``K M``; a kernel is at most two thirds of the side that it sees, as in the paper."""
        out, kernel, ratio, depth = codes[:, 1:].reshape(len(codes), len(STRIDES), 4).unbind(-1)
        kt, k = torch.tensor(KERNELS, dtype=torch.float64)[kernel].unbind(-1)
        mid = (torch.tensor(RATIOS, dtype=torch.float64)[ratio] * (out + 1)).round().clamp(min=1)
        ends = self.unit * (out + 1).double()
        stem = self.unit * (codes[:, 0] + 1).double()
        return Columns(
            stem, ends, self.unit * mid, kt, torch.minimum(k, self._largest), (depth + 1).double(), self.unit * LAST
        )

    @cached_property
    def _largest(self) -> Tensor:
        """The largest kernel of each stage, odd."""
        sides = torch.tensor([self.crop / 2 / math.prod(STRIDES[:i]) for i in range(len(STRIDES))], dtype=torch.float64)
        return (2 * (((sides / 1.5).floor() + 1) // 2) - 1).clamp(min=1)

    def score(self, codes: Tensor) -> Tensor:
        """STEntr, ``K``."""
        return stentr(self.columns(codes), self.frames, self.crop)

    def flops(self, codes: Tensor) -> Tensor:
        """10^9 operations as the authors count them, ``K``."""
        return products(self.columns(codes), self.frames, self.crop, authors=True) / 1e9

    def _fits(self, codes: Tensor) -> Tensor:
        return 2 + 3 * self.columns(codes).blocks.sum(1) <= self.layers

    def initial(self) -> Tensor:
        """The small network from which the authors' search starts, ``M``."""
        widths = (3, 6, 12, 12, 24)
        stages = [(width - 1, 2 if s else 1, RATIOS.index(2.0), 0) for s, width in enumerate(widths)]
        return torch.tensor([2, *chain.from_iterable(stages)])

    def sample(self, num: int, generator: torch.Generator | np.random.Generator) -> Tensor:
        """``num`` random structures, ``K M``: channels in rising order, depths drawn again while they are too many."""
        if isinstance(generator, np.random.Generator):
            generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
        product = Product(self.blocks())
        codes = product.sample(num, generator)
        while not (fits := self._fits(codes)).all():
            codes[~fits, 4::4] = product.sample(int((~fits).sum()), generator)[:, 4::4]
        codes[:, 1::4] = codes[:, 1::4].sort(1).values.maximum(codes[:, :1])
        return codes

    def mutate(self, codes: Tensor, generator: torch.Generator, changes: int = 1) -> Tensor:
        """A child of each structure, ``K M``, with so many changes in the authors' way; they make two."""
        for _ in range(changes):
            codes = self._mutate(codes, generator)
        return codes

    def _mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        rows, old = torch.arange(len(codes)), codes

        def draw(count: int) -> Tensor:
            return torch.randint(count, (len(codes),), generator=generator)

        stage, what = draw(1 + len(STRIDES)) - 1, draw(4)  # -1: the stem, of which only the channels change
        at = torch.where(stage < 0, 0, 1 + 4 * stage + what)
        now = codes[rows, at]
        scaled = ((now + 1) * torch.tensor(SCALES)[draw(len(SCALES))]).round().long() - 1
        lower = torch.where(stage < 0, 0, codes[rows, (at - 4).clamp(min=0)])  # channels never fall
        upper = torch.where(stage == len(STRIDES) - 1, LAST - 1, codes[rows, (at + 4).clamp(max=codes.shape[1] - 1)])
        upper = torch.where(stage < 0, codes[:, 1].clamp(max=MOST_STEM - 1), upper)
        channels = scaled.maximum(lower).minimum(upper).clamp(min=0, max=LAST - 1)
        kernel = (now + 1 + draw(len(KERNELS) - 1)) % len(KERNELS)
        ratio = (now + 1 + draw(len(RATIOS) - 1)) % len(RATIOS)
        most = torch.tensor(self.depths)[stage.clamp(min=0)] - 1
        depth = (now + torch.tensor(DEEPER)[draw(len(DEEPER))]).clamp(min=0).minimum(most)
        new = torch.stack([channels, kernel, ratio, depth], 1)[rows, torch.where(stage < 0, 0, what)]
        codes = codes.clone()
        codes[rows, at] = new
        return torch.where(self._fits(codes)[:, None], codes, old)

    def decode(self, code: Tensor, alone: str | None = None) -> E3DStructure:
        """The structure of a code."""
        of = self.columns(code[None])
        stages = zip(*(column[0].long().tolist() for column in of[1:6]), strict=True)
        return E3DStructure(int(of.stem), tuple(E3DStage(*stage) for stage in stages), of.last)

    def encode(self, architecture: E3DStructure) -> Tensor:
        """The code of a structure.

        Raises:
            ValueError: it is none of this space.
        """
        code = [architecture.stem // self.unit - 1]
        for s, largest in zip(architecture.stages, self._largest.tolist(), strict=True):
            out = s.out // self.unit
            ratios = [i for i, r in enumerate(RATIOS) if self.unit * max(1, round(r * out)) == s.mid]
            kernels = [i for i, (kt, k) in enumerate(KERNELS) if (kt, min(k, largest)) == (s.kt, s.k)]
            code += [out - 1, *kernels[:1], *ratios[:1], s.blocks - 1]
        found = torch.tensor(code)
        if found.shape != self.counts.shape or (found >= self.counts).any() or self.decode(found) != architecture:
            raise ValueError(
                f"{architecture} is not of space {self.name!r}, {self.layers} layers, channels by {self.unit}"
            )
        return found

    def cost(self, num_classes: int, alone: str | None = None) -> E3DCost:
        """See ``Space``."""
        return E3DCost(self, num_classes)

    def static_model(self, architecture: E3DStructure, num_classes: int) -> nn.Module:
        """The network of a structure."""
        return e3d(num_classes=num_classes, structure=architecture.to_dict())

    def supernet(self, num_classes: int) -> nn.Module:
        """None: the score needs no weights."""
        raise ValueError(f"space {self.name!r} has no shared weights; its search scores structures: method e3d")

    def example(self, batch: int = 1) -> Tensor:
        """Clips ``B 3 T H W``."""
        return example(RGB, self.frames, self.crop, batch, "cpu")[0]

    def stages(self, options: Any, num_classes: int) -> tuple[Stage, ...]:
        """One."""
        return (Stage("all", ("all",), 0, options.steps),)


@dataclass(frozen=True)
class E3DCost:
    """GMACs per view with the linear layers, the same as counted on the network."""

    space: E3DSpace
    num_classes: int
    hidden: int = 512

    def gmacs(self, codes: Tensor) -> Tensor:
        """GMACs, ``K``."""
        of = self.space.columns(codes)
        return (products(of, self.space.frames, self.space.crop) + self.hidden * (of.last + self.num_classes)) / 1e9

    def range(self) -> tuple[float, float]:
        """Of the structure of all first candidates, and of the widest and deepest of any layers."""
        low, high = self.gmacs(torch.stack([0 * self.space.counts, self.space.counts - 1])).tolist()
        return low, high


@CONSTRAINTS.register_module(name="e3d_flops")
class Flops:
    """10^9 operations as the authors count them; their budgets are 2.0, 5.0 and 18.5.

    Args:
        limit: of the operations.
        space: counts.
        num_classes: N; the classifier is not counted.
    """

    unit = "GFLOPs of E3D"

    def __init__(self, limit: float, *, space: E3DSpace, num_classes: int = 0) -> None:
        self.limit, self._space = limit, space

    def cost(self, codes: Tensor, alone: str | None = None) -> Tensor:
        """See ``Constraint``."""
        return self._space.flops(codes)

    def range(self, alone: str | None = None) -> tuple[float, float]:
        """See ``Constraint``."""
        low, high = self.cost(torch.stack([0 * self._space.counts, self._space.counts - 1])).tolist()
        return low, high


class _WithoutVideos:
    """A judge that looks at structures alone, see ``Judge``."""

    clips, images = 1, 0

    def __init__(self, space: E3DSpace, runner: Any = None, held_out: Any = None) -> None:
        self.space = space

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


@JUDGES.register_module(name="stentr")
class Entropy(_WithoutVideos):
    """STEntr."""

    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """See ``Judge``."""
        return self.space.score(codes)


@JUDGES.register_module(name="depth")
class Depth(_WithoutVideos):
    """The number of blocks: what STEntr must be better than."""

    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """See ``Judge``."""
        return self.space.columns(codes).blocks.sum(1)


class PopulationSearch(RandomSearch):
    """The authors' search: children of uniformly drawn members, of whom the best distinct ones stay.

    It starts from the space's initial structure. Children over the budget are dropped before they are judged. Here
    ``batch`` children at a time have their parents in the same population.

    Args:
        space: mutates.
        cost: of codes.
        target: budget.
        population: members, 256 in the paper.
        batch: children drawn per step.
        seed: of the draws.

    Raises:
        ValueError: the initial structure is over the budget.
    """

    def __init__(
        self,
        space: E3DSpace,
        cost: Callable[[Tensor], Tensor],
        target: float,
        population: int = 256,
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(space, cost, target, batch, seed)
        self.population = population
        self.drawn = 0  # children, judged or not
        self._members, self._values = space.initial()[None], torch.empty(0, dtype=torch.float64)
        least = cost(self._members).item()
        if least > target:
            raise ValueError(
                f"a budget of {target:g} is below the {least:.3g} of the structure that the search starts from; "
                f"channels by less than unit={space.unit}, or a larger budget"
            )

    def ask(self) -> Tensor:
        """The initial structure; then children within the budget, at least one."""
        if not len(self._values):
            return self._members
        while True:
            parents = torch.randint(len(self._members), (self.batch,), generator=self.generator)
            children = self.domain.mutate(self._members[parents], self.generator, changes=2)
            self.drawn += self.batch
            fits = self.cost(children) <= self.target
            if fits.any():
                return children[fits]

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """Keep the best distinct structures."""
        weights = super().tell(codes, log_likelihood, gmacs, num_clips)
        known = self._members if len(self._values) else codes[:0]
        members, values = torch.cat([known, codes]), torch.cat([self._values, log_likelihood])
        members, inverse = members.unique(dim=0, return_inverse=True)
        values = torch.full((len(members),), -math.inf, dtype=values.dtype).scatter_reduce(0, inverse, values, "amax")
        order = values.argsort(descending=True, stable=True)[: self.population]
        self._members, self._values = members[order], values[order]
        return weights

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy``."""
        return {**super().state_dict(), "members": self._members, "values": self._values, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy``."""
        super().load_state_dict(state)
        self._members, self._values, self.drawn = state["members"], state["values"], state["drawn"]
