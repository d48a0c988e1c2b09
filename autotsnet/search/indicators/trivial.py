"""What indicators must be better than: parameters, depth, GMACs; and STEntr, which looks at the structure alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autotsnet.search.indicators.subject import IndicatorError, Subject, indicator, layers

LEAST_ANGLE = 1e-6  # of 1 - cosine, where STEntr diverges


@indicator("params")
def params(subject: Subject) -> float:
    """Number of parameters."""
    return sum(p.numel() for p in subject.net.parameters())


@indicator("depth")
def depth(subject: Subject) -> float:
    """Number of convolutions and linear layers, on whatever path."""
    return len(layers(subject.net))


@indicator("gmacs")
@torch.no_grad()
def gmacs(subject: Subject) -> float:
    """GMACs of one clip."""
    with FlopCounterMode(display=False) as counter:
        subject.net(*(x[:2] for x in subject.clips))
    return counter.get_total_flops() / 4e9  # of two clips: norms refuse one position of one


@indicator("stentr")
@torch.no_grad()
def stentr(subject: Subject) -> float:
    """E3D's entropy (arXiv 2303.02693): half the sum of log(weights of a filter x unlikeness), plus log(ends).

    Unlikeness is that of a kernel's shape to its features', ``-ln(1 - cos)``, and 1 for a pointwise one. On E3D this is
    its score. Ours: a network of any graph counts all its convolutions as if they were a chain, but those of one
    position; the ends are the inputs of the first linear layer.

    Raises:
        IndicatorError: the network has no linear layer.
    """
    total = 0.0

    def add(conv: nn.Conv3d, _: tuple, y: Tensor) -> None:
        nonlocal total
        if y.shape[2:].numel() > 1:
            kt, *k = conv.kernel_size
            t, *sides = y.shape[2:]
            unlike = 1.0
            if max(k) > 1:
                a, b = torch.tensor([t, *sides], dtype=torch.float64), torch.tensor([kt, *k], dtype=torch.float64)
                unlike = -math.log(max(LEAST_ANGLE, 1 - (a @ b / a.norm() / b.norm()).item()))
            total += math.log(conv.weight[0].numel() * unlike) / 2

    linear = [m for m in subject.net.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise IndicatorError(f"{type(subject.net).__name__} has no linear layer, after which features have ended")
    hooks = [m.register_forward_hook(add) for m in subject.net.modules() if isinstance(m, nn.Conv3d)]
    try:
        subject.net(*(x[:2] for x in subject.clips))
    finally:
        for hook in hooks:
            hook.remove()
    return total + math.log(linear[0].in_features)
