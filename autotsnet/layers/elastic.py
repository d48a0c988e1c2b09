"""Layers that know which channels they read and write, so that a small net's weights are slices of a large one's.

A supernet is the largest static model; a subnet is a static model that runs on slices of the supernet's tensors. Each
axis of each tensor is made of named channel spaces, which define the slice: ``narrow`` matches the spaces by name and
takes the first channels of each space, and the centre of each kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Channels:
    """A named set of channels.

    Attributes:
        space: the name; layers that read or write the same tensor share it (residuals tie a whole block group).
        size: how many there are.
    """

    space: str
    size: int


# Which channels of a space a subnet uses: (space, size, largest size) -> start of a cyclic window. Prefix slicing is
# start 0; fair channel selection draws the start at random.
Window = Callable[[Channels, int], int]


def _axes(module: nn.Module, out: Channels, ins: Sequence[Channels] = ()) -> None:
    module.axes = ((out,), tuple(ins))


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` with "same" padding, no bias, over named channels; several inputs are concatenated by the caller.

    Args:
        ins: channels read; one entry per concatenated input.
        out: channels written. A depthwise layer reads the same channels.
        kernel: (t, k, k).
        stride: (t, h, w).
        depthwise: one filter per channel.
    """

    def __init__(
        self,
        ins: Channels | Sequence[Channels],
        out: Channels,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        depthwise: bool = False,
    ) -> None:
        ins = (ins,) if isinstance(ins, Channels) else tuple(ins)
        size = sum(c.size for c in ins)
        padding = tuple(k // 2 for k in kernel)
        groups = size if depthwise else 1
        super().__init__(size, out.size, kernel, stride, padding, groups=groups, bias=False)
        _axes(self, out, () if depthwise else ins)

    def reset_parameters(self) -> None:
        """He initialisation over the outputs, as X3D and SlowFast (MSRA fill)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class BatchNorm3d(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` over named channels; ``zero`` starts the scale at 0 (the last norm of a residual branch)."""

    def __init__(self, channels: Channels, zero: bool = False) -> None:
        super().__init__(channels.size)
        _axes(self, channels)
        if zero:
            nn.init.zeros_(self.weight)


class Linear(nn.Linear):
    """``nn.Linear`` over named channels; std 0.01 as the heads of SlowFast and X3D."""

    def __init__(self, ins: Channels | Sequence[Channels], out: Channels, std: float = 0.01) -> None:
        ins = (ins,) if isinstance(ins, Channels) else tuple(ins)
        super().__init__(sum(c.size for c in ins), out.size)
        _axes(self, out, ins)
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)


def conv_norm_act(
    ins: Channels | Sequence[Channels],
    out: Channels,
    kernel: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    depthwise: bool = False,
    act: Callable[[], nn.Module] | None = nn.ReLU,
    zero: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm and, unless ``act`` is None, an activation."""
    layers = [Conv3d(ins, out, kernel, stride, depthwise), BatchNorm3d(out, zero=zero)]
    return nn.Sequential(*layers, *([act()] if act else []))


def narrow(tensor: Tensor, whole: nn.Module, part: nn.Module, shape: torch.Size, window: Window) -> Tensor:
    """The piece of one tensor of layer ``whole`` that the smaller layer ``part`` uses in its place.

    Args:
        tensor: a parameter or buffer of ``whole``.
        whole: the largest layer.
        part: the layer at the same place of the subnet.
        shape: shape of the tensor in ``part``.
        window: start of the cyclic window in each channel space.

    Returns:
        A view where every window starts at 0 and every axis has one space; otherwise a differentiable copy.
    """
    for axis, size in enumerate(shape):
        if axis >= 2:  # kernels: the centre
            if size < tensor.shape[axis]:
                tensor = tensor.narrow(axis, (tensor.shape[axis] - size) // 2, size)
            continue
        pieces, start = [], 0
        wanted = {c.space: c for c in part.axes[axis]}
        for channels in whole.axes[axis]:
            if channels.space in wanted:
                c = wanted.pop(channels.space)
                pieces.append(_window(tensor, axis, start, channels.size, c.size, window(c, channels.size)))
            start += channels.size
        if wanted:
            raise ValueError(f"the supernet has no channels {sorted(wanted)} on axis {axis} of {whole}")
        if pieces:
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
    return tensor


def _window(tensor: Tensor, axis: int, start: int, largest: int, size: int, offset: int) -> Tensor:
    if size > largest:
        raise ValueError(f"a subnet asks for {size} channels, the supernet has {largest}")
    if size == tensor.shape[axis]:  # all of it, whose windows start at 0
        return tensor
    if offset + size <= largest:
        return tensor.narrow(axis, start + offset, size)
    index = (torch.arange(offset, offset + size, device=tensor.device) % largest) + start
    return tensor.index_select(axis, index)
