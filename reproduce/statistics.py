"""Is a difference real? Intervals over videos and runs, from per-video predictions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from reproduce.records import RunRecord, ranks

RESAMPLES = 10_000


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy, in percent."""
    interval = binomtest(round(correct), n).proportion_ci(0.95, "wilson")
    return 100 * interval.low, 100 * interval.high


def outcomes(records: Iterable[RunRecord], folder: Path) -> np.ndarray:
    """Runs × videos in the order of ids, 1 where the run was right.

    Args:
        records: of one suite; a table has refused those of different videos.
        folder: of their predictions.
    """
    return np.stack([ranks(pd.read_parquet(folder / r.result.predictions)) == 0 for r in records]).astype(float)


def paired_interval(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Difference of mean accuracies in points, with a 95 % interval: bootstrap over runs, and over videos in common.

    A side of one run has no spread over runs: the interval is then over videos alone on that side.

    Args:
        a: runs × videos, 1 where right.
        b: the same for the other model; same videos in the same order.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        videos = rng.integers(0, a.shape[1], a.shape[1])
        runs = rng.integers(0, len(a), len(a)), rng.integers(0, len(b), len(b))
        draws[i] = a[runs[0]][:, videos].mean() - b[runs[1]][:, videos].mean()
    low, high = np.quantile(100 * draws, (0.025, 0.975))
    return float(100 * (a.mean() - b.mean())), float(low), float(high)
