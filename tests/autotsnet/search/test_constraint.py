"""Limits in GMACs and in milliseconds; the clock is planted."""

import pytest
import torch
from torch import nn

from autotsnet.cost import CostModel
from autotsnet.search.constraint import CONSTRAINTS, GMACs, Runtime
from autotsnet.search.estimator import hinge_cost
from autotsnet.spaces import preset

TINY = preset("tiny")
CODES = torch.stack([0 * TINY.counts, TINY.counts - 1])


class Net(nn.Module):
    """A network that moves the clock by so many seconds a pass, and by a hundred in its first three."""

    def __init__(self, now: list[float], seconds: float) -> None:
        super().__init__()
        self.now, self.seconds, self.passes = now, seconds, 0

    def forward(self, clips):
        assert clips.shape == (1, 3, 8, 64, 64)
        self.passes += 1
        self.now[0] += 100 if self.passes <= 3 else self.seconds


@pytest.fixture
def measured(monkeypatch):
    """A clock, and the networks that were built."""
    now, built = [0.0], []

    def static_model(self, architecture, num_classes):
        built.append(Net(now, 0.002 if architecture == TINY.decode(CODES[0]) else 0.006))
        return built[-1]

    monkeypatch.setattr(type(TINY), "static_model", static_model)
    return now, built


def runtime(now, **options) -> Runtime:
    return CONSTRAINTS.build(
        dict(type="runtime", space=TINY, num_classes=10, clock=lambda: now[0], device="cpu", **options)
    )


def test_a_runtime_is_the_median_after_a_warm_up_and_measured_once(measured):
    now, built = measured
    constraint = runtime(now, milliseconds=4.0, repeats=5)
    assert constraint.cost(CODES).tolist() == pytest.approx([2, 6])
    assert constraint.cost(CODES.flip(0)).tolist() == pytest.approx([6, 2])
    assert [net.passes for net in built] == [8, 8]
    assert constraint.range() == pytest.approx((2, 6))
    assert hinge_cost(constraint.cost(CODES), constraint.limit).tolist() == pytest.approx([0, 0.5])


def test_a_hopeless_candidate_is_measured_once(measured):
    now, built = measured
    constraint = runtime(now, milliseconds=2.5, repeats=5, hopeless=2.0)
    assert constraint.cost(CODES).tolist() == pytest.approx([2, 6])
    assert [net.passes for net in built] == [8, 4]


def test_a_ratio_is_to_what_the_reference_takes_here(measured):
    now, _ = measured
    assert runtime(now, ratio=1.5, reference=Net(now, 0.01)).limit == pytest.approx(15)


def test_a_runtime_needs_one_limit():
    for wrong in (dict(), dict(milliseconds=1.0, ratio=2.0), dict(ratio=2.0)):
        with pytest.raises(ValueError, match="give a runtime either milliseconds, or a ratio and its reference"):
            runtime([0.0], **wrong)


def test_gmacs_are_those_of_the_closed_form():
    constraint = GMACs(0.03, space=TINY, num_classes=10)
    for alone in (None, "slow"):
        torch.testing.assert_close(constraint.cost(CODES, alone), CostModel(TINY, 10, alone).gmacs(CODES))
    assert constraint.range() == CostModel(TINY, 10).range()
