"""TEG-NAS (arXiv 2108.11939): trainability and generalisation, by the neural tangent kernel.

As in its code, a clip's gradient is that of the sum of its logits. Ours: norms have the statistics of all clips and are
then constants, so that a gradient is of one clip alone; the kernel is in float64; both indicators share it, with all
weights; and the regression is tested on held-out clips of training, not on those of the test.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autotsnet.search.indicators.subject import IndicatorError, Subject, indicator

SINGULAR = 1e-12  # smallest over largest eigenvalue: below, it is what float32 gradients are rounded by


def spectrum(kernel: Tensor) -> Tensor:
    """Eigenvalues in rising order.

    Raises:
        IndicatorError: the kernel is singular or not finite.
    """
    if not kernel.isfinite().all():
        raise IndicatorError("the kernel of the gradients is not finite")
    found = torch.linalg.eigvalsh(kernel.double())
    if not found[0] > SINGULAR * found[-1]:
        raise IndicatorError(
            f"the kernel of {len(kernel)} clips is singular, its eigenvalues are {found[0]:.2g} to {found[-1]:.2g}: "
            "clips are alike, or their gradients are zero"
        )
    return found


def condition(kernel: Tensor) -> float:
    """The largest eigenvalue over the smallest.

    Raises:
        IndicatorError: the kernel is singular.
    """
    found = spectrum(kernel)
    return (found[-1] / found[0]).item()


def regression_error(fit: Tensor, across: Tensor, labels: Tensor, held_out: Tensor, num_classes: int) -> float:
    """Squared error of kernel regression, summed over classes: the mean over held-out clips.

    Args:
        fit: kernel of the n clips that are fitted, ``n n``.
        across: kernel of held-out clips and fitted ones, ``m n``.
        labels: of the fitted clips, ``n``.
        held_out: of the others, ``m``.
        num_classes: N. Labels are one-hot minus their mean.

    Raises:
        IndicatorError: the kernel is singular.
    """
    spectrum(fit)
    y, target = (F.one_hot(part, num_classes).double() for part in (labels, held_out))
    predicted = across.double() @ torch.linalg.solve(fit.double(), y - y.mean(0))
    return (predicted - (target - target.mean(0))).square().sum(1).mean().item()


@indicator("kappa", sign=-1)
def kappa(subject: Subject) -> float:
    """Trainability: the condition number of the kernel of the clips that are fitted."""
    return condition(subject.kernel[::2, ::2])


@indicator("error", sign=-1)
def error(subject: Subject) -> float:
    """Generalisation: the error of kernel regression on the held-out clips."""
    kernel, labels = subject.kernel, subject.labels
    return regression_error(kernel[::2, ::2], kernel[1::2, ::2], labels[::2], labels[1::2], subject.num_classes)
