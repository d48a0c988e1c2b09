"""The static two-stream network of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import add
from pathlib import Path

import torch
from torch import Tensor, nn

from autotsnet.architecture import STREAMS, GroupChoice, TwoStreamArchitecture
from autotsnet.layers.attention import Attention
from autotsnet.layers.elastic import BatchNorm3d, Channels, Conv3d, Linear
from autotsnet.layers.fusion import TSFusion
from autotsnet.layers.mbconv3d import MBConv3D
from autotsnet.registry import MODELS

STEM_TEMPORAL_KERNELS = (1, 5)  # slow: SlowFast's 1×7×7 stem has none; fast: 5, as SlowFast and X3D


def slow_frames(clips: Tensor, alpha: int) -> Tensor:
    """The T/alpha frames of clips B 3 T H W that a slow stream sees: the first, the last and evenly between.

    PySlowFast takes the same ones, except where its float32 result is below a whole number (T 160, alpha 4). They are
    slices, joined: for a CPU, torch 2.11 cannot compile an index into channels-last clips (pytorch issue 193581).
    """
    frames, count = clips.shape[2], clips.shape[2] // alpha
    picks = [(frames - 1) * i // max(count - 1, 1) for i in range(count)]
    return torch.cat([clips[:, :, i : i + 1] for i in picks], 2)


Part = Callable[..., nn.Module]


def new(make: Callable[..., nn.Module], *args, **kwargs) -> nn.Module:
    """A part of its own; see ``Part``."""
    return make(*args, **kwargs)


class Stem(nn.Sequential):
    """X3D's stem: dense 1×3×3 of stride 2, then (fast stream only) depthwise 5×1×1; BN, ReLU."""

    def __init__(self, out: Channels, temporal_kernel: int) -> None:
        layers = [Conv3d(Channels("rgb", 3), out, (1, 3, 3), (1, 2, 2))]
        if temporal_kernel > 1:
            layers.append(Conv3d(out, out, (temporal_kernel, 1, 1), depthwise=True))
        super().__init__(*layers, BatchNorm3d(out), nn.ReLU())


class BlockGroup(nn.Module):
    """MBConv3D blocks of one width, the first of them strided, then the attention position.

    Args:
        ins: channels of the input; a second entry where a fusion concatenates.
        choice: channels, blocks, attention.
        stride: spatial stride of the first block.
        name: unique in the net.
        attentions: attention types to hold weights for.
        part: makes a part of a class and its arguments.
    """

    def __init__(
        self,
        ins: tuple[Channels, ...],
        choice: GroupChoice,
        stride: int,
        name: str,
        attentions: Sequence[str],
        part: Part,
    ) -> None:
        super().__init__()
        self.out = Channels(name, choice.channels)
        blocks = []
        for i, block in enumerate(choice.blocks):
            first = i == 0
            blocks.append(
                part(
                    MBConv3D,
                    ins if first else (self.out,),
                    self.out,
                    block,
                    stride=stride if first else 1,
                    name=f"{name}.{i}",
                )
            )
        self.blocks = nn.Sequential(*blocks)
        self.attention = part(Attention, tuple(attentions), self.out, f"{name}.attention")

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C' T H/s W/s."""
        return self.attention(self.blocks(x))


@MODELS.register_module()
class TwoStreamNet(nn.Module):
    """Auto-TSNet's network for one architecture::

        clip ─ every α-th frame ─ stem ─┬─ group ─┬─ group ─ … ─ pool ─┐
             │                        fusion    fusion                 cat ─ hidden ─ classes
             └─ all frames ────── stem ─┴─ group ─┴─ group ─ … ─ pool ─┘

    The slow stream's frames run from the first to the last, end-points included (facebookresearch/SlowFast
    slowfast/datasets/utils.py). The layout is reconstruction; see autotsnet/README.md.

    Args:
        architecture: what to build: the value, its dict form, or a file of ``save``.
        num_classes: N.
        dropout: before the classifier (X3D, SlowFast: 0.5).
        fusions: the types to hold weights for at each position; default: the architecture's. With more than one type,
            the net only stores weights for a supernet and cannot run.
        attentions: the same for every attention position.
        part: makes a part of a class and its arguments; a supernet makes equal parts once.
    """

    fixed_frames = True
    head = ("hidden", "dropout", "classifier")
    done: dict[int, tuple] | None = None  # of the last subnet on the same clip: by level, path and outputs

    def __init__(
        self,
        architecture: TwoStreamArchitecture | dict | str | Path,
        num_classes: int,
        *,
        dropout: float = 0.5,
        fusions: Sequence[str] | None = None,
        attentions: Sequence[str] | None = None,
        part: Part = new,
    ) -> None:
        super().__init__()
        self.architecture = architecture = TwoStreamArchitecture.given(architecture)
        macro = architecture.macro
        self.stems = nn.ModuleDict()
        self.groups = nn.ModuleDict()
        at: dict[str, tuple[Channels, ...]] = {}  # channels of each stream at the current position
        streams = {n: getattr(architecture, n) for n in STREAMS if getattr(architecture, n) is not None}
        for i, name in enumerate(STREAMS):
            if name in streams:
                at[name] = (Channels(f"{name}.stem", macro.stems[i]),)
                self.stems[name] = part(Stem, at[name][0], STEM_TEMPORAL_KERNELS[i])
                self.groups[name] = nn.ModuleList()
        self.fusions = nn.ModuleList()
        for g, stride in enumerate(macro.strides):
            if len(streams) == 2:
                kinds = fusions or (architecture.fusions[g],)
                fusion = part(
                    TSFusion,
                    tuple(kinds),
                    *(at[n][0] for n in STREAMS),
                    alpha=macro.alpha,
                    kernel=macro.fusion_kernel,
                    name=f"fusion.{g}",
                )
                self.fusions.append(fusion)
                if "concat" in kinds:
                    at["slow"] += (fusion.lateral,)
            for name, groups in streams.items():
                kinds = attentions or (groups[g].attention,)
                group = BlockGroup(at[name], groups[g], stride, f"{name}.{g}", kinds, part)
                self.groups[name].append(group)
                at[name] = (group.out,)
        hidden = Channels("head", macro.head)
        self.hidden = Linear([c for n in streams for c in at[n]], hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(hidden, Channels("classes", num_classes))

    def forward(self, clip: Tensor) -> Tensor:
        """Clips B 3 T H W, normalised -> logits B N."""
        pooled = torch.cat([x.mean((2, 3, 4)) for x in self.streams(clip)], dim=1)
        return self.classifier(self.dropout(self.hidden(pooled).relu()))

    def features(self, clip: Tensor) -> Tensor:
        """Clips B 3 T H W -> B C T/alpha H' W', the slow stream before the fast; their mean is what the head gets."""
        slow, *fast = self.streams(clip)
        return torch.cat([slow, *(x.unflatten(2, (slow.shape[2], -1)).mean(3) for x in fast)], dim=1)

    def streams(self, clip: Tensor) -> list[Tensor]:
        """Clips B 3 T H W -> the output of each stream, slow B C T/alpha H' W' and fast B C' T H' W'."""
        if self.done is None:
            x = self._stems(clip)
            for g in range(len(self.architecture.macro.strides)):
                x = self._group(g, x)
            return list(x.values())
        x = {}
        for level, path in enumerate(self.paths()):
            if self.done.get(level, (None,))[0] != path:
                self.done[level] = path, self._group(level - 1, x) if level else self._stems(clip)
            x = self.done[level][1]
        return list(x.values())

    def paths(self) -> list[tuple[nn.Module, ...]]:
        """What settles the outputs of the stems and of each level of block groups: all parts up to there."""
        levels = [[*self.stems.values()]]
        for g in range(len(self.architecture.macro.strides)):
            groups = [part for stream in self.groups.values() for part in (*stream[g].blocks, stream[g].attention)]
            levels.append([*self.fusions[g : g + 1], *groups])
        return [*accumulate(map(tuple, levels), add)]

    def _stems(self, clip: Tensor) -> dict[str, Tensor]:
        x = {}
        if "slow" in self.stems:
            x["slow"] = self.stems["slow"](slow_frames(clip, self.architecture.macro.alpha))
        if "fast" in self.stems:
            x["fast"] = self.stems["fast"](clip)
        return x

    def _group(self, g: int, x: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(x) == 2:
            x = dict(zip(STREAMS, self.fusions[g](x["slow"], x["fast"]), strict=True))
        return {name: self.groups[name][g](features) for name, features in x.items()}
