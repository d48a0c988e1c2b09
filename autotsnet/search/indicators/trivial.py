"""What indicators must be better than: parameters, depth, GMACs; and STEntr, which looks at the structure alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autotsnet.search.indicators.subject import IndicatorError, Subject, indicator, layers

LEAST_ANGLE = 1e-6  # of 1 - cosine, the guard of STEntr; E3D-L's first stage has 6e-6


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


def alpha(frames: int, side: int, kt: Tensor, k: Tensor) -> Tensor:
    """How unlike the shape of a kernel is to that of its features: ``-ln(1 - cos)``; 1 for a pointwise kernel.

    The logarithm diverges where ``(T, R, R)`` is parallel to ``(kt, k, k)``, as of a 3x3x3 kernel where T = R. The
    authors' score is then infinite; here ``1 - cos`` is at least ``LEAST_ANGLE``.

    Args:
        frames: T of the clip.
        side: R, of the stage's output.
        kt: kernel in time.
        k: kernel in space, of the same shape.
    """
    cosine = (frames * kt + 2 * side * k) / math.sqrt(frames**2 + 2 * side**2) / (kt**2 + 2 * k**2).sqrt()
    return torch.where(k == 1, 1.0, -(1 - cosine).clamp(min=LEAST_ANGLE).log())


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
            kt, _, k = torch.tensor(conv.kernel_size, dtype=torch.float64)
            total += math.log(conv.weight[0].numel() * alpha(y.shape[2], y.shape[4], kt, k)) / 2

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
