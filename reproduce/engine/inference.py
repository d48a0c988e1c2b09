"""A network as it is tested: it says the same as in training, in half the time on a CPU."""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of logits, absolute and relative; rounding alone makes 1e-6


def _onednn(conv: nn.Conv2d | nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that goes to oneDNN on a CPU whatever the batch.

    With fewer than 16 clips and one thread torch takes its own kernels where a filter has no spatial extent: X3D-M's
    temporal stem and pointwise convolutions are several times slower with them.
    """
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and x.dtype == torch.float32
    if x.device.type == "cpu" and plain and not torch.is_autocast_enabled("cpu"):
        return torch.mkldnn_convolution(x, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    return type(conv)._conv_forward(conv, x, weight, bias)


def accelerate(net: nn.Module, *clips: Tensor) -> None:
    """Make a network faster that will only be tested, in place: batch norms folded, convolutions by oneDNN on a CPU.

    Args:
        net: in eval mode.
        clips: B C T H W, any that it takes.
    """
    fold(net, *clips)
    by_onednn(net)


def by_onednn(net: nn.Module) -> None:
    """Let all convolutions on a CPU go to oneDNN, in place."""
    if torch.backends.mkldnn.is_available():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Conv3d):
                m._conv_forward = partial(_onednn, m)


@torch.no_grad()
def fold(net: nn.Module, *clips: Tensor) -> None:
    """Let convolutions do the work of the batch norms that they feed, in place.

    One run of the network shows which convolution feeds which norm. The order of the modules does not show it (mmcv's
    ``fuse_conv_bn`` guesses from it, for 2D convolutions), and not every network can be traced. Layers that are called
    more than once stay as they are. All layers stay where the logits for ``clips`` would change: some networks also use
    what is between convolution and norm elsewhere.

    Args:
        net: in eval mode.
        clips: B C T H W, any that it takes.
    """
    calls: Counter[nn.Module] = Counter()
    fed: dict[nn.Module, nn.Module] = {}

    def made(conv: nn.Module, _, out: Tensor) -> None:
        calls[conv] += 1
        out.made_by = conv, out._version

    def taken(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        for x in inputs:
            conv, version = getattr(x, "made_by", (None, None))
            if version == x._version:  # nothing happened to it in between
                fed[norm] = conv

    hooks = [m.register_forward_hook(made) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    norms = {name: m for name, m in net.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    hooks += [m.register_forward_pre_hook(taken) for m in norms.values()]
    logits = net(*clips)
    for hook in hooks:
        hook.remove()
    before = []
    for name, norm in norms.items():
        conv = fed.get(norm)
        if calls[norm] == calls[conv] == 1 and "weight" in conv._parameters:  # not parametrized
            parent, _, child = name.rpartition(".")
            before.append((conv, conv.weight, conv.bias, net.get_submodule(parent), child, norm))
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            setattr(net.get_submodule(parent), child, nn.Identity())
    if not torch.allclose(net(*clips), logits, rtol=TOLERANCE, atol=TOLERANCE):
        for conv, weight, bias, parent, child, norm in reversed(before):
            conv.weight, conv.bias = weight, bias
            setattr(parent, child, norm)
