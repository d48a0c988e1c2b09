"""Is a difference real? Intervals and tests over videos and runs, from per-video predictions.

Symbols: R runs (seeds or architectures) of a model, n videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from reproduce.records import RecordError, RunRecord, predictions, ranks

RESAMPLES = 10_000
LEVEL = 0.05  # of tests; intervals are 1 - LEVEL


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus another's, in points, with its 95 % interval and p-value."""

    points: float
    low: float
    high: float
    p: float  # two-sided, of no difference; McNemar's exact where each model has one run

    def __str__(self) -> str:
        return f"{self.points:+.1f} points [{self.low:+.1f}, {self.high:+.1f}]"


def wilson(correct: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy, in percent; of several runs' mean, neither need be whole."""
    p, z2 = correct / n, norm.ppf(1 - LEVEL / 2) ** 2
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    low, high = ((p + z2 / (2 * n) + side * half) / (1 + z2 / n) for side in (-1, 1))
    return float(100 * max(0.0, low)), float(100 * min(1.0, high))


def accuracy_interval(right: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean accuracy over videos and over runs, in percent.

    Of one run it is Wilson's. Of several, Wilson's for as many videos as would give the mean over runs its variance
    over videos; the runs' own variance comes in by Student's t, at right angles to it (as in ``paired_difference``).

    Args:
        right: runs × videos, 1 where right, or architectures × videos, the share of its runs that were.
    """
    runs, n = right.shape
    per_video = right.mean(0)
    mean = per_video.mean()
    if per_video.var() > 0:
        n = mean * (1 - mean) / per_video.var() * n
    low, high = wilson(mean * n, n)
    if runs > 1:
        mean = 100 * mean
        spread = 100 * student.ppf(1 - LEVEL / 2, runs - 1) * np.sqrt(_variance_of_runs(right) / runs)
        low, high = mean - np.hypot(mean - low, spread), mean + np.hypot(high - mean, spread)
    return float(max(0.0, low)), float(min(100.0, high))


def outcomes(runs: Sequence[tuple[RunRecord, Path]], common: bool = False, k: int = 1) -> np.ndarray:
    """Runs × videos in the order of ids, 1 where the run was right.

    Args:
        runs: records, each with the folder of its predictions.
        common: of runs tested on different videos of one data set, take those that all have.
        k: right is what has the label among its first k.

    Raises:
        RecordError: predictions are not the record's, or the runs' videos differ and ``common`` is not set.
    """
    tables = [predictions(record, folder).set_index("id").sort_index() for record, folder in runs]
    manifests = sorted({record.data.test_manifest for record, _ in runs})
    datasets = sorted({record.data.dataset for record, _ in runs})
    if len(datasets) > 1:
        raise RecordError(f"records of {' and '.join(datasets)} have nothing to compare; choose one data set")
    if len(manifests) > 1 and not common:
        raise RecordError(
            f"records of test manifests {' and '.join(manifests)} were made on different videos; "
            "run them on one copy, or compare on the videos in common (--common)"
        )
    ids = tables[0].index
    for table in tables[1:]:
        shared = ids.intersection(table.index)
        ids = shared[(tables[0].label[shared] == table.label[shared]).to_numpy()]
    if not common and any(len(ids) != len(table) for table in tables):
        raise RecordError(f"predictions of test manifest {manifests[0]} list different videos; run `verify`")
    if ids.empty:
        raise RecordError(f"records of test manifests {' and '.join(manifests)} have no video in common")
    return np.stack([ranks(table.loc[ids]) < k for table in tables]).astype(float)


def per_architecture(right: np.ndarray, records: Sequence[RunRecord]) -> np.ndarray:
    """Runs × videos -> architectures × videos, of runs of several architectures; else as it is.

    Seeds of one architecture are no independent draws of architectures: their mean is one.
    """
    variants = np.array([record.variant for record in records])
    if len(set(variants)) == 1:
        return right
    return np.stack([right[variants == v].mean(0) for v in sorted(set(variants))])


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Difference of mean accuracies, over videos in common and over runs: a bootstrap in two levels.

    The videos are resampled, all runs of both models keeping theirs. Runs are too few to be resampled: of three, the
    bootstrap misses a third of the variance and all of Student's tails, and with a run spread of 4 points its intervals
    covered 92 % of the truths, with 10 points 85 %. So the runs' part of each draw comes from Student's t: the runs'
    variance, less what the videos make of it (the interaction of runs and videos, which the resampled videos
    already carry), with Welch's degrees of freedom.

    Coverage over 2,000 synthetic repeats (``tests/reproduce/test_statistics.py``): 94 to 97 % with 1, 3 or 5 runs a
    side and a run spread of 0 to 8 points. Limits: with two runs it was between 91 and 98 %, in intervals too wide to
    be of use. A model of one run is taken as it is: nothing is said of its other seeds.

    Args:
        a: runs × videos, 1 where right, or architectures × videos, the share of its runs that were.
        b: the same for the other model; same videos in the same order.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    per_video = a.mean(0) - b.mean(0)
    values, counts = np.unique(per_video, return_counts=True)  # resampling videos is drawing these counts anew
    n = len(per_video)
    draws = rng.multinomial(n, counts / n, resamples) @ values / n
    spread = [(_variance_of_runs(x) / len(x), len(x) - 1) for x in (a, b) if len(x) > 1]
    total = sum(variance for variance, _ in spread)
    if total > 0:
        freedom = total**2 / sum(variance**2 / k for variance, k in spread)
        draws += np.sqrt(total) * rng.standard_t(freedom, resamples)
    low, high = np.quantile(100 * draws, (LEVEL / 2, 1 - LEVEL / 2))
    if len(a) == len(b) == 1:
        p = mcnemar(a[0], b[0])
    else:
        below, above = (draws <= 0).sum(), (draws >= 0).sum()
        p = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Difference(float(100 * per_video.mean()), float(low), float(high), float(p))


def _variance_of_runs(x: np.ndarray) -> float:
    """Variance of accuracies between runs beyond the chance of finitely many videos (two-way analysis of variance)."""
    runs, videos = x.shape
    residual = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    interaction = (residual**2).sum() / ((runs - 1) * (videos - 1))
    return max(0.0, float(x.mean(1).var(ddof=1) - interaction / videos))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """P-value of McNemar's exact test: of the videos that only one model has right, are both models' equally many?"""
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for being so many (Holm 1979): below ``LEVEL``, the difference holds."""
    order = np.argsort(p)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, float)[order] * factors))
    return adjusted
