"""A PV-NAS-style space: a residual skeleton in which every block chooses its convolutions in space and time.

PV-NAS (Wang et al., 2020, arXiv 2011.00826) searches "a spatio-temporal network space" by gradients; its candidates,
skeleton and relaxation are not public. Everything here is ours, hence "PV-NAS-style".

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from autotsnet.architecture import Architecture
from autotsnet.registry import Knob, register_family
from baselines.residual import stage_widths
from baselines.tsm import temporal_shift

EXPANSION = 4
CONV_SHIFT_DIV = 8


class Shift(nn.Module):
    """TSM's shift on clips."""

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same shape."""
        if has_torch_function_unary(x):  # features of several parts: each is shifted
            return handle_torch_function(self.forward, (x,), x)
        frames = x.shape[2]
        shifted = temporal_shift(x.transpose(1, 2).flatten(0, 1), frames, CONV_SHIFT_DIV)
        return shifted.unflatten(0, (-1, frames)).transpose(1, 2)


def conv_bn(in_chs: int, out_chs: int, kernel: tuple[int, int, int], stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with "same" padding, ``stride`` in space, and batch norm."""
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(in_chs, out_chs, kernel, (1, stride, stride), padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out_chs))


def _branch(*layers: nn.Module) -> Callable[[], nn.Module]:
    out: list[nn.Module] = []
    for layer in layers:
        out += [layer, nn.ReLU(inplace=True)] if isinstance(layer, nn.Sequential) else [layer]
    return nn.Sequential(*out[:-1])  # after the last norm comes the sum with the shortcut


def _only_space(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(conv_bn(i, m, (1, 1, 1)), conv_bn(m, m, (1, 3, 3), s), conv_bn(m, o, (1, 1, 1)))


def _time_first(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(conv_bn(i, m, (3, 1, 1)), conv_bn(m, m, (1, 3, 3), s), conv_bn(m, o, (1, 1, 1)))


def _space_then_time(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(
        conv_bn(i, m, (1, 1, 1)), conv_bn(m, m, (1, 3, 3), s), conv_bn(m, m, (3, 1, 1)), conv_bn(m, o, (1, 1, 1))
    )


def _full(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(conv_bn(i, m, (1, 1, 1)), conv_bn(m, m, (3, 3, 3), s), conv_bn(m, o, (1, 1, 1)))


def _depthwise(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(conv_bn(i, m, (1, 1, 1)), conv_bn(m, m, (3, 3, 3), s, groups=m), conv_bn(m, o, (1, 1, 1)))


def _shifted(i: int, m: int, o: int, s: int) -> nn.Module:
    return _branch(Shift(), conv_bn(i, m, (1, 1, 1)), conv_bn(m, m, (1, 3, 3), s), conv_bn(m, o, (1, 1, 1)))


# Residual branches from in, inner and out channels and stride. Known designs, from 2D to full 3D:
CANDIDATES: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "2d": _only_space,  # TSN
    "shift": _shifted,  # TSM
    "t+2d": _time_first,  # SlowFast's slow pathway
    "2+1d": _space_then_time,  # R(2+1)D
    "dw3d": _depthwise,  # CSN
    "3d": _full,  # I3D
}


class Block(nn.Module):
    """Bottleneck with one candidate, or, in a search, with all of them.

    Args:
        in_chs: of the input.
        inner: channels between reduction and expansion.
        stride: spatial.
        candidates: which to build.
    """

    def __init__(self, in_chs: int, inner: int, stride: int, candidates: tuple[str, ...]) -> None:
        super().__init__()
        out_chs = EXPANSION * inner
        self.branches = nn.ModuleList(CANDIDATES[c](in_chs, inner, out_chs, stride) for c in candidates)
        same = stride == 1 and in_chs == out_chs
        self.shortcut = nn.Identity() if same else conv_bn(in_chs, out_chs, (1, 1, 1), stride)

    def forward(self, x: Tensor, choice: int = 0, gate: Tensor | float = 1.0) -> Tensor:
        """B C T H W -> B 4·inner T H/s W/s, through branch ``choice``, scaled by ``gate``."""
        return torch.relu(self.shortcut(x) + gate * self.branches[choice](x))


class PVNet(nn.Module):
    """Stem, stages of blocks, pooling, classifier.

    Args:
        num_classes: N.
        candidates: of each block in turn.
        base_channels: inner channels of the first stage; doubles at each stage.
        stem_channels: of the stem.
        blocks: of each stage.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.
    """

    fixed_frames = True

    def __init__(
        self,
        num_classes: int,
        candidates: list[tuple[str, ...]],
        base_channels: float,
        stem_channels: int,
        blocks: tuple[int, ...],
        strides: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        widths = stage_widths(base_channels, len(blocks))
        in_chs = stem_channels
        self.stem = nn.Sequential(
            conv_bn(3, in_chs, (1, 7, 7), 2), nn.ReLU(inplace=True), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )
        self.blocks = nn.ModuleList()
        for inner, number, stride in zip(widths, blocks, strides, strict=True):
            for i in range(number):
                block = Block(in_chs, inner, stride if i == 0 else 1, candidates[len(self.blocks)])
                self.blocks.append(block)
                in_chs = EXPANSION * inner
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_chs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor, path: tuple[list[int], Tensor] | None = None) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``.

        Args:
            clips: the clips.
            path: branch of each block and the scales of these branches; by default the first branches, unscaled; a
                static network has only these.
        """
        x = self.stem(clips)
        for i, block in enumerate(self.blocks):
            x = block(x, path[0][i], path[1][i]) if path else block(x)
        return self.fc(self.dropout(x.mean((2, 3, 4))))


@dataclass(frozen=True)
class Operations(Architecture):
    """A point of the space: the candidate of each block, names of ``CANDIDATES``."""

    ops: tuple[str, ...]

    argument = "ops"

    def to_dict(self) -> dict[str, Any]:
        """See ``Architecture``."""
        return dict(ops=list(self.ops))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Operations:
        """See ``Architecture``."""
        return cls(tuple(data["ops"]))

    def arguments(self) -> dict[str, Any]:
        """See ``Architecture``."""
        return dict(ops=self.ops)

    @classmethod
    def of(cls, net: Mapping[str, Any]) -> Operations | None:
        """See ``Architecture``."""
        return cls.from_dict(net) if net.get("ops") else None


@register_family(Knob("base_channels", 2, 192, 0.125), Knob("stem_channels", 2, 192, 1), architecture=Operations)
def pvnas(
    *,
    num_classes: int,
    frames: int = 8,
    crop: int = 224,
    base_channels: float = 64,
    stem_channels: int | None = None,
    ops: str | tuple[str, ...] = "t+2d",
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    strides: tuple[int, ...] = (1, 2, 2, 2),
    dropout: float = 0.5,
) -> nn.Module:
    """A member of the PV-NAS-style space.

    ::

        clip B 3 T H W -> 1x7x7, max-pool -> 4 x stage of chosen blocks -> pool -> linear -> logits B N

    Args:
        num_classes: N.
        frames: T; nothing strides in time, any T will do.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        base_channels: knob; inner channels of the first stage. Fractions are welcome, see ``stage_widths``.
        stem_channels: knob; by default ``base_channels``.
        ops: names of ``CANDIDATES``, one for each block in turn, or one name for all blocks.
        blocks: of each stage; the default is ResNet-50's.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: an unknown name, or not one per block.
    """
    total = sum(blocks)
    ops = (ops,) * total if isinstance(ops, str) else tuple(ops)
    unknown = sorted(set(ops) - set(CANDIDATES))
    if unknown or len(ops) != total:
        raise ValueError(f"ops={ops}: give {total} names, one per block, of {', '.join(CANDIDATES)}")
    stem = round(base_channels) if stem_channels is None else stem_channels
    return PVNet(num_classes, [(op,) for op in ops], base_channels, stem, tuple(blocks), tuple(strides), dropout)
