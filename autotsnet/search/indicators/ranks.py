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

    The range is that of the last ten, with the new one. What has no value counts as the worst so far.

    Args:
        value: ``I``.
        before: of all architectures before, the last one last, ``R I``.
        signs: of the ``I`` indicators.

    Returns:
        The reward; 0 for the first architecture; -inf while no architecture has had any value.
    """
    known = _upward(torch.cat([before, value[None]]), signs)
    worst = known.masked_fill(~known.isfinite(), torch.inf).amin(0)
    there = worst.isfinite()
    if not there.any():
        return -torch.inf
    if len(known) < 2:
        return 0.0
    last = known.maximum(worst)[-LAST:, there]
    return ((last[-1] - last[-2]) / (last.amax(0) - last.amin(0) + 1e-6)).sum().item()


def _upward(values: Tensor, signs: Sequence[int]) -> Tensor:
    """More is better; -inf where there is no value."""
    upward = values.double() * torch.tensor(signs, dtype=torch.float64)
    return upward.masked_fill(~upward.isfinite(), -torch.inf)
