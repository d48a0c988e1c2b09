"""Intervals: against the textbook, and on data whose truth is known."""

import numpy as np
import pytest

from reproduce.statistics import paired_interval, wilson


def test_wilson_against_the_textbook():
    low, high = wilson(8, 10)  # Brown, Cai, DasGupta 2001: 0.4902, 0.9433
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))


def test_paired_interval_of_a_model_with_itself_is_zero():
    a = np.random.default_rng(0).integers(0, 2, (1, 200)).astype(float)
    assert paired_interval(a, a) == (0, 0, 0)


def test_pairing_takes_the_difficulty_of_videos_out():
    rng = np.random.default_rng(0)
    b = (rng.random((1, 400)) < 0.5).astype(float)
    a = b.copy()
    a[0, np.flatnonzero(b[0] == 0)[:20]] = 1  # right wherever b is, and on 20 more
    difference, low, high = paired_interval(a, b)
    assert difference == pytest.approx(5.0)
    assert 0 < low < 5 < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.05 * 0.95 / 400), rel=0.1)


def test_spread_over_runs_widens_the_interval():
    rng = np.random.default_rng(0)
    rates = np.array([0.3, 0.5, 0.7])[:, None]
    a, b = (rng.random((3, 400)) < rates), (rng.random((3, 400)) < 0.5)
    _, low, high = paired_interval(a.astype(float), b.astype(float))
    assert high - low > 20
