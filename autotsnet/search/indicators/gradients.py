"""Proxies by one gradient, as in SamsungLabs/zero-cost-nas (arXiv 2101.08134), over convolutions and linear layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from autotsnet.search.indicators.subject import IndicatorError, Subject, indicator, layers

JACOBIAN_K = 1e-5


@indicator("grad_norm")
def grad_norm(subject: Subject) -> float:
    """The sum over layers of the L2 norm of the gradient."""
    return sum(g.norm().item() for g in subject.gradients)


@indicator("snip")
def snip(subject: Subject) -> float:
    """The sum of |weight x gradient|."""
    pairs = zip(layers(subject.net), subject.gradients, strict=True)
    return sum((m.weight.detach() * g).abs().sum().item() for m, g in pairs)


@indicator("fisher")
def fisher(subject: Subject) -> float:
    """Half the mean square of each channel's activation x gradient, summed over positions first, times its weights."""
    found: list[tuple[nn.Module, Tensor]] = []
    hooks = [m.register_forward_hook(lambda m, _, y: found.append((m, y))) for m in layers(subject.net)]
    try:
        loss = F.cross_entropy(subject.net(*subject.clips), subject.labels)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(loss, [y for _, y in found], allow_unused=True)
    total = 0.0
    for (module, y), g in zip(found, gradients, strict=True):
        if g is not None:
            channels = -1 if isinstance(module, nn.Linear) else 1
            by_channel = (y.detach() * g).movedim(channels, -1).reshape(len(y), -1, y.shape[channels]).sum(1)
            total += 0.5 * by_channel.double().square().mean(0).sum().item() * module.weight[0].numel()
    return total


@indicator("synflow")
def synflow(subject: Subject) -> float:
    """The sum of |weight x gradient| of the summed logits: on ones, norms left out, weights positive, float64."""
    net = copy.deepcopy(subject.net).double()
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    weights = [m.weight for m in layers(net)]
    total = net(*(torch.ones_like(x[:1], dtype=torch.float64) for x in subject.clips)).sum()
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return sum((w.detach() * g).abs().sum().item() for w, g in zip(weights, found, strict=True) if g is not None)


def jacobian_score(jacobian: Tensor) -> float:
    """By the eigenvalues of the correlations of rows, ``B D``: about -B where there are none.

    Raises:
        IndicatorError: a row is constant.
    """
    correlations = torch.corrcoef(jacobian.double())
    if not correlations.isfinite().all():
        raise IndicatorError("a clip's gradient is constant or not finite, it has no correlation")
    v = torch.linalg.eigvalsh(correlations) + JACOBIAN_K
    return -(v.log() + 1 / v).sum().item()


@indicator("jacob_cov")
def jacob_cov(subject: Subject) -> float:
    """How unlike the gradients of the summed logits in the clips are."""
    clips = [x.detach().requires_grad_() for x in subject.clips]
    parts = torch.autograd.grad(subject.net(*clips).sum(), clips)
    return jacobian_score(torch.cat([g.flatten(1) for g in parts], 1))
