"""The Monte Carlo estimators of FP-NAS and PARSEC, as pure functions of what was sampled.

Sources: FP-NAS (arXiv 2011.10949) eq. 7 for alpha and K = lambda * H; PARSEC (arXiv 1902.05116) for the
importance-weighted gradient, of which eq. 7 is the case with a cost term.

All log-likelihoods here are *means per clip* (minus the cross-entropy), finite or NaN, and already reduced
over ranks by the caller: ranks with different weights would search differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

Likelihood = Literal["mean", "sum"] | float


class AllSamplesFailedError(RuntimeError):
    """No sample of a step has a finite loss: there is nothing to weigh."""


def temperature_of(likelihood: Likelihood, num_clips: int) -> float:
    """Temperature T of the weights softmax(mean log-likelihood / T).

    Args:
        likelihood: ``"sum"``: the likelihood of the batch as in Bayes' rule, the product over clips (T = 1 /
            clips). ``"mean"``: the geometric mean per clip (T = 1), far flatter. A number: T itself; ``inf``
            gives equal weights. It is unknown which one the FP-NAS authors used.
        num_clips: clips behind each log-likelihood, over all ranks.
    """
    if likelihood == "mean":
        return 1.0
    if likelihood == "sum":
        return 1.0 / num_clips
    if isinstance(likelihood, str) or not likelihood > 0:
        raise ValueError(f"likelihood={likelihood!r}: give 'mean', 'sum' or a temperature > 0")
    return float(likelihood)


def hinge_cost(gmacs: Tensor, target: float | None) -> Tensor:
    """C(A) = max(0, GMACs / TARGET - 1), FP-NAS's cost, from GMACs or from milliseconds; zero without a target."""
    if target is None:
        return torch.zeros_like(gmacs)
    return (gmacs / target - 1).clamp(min=0)


def importance_weights(
    log_likelihood: Tensor, gmacs: Tensor, *, target: float | None, beta: float, temperature: float
) -> Tensor:
    """Weights m_k of the alpha gradient (FP-NAS eq. 7).

    ``m_k = softmax_k(log_likelihood / T) - beta * C_k / sum_j C_j``. They sum to 1, or to 1 - beta when a
    sample is over budget; with none over budget the second term is 0/0 and taken as 0. A sample whose
    log-likelihood is not finite is dropped: weight 0, and absent from both normalisers.

    Args:
        log_likelihood: means per clip, ``K``.
        gmacs: of the same architectures, ``K``.
        target: budget in GMACs, None for no budget.
        beta: weight of the cost.
        temperature: see :func:`temperature_of`.

    Raises:
        AllSamplesFailedError: no log-likelihood is finite.
    """
    finite = log_likelihood.isfinite()
    if not finite.any():
        raise AllSamplesFailedError(f"none of {len(finite)} sampled architectures has a finite loss")
    scaled = (log_likelihood.double() / temperature).masked_fill(~finite, -torch.inf)
    cost = hinge_cost(gmacs.double(), target).masked_fill(~finite, 0)
    return scaled.softmax(0) - beta * torch.nan_to_num(cost / cost.sum())


def alpha_loss(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Scalar whose gradient in alpha is eq. 7, ``sum_k m_k * (-log P(A_k))``; the weights are constants."""
    return -(weights.detach() * log_prob).sum()


def adaptive_samples(entropy: float, *, lam: float = 0.25, minimum: int = 2) -> int:
    """K = max(minimum, floor(lam * H)).

    Args:
        entropy: H(P) in nats. Nats and the floor follow from the paper's own example (K = 14 for 6e25
            architectures at lambda = 1/4).
        lam: samples per nat; 1/4 is the paper's default.
        minimum: 2, since with K = 1 the only weight is always 1 and ranks nothing; the papers name none.
    """
    # A uniform H is a sum of float logs: 8 nats may come out as 7.999...
    return max(minimum, math.floor(lam * entropy + 1e-9))


class ImportanceAccumulator:
    """Importance-weighted gradient of the shared weights, in one pass over the samples.

    The wanted gradient is ``sum_k w_k grad L_k`` with ``w = softmax(-L / T)``, whose normaliser is known only
    after the last sample. So ``p.grad`` holds ``sum_k exp(-L_k/T - m) grad L_k`` with m the running maximum
    of ``-L/T``, is rescaled when m changes, and is divided by ``sum_k exp(-L_k/T - m)`` at the end. Memory holds
    the sum, the gradients of one sample, and the activations of one part of one sample.

    ::

        optimizer.zero_grad()
        step = ImportanceAccumulator(supernet.parameters(), temperature=1 / num_clips)
        for code in codes:
            step.backward(loss_of(code, part) * len(part) / num_clips for part in parts)
        weights = step.finish()
        optimizer.step()

    Args:
        parameters: their ``grad`` is accumulated and must be None at the start.
        temperature: see :func:`temperature_of`; ``inf`` gives the plain mean over samples.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], temperature: float = 1.0) -> None:
        """Start with no sample."""
        self.parameters = [p for p in parameters if p.requires_grad]
        if any(p.grad is not None for p in self.parameters):  # their values would cost a device sync each
            raise ValueError("parameters already hold gradients; call optimizer.zero_grad(set_to_none=True) first")
        self.temperature = temperature
        self.dropped = 0
        self._scaled: list[float] = []
        self._maximum = -math.inf
        self._sum = 0.0

    def backward(self, parts: Iterable[Tensor], reduce: Callable[[Tensor], float] = float) -> float:
        """Back-propagate one sample, part by part.

        Args:
            parts: scalars with graphs that add up to the sample's mean loss per clip; each graph is freed before the
                next part is computed.
            reduce: maps the detached sum of the parts to the loss that sets the sample's weight: its mean over ranks.

        Returns:
            The loss that sets the weight. If it is not finite, the sample is dropped and counted in ``dropped``.
        """
        before = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        total = 0.0
        for part in parts:
            part.backward()
            total = total + part.detach()
        loss = reduce(total)
        if not math.isfinite(loss):
            for p, grad in zip(self.parameters, before, strict=True):
                p.grad = grad
            self.dropped += 1
            self._scaled.append(-math.inf)
            return loss
        scaled = -loss / self.temperature
        self._scaled.append(scaled)
        maximum = max(scaled, self._maximum)
        shrink, weight = math.exp(self._maximum - maximum), math.exp(scaled - maximum)
        self._maximum, self._sum = maximum, self._sum * shrink + weight
        if weight != 1:
            self._scale([p.grad for p in self.parameters], weight)
        if shrink != 1:
            self._scale(before, shrink)
        for p, grad in zip(self.parameters, before, strict=True):
            if grad is not None:
                p.grad = grad if p.grad is None else p.grad.add_(grad)
        return loss

    def finish(self) -> Tensor:
        """Normalise the gradients in place; returns the weights w, ``K`` (float64, 0 for dropped samples).

        Raises:
            AllSamplesFailedError: no sample had a finite loss.
        """
        if self._sum == 0:
            raise AllSamplesFailedError(f"none of {len(self._scaled)} sampled architectures has a finite loss")
        self._scale([p.grad for p in self.parameters], 1 / self._sum)
        return torch.tensor(self._scaled, dtype=torch.float64).softmax(0)

    @staticmethod
    @torch.no_grad()
    def _scale(gradients: list[Tensor | None], factor: float) -> None:
        if present := [g for g in gradients if g is not None]:
            torch._foreach_mul_(present, factor)
