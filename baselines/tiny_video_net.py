"""Tiny Video Networks (Piergiovanni et al., 2019): few frames, found by evolution. https://arxiv.org/abs/1910.06961

The six networks and the order of operations follow google-research (``tiny_video_nets/found_tvns.py``,
``tiny_video_net.py``, ``layers.py``). Padding is TensorFlow's SAME: an even kernel, or a stride at an even side, pads
one more at the end. Convolutions are 3D with a kernel of 1 in time or in space.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.architecture import Architecture, one_of
from autotsnet.inputs import RGB, example
from autotsnet.registry import Knob, register_family
from autotsnet.space import SPACES, CostModel, ProductSpace, SharedWeights, Stage, Variable

SPATIAL = ("std", "depth", "max", "avg")
TEMPORAL = ("conv", "max", "avg")
ACTIVATIONS = {"relu": nn.ReLU, "hswish": nn.Hardswish}
LEAST_HIDDEN = 8  # of squeeze-and-excite


@dataclass(frozen=True)
class Block:
    """One block and its copies.

    Attributes:
        spatial: operation of ``SPATIAL``, kernel and stride; a kernel of 1 is no operation, whatever the stride.
        temporal: operation of ``TEMPORAL``, likewise.
        filters: of the operations; of an inverted block, at its output.
        expansion: channels of the output over ``filters``; of an inverted block, of the operations.
        squeeze: hidden channels of squeeze-and-excite over the expanded ones; 0: none.
        gate: with a context gate.
        skip: with a shortcut, where the frames stay as many.
        repeats: copies; all but the first have strides of 1, and every second of them is without temporal operation.
        inverted: expanded first, not last.
        activations: after the spatial operation, after the temporal one, at the end.
    """

    spatial: tuple[str, int, int]
    temporal: tuple[str, int, int]
    filters: int
    expansion: float
    squeeze: float = 0.0
    gate: bool = False
    skip: bool = False
    repeats: int = 1
    inverted: bool = False
    activations: tuple[str, str, str] = ("relu", "relu", "relu")

    def __post_init__(self) -> None:
        one_of(self.spatial[0], SPATIAL, "spatial operation")
        one_of(self.temporal[0], TEMPORAL, "temporal operation")
        for name in self.activations:
            one_of(name, tuple(ACTIVATIONS), "activation")


@dataclass(frozen=True)
class TinyVideoArchitecture(Architecture):
    """A Tiny Video Network: its blocks, and what it takes of a clip.

    Attributes:
        blocks: in order.
        frames: of those of the clip; None: all.
        stride: from one of them to the next.
        side: to which they are resized; None: as they are.
    """

    blocks: tuple[Block, ...]
    frames: int | None = None
    stride: int = 1
    side: int | None = None

    argument = "architecture"

    def to_dict(self) -> dict[str, Any]:
        """See ``Architecture``."""
        blocks = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(b).items()} for b in self.blocks]
        return dict(blocks=blocks, frames=self.frames, stride=self.stride, side=self.side)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TinyVideoArchitecture:
        """See ``Architecture``."""
        try:
            blocks = [
                Block(**{k: tuple(v) if isinstance(v, list) else v for k, v in b.items()}) for b in data["blocks"]
            ]
            return cls(tuple(blocks), data["frames"], data["stride"], data["side"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a Tiny Video Network: {type(error).__name__} {error}") from error


# found_tvns.py; TVN-1's non-local layer was removed by the authors, for speed.
_MOBILE = ("depth", 5, 4), ("conv", 2, 1), 32, 3, 0.004598785768716973
_INVERTED = ("depth", 5, 4), ("max", 2, 1), 128, 6, 0.8589741047143076, False, False
_HSWISH = ("hswish", "hswish", "relu")
NETWORKS: dict[str, tuple[Block, ...]] = {
    "tvn_1": (
        Block(("std", 4, 2), ("max", 2, 2), 64, 4, 0, True, False, 2),
        Block(("max", 3, 2), ("conv", 1, 1), 128, 4, 0.9067600752736579, False, False, 1),
        Block(("depth", 5, 3), ("avg", 1, 1), 128, 4, 0, True, True, 2),
        Block(("std", 3, 2), ("avg", 1, 1), 256, 8, 0.7265534208526172, True, False, 2),
    ),
    "tvn_2": (
        Block(("depth", 5, 3), ("conv", 2, 1), 64, 4, 0.06667482492426025, True, True, 3),
        Block(("std", 4, 2), ("max", 2, 2), 128, 4, 0.693452618624749, True, True, 5),
        Block(("depth", 4, 1), ("conv", 1, 1), 1024, 1, 0, False, False, 6),
        Block(("avg", 3, 2), ("conv", 1, 1), 256, 4, 0, True, False, 1),
        Block(("avg", 4, 3), ("conv", 1, 1), 512, 4, 0.9472192794783585, False, False, 6),
        Block(("depth", 3, 3), ("max", 1, 1), 512, 4, 0, False, False, 4),
        Block(("max", 2, 1), ("max", 1, 1), 348, 6, 0, True, False, 1),
    ),
    "tvn_3": (
        Block(("depth", 3, 2), ("conv", 5, 2), 64, 3, 0.6457257964198263, True, False, 2),
        Block(("depth", 3, 2), ("conv", 1, 1), 256, 5, 0.9061418818635367, False, True, 4),
        Block(("depth", 5, 4), ("max", 3, 2), 256, 2, 0, False, True, 4),
        Block(("std", 3, 2), ("max", 3, 3), 512, 5, 0, True, False, 4),
    ),
    "tvn_4": (
        Block(("std", 5, 2), ("conv", 3, 2), 64, 4, 0.4775900391242449, False, True, 5),
        Block(("depth", 5, 2), ("max", 2, 2), 256, 6, 0, True, False, 4),
        Block(("depth", 5, 3), ("conv", 1, 1), 256, 8, 0.25309102981899967, True, False, 4),
    ),
    "tvn_mobile_1": (Block(*_MOBILE, repeats=4), Block(*_INVERTED, 4, True, _HSWISH)),
    "tvn_mobile_2": (
        Block(*_MOBILE, repeats=4, activations=("hswish", "relu", "relu")),
        Block(*_INVERTED, 3, True, _HSWISH),
    ),
}


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0) -> Tensor:
    """``B C T H W`` padded as TensorFlow's SAME: outputs are as many as inputs over the stride, rounded up."""
    pads: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


class SameConv(nn.Conv3d):
    """A convolution without bias, padded as ``same`` says."""

    def __init__(self, in_chs: int, out_chs: int, kernel: tuple, stride: tuple, groups: int = 1) -> None:
        fixed = all(s == 1 and k % 2 for k, s in zip(kernel, stride, strict=True))  # whatever the side
        padding = tuple(k // 2 for k in kernel) if fixed else 0
        super().__init__(in_chs, out_chs, kernel, stride, padding, groups=groups, bias=False)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W``."""
        return super().forward(x if self.fixed else same(x, self.kernel_size, self.stride))


class SamePool(nn.Module):
    """Pooling that does not see what is padded, as in TensorFlow."""

    def __init__(self, kind: str, kernel: tuple, stride: tuple) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride = kind, kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W``."""
        if self.kind == "max":
            return F.max_pool3d(same(x, self.kernel, self.stride, -math.inf), self.kernel, self.stride)
        padded = same(x, self.kernel, self.stride)
        out = F.avg_pool3d(padded, self.kernel, self.stride)
        if padded is x:
            return out
        seen = same(torch.ones_like(x[:1, :1]), self.kernel, self.stride)
        return out / F.avg_pool3d(seen, self.kernel, self.stride)


def conv_norm(
    in_chs: int, out_chs: int, kernel: tuple, stride: tuple = (1, 1, 1), act: str = "", groups: int = 1
) -> nn.Sequential:
    """Convolution, norm and, where named, activation."""
    layers = [SameConv(in_chs, out_chs, kernel, stride, groups), nn.BatchNorm3d(out_chs)]
    return nn.Sequential(*layers, *([ACTIVATIONS[act]()] if act else []))


POINT = (1, 1, 1)


class Excite(nn.Module):
    """Channels scaled by a sigmoid of what a small network makes of their means over T, H and W.

    Args:
        channels: E.
        hidden: of squeeze-and-excite; 0: one layer, the context gate.
    """

    def __init__(self, channels: int, hidden: int = 0) -> None:
        super().__init__()
        wide = [nn.Conv3d(hidden or channels, channels, 1)]
        self.layers = nn.Sequential(*([nn.Conv3d(channels, hidden, 1), nn.ReLU()] if hidden else []), *wide)

    def forward(self, x: Tensor) -> Tensor:
        """``B E T H W``."""
        return x * self.layers(x.mean((2, 3, 4), keepdim=True)).sigmoid()


class TinyBlock(nn.Module):
    """One copy of a block.

    Args:
        spec: what it is.
        in_chs: channels of its input.
        filters: of ``spec``, scaled.
        wide: filters times expansion.
        frames: T of its input.
        first: the first copy has the strides.
        timed: with temporal operation.

    Attributes:
        out_chs: channels of its output.
        frames: T of its output.
    """

    def __init__(
        self, spec: Block, in_chs: int, filters: int, wide: int, frames: int, first: bool = True, timed: bool = True
    ) -> None:
        super().__init__()
        after_space, after_time, last = spec.activations
        self.out_chs = filters if spec.inverted else wide
        layers, chs = [], in_chs
        if spec.inverted:
            layers.append(conv_norm(chs, wide, POINT, act="relu"))
            chs, filters = wide, wide
        kind, k, s = spec.spatial
        s = s if first and k > 1 else 1
        kernel, stride = (1, k, k), (1, s, s)
        if k > 1 and kind in ("std", "depth"):
            layers.append(conv_norm(chs, filters, POINT, act=after_space))
            groups = filters if kind == "depth" else 1
            layers.append(conv_norm(filters, filters, kernel, stride, after_space, groups))
            chs = filters
        elif k > 1:
            layers.append(SamePool(kind, kernel, stride))
        self.frames = frames
        kind, k, t = spec.temporal
        t = t if first else 1
        if timed and frames > 1 and k > 1:
            if kind == "conv":
                layers.append(conv_norm(chs, filters, (k, 1, 1), (t, 1, 1), after_time))
                chs = filters
            else:
                layers.append(SamePool(kind, (k, 1, 1), (t, 1, 1)))
            self.frames = math.ceil(frames / t)
        if not spec.inverted:
            layers.append(conv_norm(chs, wide, POINT))
            chs = wide
        if spec.squeeze > 0:
            layers.append(Excite(chs, max(int(chs * spec.squeeze), LEAST_HIDDEN)))
        if spec.gate:
            layers.append(Excite(chs))
        if spec.inverted:
            layers.append(conv_norm(chs, self.out_chs, POINT))
        self.layers = nn.Sequential(*layers)
        kept = spec.skip and self.frames == frames
        self.shortcut = conv_norm(in_chs, self.out_chs, POINT, stride) if kept else None  # a convolution in any case
        self.act = ACTIVATIONS[last]()

    def forward(self, x: Tensor) -> Tensor:
        """``B C T H W``."""
        out = self.layers(x)
        return self.act(out if self.shortcut is None else out + self.shortcut(x))


class TinyVideoNet(nn.Module):
    """Blocks, pooling, classifier.

    Args:
        num_classes: N.
        architecture: blocks, and what is taken of a clip.
        frames: T of the clips.
        width: factor on all filters.
        expansion: factor on all expansions.
        dropout: probability of a dropout before the classifier.
        peaks: see ``tiny_video_net``.

    Raises:
        ValueError: the clips have not as many frames as the architecture takes.
    """

    fixed_frames = True
    head = ("fc", "dropout")

    def __init__(
        self,
        num_classes: int,
        architecture: TinyVideoArchitecture,
        frames: int,
        width: float,
        expansion: float,
        dropout: float,
        peaks: bool,
    ) -> None:
        super().__init__()
        self.clip_frames, self.side, self.peaks = frames, architecture.side, peaks
        taken, apart = architecture.frames or frames, architecture.stride
        span = (taken - 1) * apart + 1
        if span > frames:
            raise ValueError(
                f"a Tiny Video Network of {taken} frames, {apart} apart, needs {span}; clips have {frames}"
            )
        first = (frames - span) // 2  # those in the middle
        self.taken = None if taken == frames else slice(first, first + span, apart)
        chs, self.stages = 3, nn.ModuleList()
        for spec in architecture.blocks:
            filters = max(1, round(spec.filters * width))
            wide = max(filters, round(filters * spec.expansion * expansion))
            stage = nn.Sequential()
            for i in range(spec.repeats):
                timed = i % 2 == 0  # the first, then off, on, off
                block = TinyBlock(spec, chs, filters, wide, taken, first=i == 0, timed=timed)
                stage.append(block)
                chs, taken = block.out_chs, block.frames
            self.stages.append(stage)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(chs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T' H' W'``.

        Raises:
            ValueError: the clips have another T than the net was built for.
        """
        if clips.shape[2] != self.clip_frames:
            raise ValueError(
                f"Tiny Video Network built for {self.clip_frames} frames got clips of {clips.shape[2]}: its strides in "
                "time and shortcuts follow from their number; pass frames= to build"
            )
        x = clips if self.taken is None else clips[:, :, self.taken]
        if self.side not in (None, x.shape[-1]):
            x = F.interpolate(x, (x.shape[2], self.side, self.side), mode="trilinear", align_corners=False)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = self.features(clips)
        if not self.peaks:
            return self.fc(self.dropout(x.mean((2, 3, 4))))
        z = self.fc(self.dropout(x.mean((3, 4)).transpose(1, 2)))  # B T' N
        return (z * (z / math.sqrt(z.shape[1])).softmax(1)).sum(1)


@register_family(Knob("width", 0.02, 4, 0.005), Knob("expansion", 0.5, 2, 0.01), architecture=TinyVideoArchitecture)
def tiny_video_net(
    *,
    num_classes: int,
    frames: int = 2,
    crop: int = 224,
    network: str = "tvn_1",
    architecture: dict[str, Any] | None = None,
    width: float = 1.0,
    expansion: float = 1.0,
    repeats: Sequence[int] | None = None,
    dropout: float = 0.5,
    peaks: bool = False,
) -> nn.Module:
    """A Tiny Video Network; the defaults are TVN-1.

    ::

        clip B 3 T H W -> some frames, resized -> blocks of a spatial and a temporal operation -> pool -> linear
             -> logits B N

    A published network of other frames than its own is another network: how often time is strided, and which blocks
    have a shortcut, follows from their number.

    Args:
        num_classes: N.
        frames: T, fixed at building.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        network: a published one of ``NETWORKS``.
        architecture: another one, the dict form of a ``TinyVideoArchitecture``.
        width: knob; factor on all filters.
        expansion: knob; factor on all expansions.
        repeats: copies of each block, in place of the network's.
        dropout: probability of a dropout before the classifier.
        peaks: logits of each frame, weighted by their own softmax over time, as the authors do for long videos.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: no such network; the message lists the known ones.
    """
    one_of(network, tuple(NETWORKS), "Tiny Video Network")
    made = TinyVideoArchitecture.from_dict(architecture) if architecture else TinyVideoArchitecture(NETWORKS[network])
    if repeats:
        specs = zip(made.blocks, repeats, strict=True)
        made = replace(made, blocks=tuple(replace(spec, repeats=n) for spec, n in specs))
    return TinyVideoNet(num_classes, made, frames, width, expansion, dropout, peaks)


SIDES = (0.5, 0.75, 1.0)  # of the clip's
FRAMES = (1, 2, 4, 8, 16)
APART = (4, 2, 1)
FILTERS = (32, 64, 128, 256, 512)  # times the space's width
_CHOICES = dict(  # of each block, the cheapest first
    repeats=(0, 1, 2, 3, 4),
    spatial=SPATIAL[::-1],
    k=(2, 1, 3, 4, 5),  # 1: none
    s=(4, 3, 2, 1),
    temporal=TEMPORAL[::-1],
    kt=(1, 2, 3, 5),
    t=(3, 2, 1),
    filters=FILTERS,
    expansion=(1, 2, 3, 4, 5, 6, 8),
    squeeze=(0.0, 0.25, 0.5, 0.9),
    gate=(False, True),
    skip=(False, True),
)


@SPACES.register_module(name="tiny_video_net")
@dataclass(frozen=True)
class TinyVideoSpace(ProductSpace):
    """What the authors vary: frames, their distance and side, number of blocks, copies of each, its operations.

    The candidates are ours, around those of the six networks: the paper's are not public. A block of no copies is none.

    Attributes:
        frames: T of the clips.
        crop: their side.
        width: factor on all filters.
        most: blocks.
        name: in messages and records.
    """

    frames: int
    crop: int
    width: float = 1.0
    most: int = 4
    name: str = "tiny_video_net"

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """What is taken of the clip, then each block's."""
        clip = dict(side=SIDES, frames=tuple(f for f in FRAMES if f <= self.frames), apart=APART)
        out = [Variable(name, candidates, "all", "clip") for name, candidates in clip.items()]
        for b in range(self.most):
            choices = _CHOICES | (dict(repeats=_CHOICES["repeats"][1:]) if b == 0 else {})
            out += [Variable(f"{b}.{name}", candidates, "all", f"{b}") for name, candidates in choices.items()]
        return tuple(out)

    def mutate(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """A child of each, ``K M``, changed in one variable that matters: none of a block that is not there."""
        children, todo = codes.clone(), torch.arange(len(codes))
        while len(todo):
            children[todo] = super().mutate(codes[todo], generator)
            todo = torch.tensor([i for i in todo.tolist() if self.decode(children[i]) == self.decode(codes[i])]).long()
        return children

    def decode(self, code: Tensor, alone: str | None = None) -> TinyVideoArchitecture:
        """The architecture of a code; frames are as far apart as the clip allows."""
        side, frames, apart, *rest = (v.candidates[c] for v, c in zip(self.variables, code.tolist(), strict=True))
        made = []
        for b in range(self.most):
            of = dict(zip(_CHOICES, rest[b * len(_CHOICES) :], strict=False))
            if not of["repeats"]:
                continue
            made.append(
                Block(
                    (of["spatial"], of["k"], of["s"] if of["k"] > 1 else 1),
                    (of["temporal"], of["kt"], of["t"] if of["kt"] > 1 else 1),
                    max(1, round(of["filters"] * self.width)),
                    *(of[name] for name in ("expansion", "squeeze", "gate", "skip", "repeats")),
                )
            )
        apart = min(apart, (self.frames - 1) // (frames - 1)) if frames > 1 else 1
        return TinyVideoArchitecture(tuple(made), frames, apart, round(self.crop * side))

    def encode(self, architecture: TinyVideoArchitecture) -> Tensor:
        """A code of an architecture.

        Raises:
            ValueError: it is none of this space.
        """
        a = architecture
        values: list[Any] = [next((s for s in SIDES if round(self.crop * s) == a.side), a.side), a.frames, a.stride]
        for block in a.blocks:
            filters = [f for f in FILTERS if max(1, round(f * self.width)) == block.filters]
            values += [block.repeats, *block.spatial, *block.temporal, *filters[:1], block.expansion]
            values += [block.squeeze, block.gate, block.skip]
        firsts = [v.candidates[0] for v in self.variables]
        values += firsts[len(values) :]
        named = zip(self.variables, values, strict=False)
        code = torch.tensor([v.candidates.index(value) if value in v.candidates else 0 for v, value in named])
        if len(values) != len(self.variables) or self.decode(code) != a:
            raise ValueError(
                f"{a} is not of space {self.name!r} on clips of {self.frames} frames of {self.crop} pixels"
            )
        return code

    def cost(self, num_classes: int, alone: str | None = None) -> CostModel:
        """None: its limit is a measured time."""
        raise ValueError(f"space {self.name!r} has no closed form of its GMACs; search it under a runtime")

    def static_model(self, architecture: TinyVideoArchitecture, num_classes: int) -> nn.Module:
        """The network of an architecture."""
        return tiny_video_net(
            num_classes=num_classes, frames=self.frames, crop=self.crop, architecture=architecture.to_dict()
        )

    def supernet(self, num_classes: int) -> SharedWeights:
        """None: the authors train each candidate."""
        raise ValueError(f"space {self.name!r} has no shared weights; its candidates are trained one by one")

    def example(self, batch: int = 1) -> Tensor:
        """Clips ``B 3 T H W``."""
        return example(RGB, self.frames, self.crop, batch, "cpu")[0]

    def stages(self, options: Any, num_classes: int) -> tuple[Stage, ...]:
        """One."""
        return (Stage("all", ("all",), 0, options.steps),)


# Frames and side of found_tvns.py; it samples them 4, 7, 2, 4, 1 and 1 frames apart.
VARIANTS = {
    name: (tiny_video_net, {"num_classes": 400, "frames": frames, "crop": crop, "network": name})
    for name, frames, crop in (
        ("tvn_1", 2, 224),
        ("tvn_2", 2, 256),
        ("tvn_3", 8, 160),
        ("tvn_4", 8, 128),
        ("tvn_mobile_1", 2, 224),
        ("tvn_mobile_2", 2, 224),
    )
}
