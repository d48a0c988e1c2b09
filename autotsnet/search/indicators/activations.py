"""Indicators by the signs of units: TEG-NAS's linear regions, nwot; and Zen, by what a small change does to features.

A unit is a position of a channel before an activation. Smooth activations have no exact regions: their sign counts.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from autotsnet.search.indicators.subject import IndicatorError, Subject, indicator

ACTIVATIONS = {"relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish"}
SAMPLES, SIDE = 1000, 3  # published: 1000 crops of 3x3 pixels of one colour
WAYS = 10  # ours, with REACH: samples lie on short ways between crops, else each is in a region of its own
REACH = 0.02  # of a way from one crop to another
ZEN_STEP, ZEN_EPS = 0.01, 1e-3  # idstcv/ZenNAS


class PreActivations(TorchFunctionMode):
    """Inside, the inputs of activations of features ``B C T H W`` are collected; gates of one position are not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Look at the arguments, then call."""
        if getattr(func, "__name__", "") in ACTIVATIONS and args[0].dim() == 5 and args[0].shape[2:].numel() > 1:
            self.found.append(args[0].detach().flatten(1) > 0)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def patterns(net: nn.Module, *clips: Tensor) -> list[Tensor]:
    """Which units of each layer are positive, ``B units``.

    Raises:
        IndicatorError: no activation was seen.
    """
    with PreActivations() as seen:
        net(*clips)
    if not seen.found:
        raise IndicatorError(f"{type(net).__name__} calls none of {', '.join(sorted(ACTIVATIONS))} on B C T H W")
    return seen.found


def count_regions(signs: Tensor) -> int:
    """Number of different patterns among ``B units``."""
    return len(signs.unique(dim=0))


def along_ways(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Samples on short ways between crops of one colour, ``1000 C T 3 3``, from ``B C T H W``."""

    def draw(most: int) -> Tensor:
        return torch.randint(most, (2 * WAYS,), generator=generator)

    places = zip(draw(len(clips)), draw(clips.shape[1]), *(draw(s - SIDE + 1) for s in clips.shape[3:]), strict=True)
    crops = torch.stack([clips[i, c, :, y : y + SIDE, x : x + SIDE] for i, c, y, x in places])
    start, end = crops[:, None].expand(-1, clips.shape[1], -1, -1, -1).split(WAYS)
    share = torch.linspace(0, REACH, SAMPLES // WAYS, device=clips.device)[:, None, None, None, None, None]
    return (start + share * (end - start)).flatten(0, 1)


@indicator("regions")
def regions(subject: Subject) -> float:
    """Expressivity: linear regions that the samples fall in, at most 1000; norms have the samples' statistics."""
    clips = tuple(along_ways(x, subject.generator) for x in subject.clips)
    return count_regions(torch.cat(patterns(subject.net, *clips), 1))


def log_det(signs: list[Tensor]) -> float:
    """log |det K|: K counts in how many units of all layers two clips agree."""
    both = sum(x @ x.T + (1 - x) @ (1 - x).T for x in (s.double() for s in signs))
    return torch.linalg.slogdet(both).logabsdet.item()


@indicator("nwot")
def nwot(subject: Subject) -> float:
    """NASWOT (arXiv 2006.04647) as in NASLib: the sum over layers, in one kernel of the clips."""
    return log_det(patterns(subject.net, *subject.clips))


@indicator("zen")
@torch.no_grad()
def zen(subject: Subject) -> float:
    """Zen (arXiv 2102.01063) of ``net.features``, with weights and clips of normal noise.

    Ours: the variance of a norm is that of the batch; the authors' running one has a bias that depends on depth. Blocks
    that say ``residual`` lose their shortcut, as the theory wants; those of attention keep theirs.

    Raises:
        IndicatorError: the network has no ``features``.
    """
    net, norms = copy.deepcopy(subject.net), []
    if not hasattr(net, "features"):
        raise IndicatorError(f"{type(net).__name__} has no `features`, B C T H W before its pooling")
    for module in net.modules():
        if getattr(module, "residual", None) is True:
            module.residual = False
        if isinstance(module, _BatchNorm):
            module.reset_parameters()  # and its statistics
            module.eps, module.momentum = ZEN_EPS, 1.0
            norms.append(module)
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.normal_(module.weight, generator=subject.generator)
    x, z = (
        tuple(torch.randn(c.shape, generator=subject.generator).to(c.device) for c in subject.clips) for _ in range(2)
    )
    apart = net.features(*x) - net.features(*(a + ZEN_STEP * b for a, b in zip(x, z, strict=True)))
    used = [m.running_var for m in norms if m.num_batches_tracked]
    return (apart.abs().flatten(1).double().sum(1).mean().log() + sum(v.mean().sqrt().log() for v in used)).item()
