"""What an indicator looks at, and the register of indicators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class IndicatorError(ValueError):
    """An indicator has no value for a network; the message says why."""


def scorable(net: nn.Module) -> nn.Module:
    """Open what starts closed, in place: norm scales of 0 and scalar gates of 0 (ReZero) become 1.

    Behind such a zero all gradients of a residual branch are zero. Dropout is off; norms use the batch's statistics.
    """
    net.eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.train()
        for name, parameter in module.named_parameters(recurse=False):
            gate = parameter.dim() == 0 or (isinstance(module, _BatchNorm) and name == "weight")
            if gate and not parameter.any():
                nn.init.ones_(parameter)
    return net


def layers(net: nn.Module) -> list[nn.Module]:
    """Convolutions and linear layers, in the order of the modules."""
    return [m for m in net.modules() if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)]


@dataclass
class Subject:
    """A scorable network and clips.

    Attributes:
        net: made ready by ``scorable``.
        clips: ``2n C T H W``, one tensor per input; of each pair the first is fitted to, the second held out.
        labels: of the clips, ``2n``.
        num_classes: N.
        generator: of what an indicator draws.
    """

    net: nn.Module
    clips: tuple[Tensor, ...]
    labels: Tensor
    num_classes: int
    generator: torch.Generator

    @contextmanager
    def frozen_norms(self, *clips: Tensor) -> Iterator[None]:
        """Inside, norms use the statistics of some clips, and each clip is on its own."""
        norms = [m for m in self.net.modules() if isinstance(m, _BatchNorm)]
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
        with torch.no_grad():
            self.net(*clips)
        for m in norms:
            m.eval()
        try:
            yield
        finally:
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
                m.train()

    @cached_property
    def kernel(self) -> Tensor:
        """TEG-NAS's kernel of the clips, ``2n 2n`` in float64.

        A clip's row is the gradient of the *sum* of its logits in all weights; norm scales are in, biases are not.
        """
        weights, found = [p for name, p in self.net.named_parameters() if "weight" in name], []
        with self.frozen_norms(*self.clips):
            for i in range(len(self.labels)):
                total = self.net(*(x[i : i + 1] for x in self.clips)).sum()
                parts = torch.autograd.grad(total, weights, allow_unused=True)
                found.append(torch.cat([p.flatten() for p in parts if p is not None]))
        rows = torch.stack(found).double()
        return rows @ rows.T

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Of the cross-entropy in the weights of ``layers``; zero where a layer has no part in it."""
        weights = [m.weight for m in layers(self.net)]
        loss = F.cross_entropy(self.net(*self.clips), self.labels)
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


@dataclass(frozen=True)
class Indicator:
    """One number of a network.

    Attributes:
        name: in configs and tables.
        sign: 1 where more is better, -1 where less is.
        value: of a subject, which it leaves as it is.
    """

    name: str
    sign: int
    value: Callable[[Subject], float]


INDICATORS: dict[str, Indicator] = {}


def indicator(name: str, sign: int = 1) -> Callable:
    """Decorate a function from a ``Subject`` to a number: an indicator of that name."""

    def wrap(value: Callable[[Subject], float]) -> Callable[[Subject], float]:
        INDICATORS[name] = Indicator(name, sign, value)
        return value

    return wrap


def known(names: Iterable[str]) -> list[Indicator]:
    """Indicators by name.

    Raises:
        ValueError: no such indicator; the message lists the known ones.
    """
    names = list(names)
    if bad := [name for name in names if name not in INDICATORS]:
        raise ValueError(f"unknown indicators {', '.join(bad)}; known: {', '.join(sorted(INDICATORS))}")
    return [INDICATORS[name] for name in names]


def measure(names: Iterable[str], subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    """The indicators of a network.

    Args:
        names: of the indicators.
        subject: the network.

    Returns:
        Their values, nan where there is none; and by name why there is none.

    Raises:
        ValueError: no such indicator.
    """
    values, reasons = {}, {}
    for one in known(names):
        try:
            value = float(one.value(subject))
            if not math.isfinite(value):
                reasons[one.name] = f"it is {value}"
        except (IndicatorError, torch.linalg.LinAlgError) as error:
            value, reasons[one.name] = math.nan, str(error)
        values[one.name] = value if math.isfinite(value) else math.nan
    return values, reasons
