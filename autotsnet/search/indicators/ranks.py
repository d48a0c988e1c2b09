"""Several indicators as one score: by ranks among all that was measured, or by TEG-NAS's relative change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LAST = 10  # values of an indicator whose range is the unit of a change; published


def rank_sum(values: Tensor, among: Tensor, signs: Sequence[int]) -> Tensor:
    """The sum of ranks, ``K``, 0 for the best in everything: what has no value is last.

    A rank is the share of ``among`` that is better, and half of the share that is as good, so that it hardly moves as
    more is measured.

    Args:
        values: ``K I``, nan where an indicator has no value.
        among: ``R I``, for instance the values themselves.
        signs: of the ``I`` indicators, 1 where more is better.
    """
    mine, others = (_upward(x, signs) for x in (values, among))
    better = (others[None] > mine[:, None]).double().mean(1)
    equal = (others[None] == mine[:, None]).double().mean(1)
    return (better + equal / 2).sum(1)


def change(value: Tensor, before: Tensor, signs: Sequence[int]) -> float:
    """TEG-NAS's reward: the sum over indicators of the change since the last architecture, in units of the range.

    What has no value counts as the worst of the last ten; the range is theirs, with the new value.

    Args:
        value: ``I``.
        before: of the architectures before, the last one last, ``R I``.
        signs: of the ``I`` indicators.

    Returns:
        The reward; 0 for the first architecture. One that has no value yet changes nothing.
    """
    last = _upward(torch.cat([before, value[None]])[-LAST:], signs)
    finite = last.isfinite()
    worst = last.masked_fill(~finite, torch.inf).amin(0)
    filled = torch.where(finite, last, worst)[:, worst.isfinite()]
    if len(last) < 2 or not filled.numel():
        return 0.0
    return ((filled[-1] - filled[-2]) / (filled.amax(0) - filled.amin(0) + 1e-6)).sum().item()


def _upward(values: Tensor, signs: Sequence[int]) -> Tensor:
    """More is better; -inf where there is no value."""
    upward = values.double() * torch.tensor(signs, dtype=torch.float64)
    return upward.masked_fill(~upward.isfinite(), -torch.inf)
