"""Is a difference real? Intervals and tests over videos and runs, from per-video predictions.

A model has few runs that differ in the seed only; they say little about its spread. The spread is therefore pooled over
all runs of a suite, see ``spreads``, and also used for a model of one run.

Symbols: R runs (seeds or architectures) of a model, n videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import bdtr, betaln, ndtri, stdtrit, xlogy  # scipy.stats takes a second to import

from reproduce.records import RecordError, RunRecord, kind, predictions, ranks

RESAMPLES = 10_000
LEVEL = 0.05  # of tests; intervals are 1 - LEVEL
_READ: dict[tuple[Path, str, int], pd.DataFrame] = {}
FAMILIES = 3  # fewer do not show how families differ


@dataclass(frozen=True)
class Spread:
    """How much the accuracies of a family's runs differ if only the seed differs.

    Variances are divided by (m (1 - m))², where m is the accuracy: they are nearly those of the logit. A model of 85 %
    has less room to differ than a model of 50 %; on this scale, the families of a suite are more alike.
    """

    variance: float
    freedom: float  # degrees of freedom of the variance

    def at(self, accuracy: float) -> float:
        """Variance of the accuracies of runs."""
        return self.variance * (accuracy * (1 - accuracy)) ** 2


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus another's, in points, with its 95 % interval and p-value."""

    points: float
    low: float
    high: float
    p: float  # two-sided, of no difference; McNemar's exact where each model has one run and no spread is known
    n: int  # videos
    known: bool = True  # the spread of runs is known; else the difference says nothing about other runs

    def __neg__(self) -> Difference:
        return replace(self, points=-self.points, low=-self.high, high=-self.low)

    def __str__(self) -> str:
        return f"{self.points:+.1f} points [{self.low:+.1f}, {self.high:+.1f}]"


def wilson(correct: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy, in percent; of several runs' mean, neither need be whole."""
    p, z2 = correct / n, ndtri(1 - LEVEL / 2) ** 2
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    low, high = ((p + z2 / (2 * n) + side * half) / (1 + z2 / n) for side in (-1, 1))
    return float(100 * max(0.0, low)), float(100 * min(1.0, high))


def spreads(groups: Iterable[tuple[str, np.ndarray]]) -> dict[str, Spread]:
    """The spread of runs by family, from all runs of a suite; a family that was not run twice is left out.

    Families differ (on synthetic-ssv2 quick by a factor of ten), and most have few runs: the variance of each is
    moderated by all, as for genes in limma (Smyth 2004). Variances of families are assumed to follow v₀ d₀ / χ²(d₀);
    v₀ and d₀ maximise the likelihood of the observed variances, which then follow v₀ F(d, d₀). A family gets the mean
    of its own variance and v₀, weighted by the degrees of freedom d and d₀, with d + d₀ degrees of freedom. If families
    agree, d₀ is large and all are pooled; if not, each keeps its own. Two rules, without which 8 to 12 % of simulated
    suites had an error: d₀ is at most half the number of families, since so few do not determine more; and a variance
    is never below the family's own, since verdicts on families of wide spread would be too sure. With fewer than
    ``FAMILIES`` families, it is not known how families differ: each keeps its own variance.

    Args:
        groups: per group the family and the outcomes, runs × videos. Runs of a group differ in the seed only.
    """
    found: dict[str, list[tuple[float, float, int]]] = {}
    for family, right in groups:
        room = (right.mean() * (1 - right.mean())) ** 2
        if len(right) > 1 and room:
            total, chance = _variances(right)
            found.setdefault(family, []).append((total / room, chance / room, len(right) - 1))
    means = {}
    for family, parts in found.items():
        total, chance, freedom = np.array(parts).T
        means[family] = (*(float(np.average(x, weights=freedom)) for x in (total, chance)), float(freedom.sum()))
    own = {family: Spread(variance, freedom) for family, (variance, _, freedom) in means.items()}
    if len(own) < FAMILIES:
        return own
    total, chance, freedom = np.array(list(means.values())).T
    total = np.maximum(total, chance / 10)  # two runs may agree by chance: no evidence for a variance of zero
    most = max(1.0, len(own) / 2)
    d0 = np.geomspace(1, most, 16)[:, None, None]
    v0 = np.geomspace(total.min(), total.max(), 80)[:, None]
    likelihood = (_log_f(total / v0, freedom, d0) - np.log(v0)).sum(-1)
    i, j = np.unravel_index(likelihood.argmax(), likelihood.shape)
    d0, v0 = float(d0[i, 0, 0]), float(v0[j, 0])
    return {
        family: Spread(max(s.variance, (d0 * v0 + s.freedom * s.variance) / (d0 + s.freedom)), d0 + s.freedom)
        for family, s in own.items()
    }


def spreads_of(runs: Iterable[tuple[RunRecord, Path]], k: int = 1) -> dict[str, Spread]:
    """The ``spreads`` of records, each with the folder of its predictions, grouped by all but the seed."""
    groups: dict[tuple, list[tuple[RunRecord, Path]]] = {}
    for record, folder in runs:
        key = record.suite, record.data.test_manifest, record.entry, record.variant, kind(record)
        groups.setdefault(key, []).append((record, folder))
    return spreads((of[0][0].model.family, outcomes(of, k=k)) for of in groups.values() if len(of) > 1)


def of_family(known: Mapping[str, Spread], records: Sequence[RunRecord]) -> Spread | None:
    """The spread to use for records of one model; None: its own, if it has several architectures or runs."""
    if len({r.variant for r in records}) > 1:
        return None
    return known.get(records[0].model.family)


def accuracy_interval(right: np.ndarray, spread: Spread | None = None) -> tuple[float, float]:
    """95 % interval of a mean accuracy over videos and over runs, in percent.

    For one run of unknown spread it is Wilson's. For several runs, it is Wilson's for the number of videos that gives
    the mean its variance over videos; the variance of runs is added in quadrature, by Student's t (as in
    ``paired_difference``).

    Args:
        right: runs × videos, 1 where right, or architectures × videos, the share of its runs that were.
        spread: of runs, from more than these.
    """
    n = right.shape[1]
    per_video = right.mean(0)
    mean = per_video.mean()
    if per_video.var() > 0:
        n = mean * (1 - mean) / per_video.var() * n
    low, high = wilson(mean * n, n)
    part = _part_of_runs(right, spread)
    if part:
        mean, spread = 100 * mean, 100 * stdtrit(part[1], 1 - LEVEL / 2) * np.sqrt(part[0])
        low, high = mean - np.hypot(mean - low, spread), mean + np.hypot(high - mean, spread)
    return float(max(0.0, low)), float(min(100.0, high))


def learned(accuracy: float, n: int, chance: float) -> bool:
    """Whether an accuracy is shown to be above chance: its one-sided Wilson bound at 5 % is above.

    Args:
        accuracy: mean over runs, 0 to 1. Runs that know nothing may all give the same answers: for any number of runs,
            the bound is that of one run.
        n: videos.
        chance: see ``chance_level``.
    """
    z = ndtri(1 - LEVEL)
    return bool(accuracy - chance > z * np.sqrt(chance * (1 - chance) / n))


def chance_level(labels: np.ndarray, classes: int) -> float:
    """Accuracy without looking at the videos, 0 to 1: one of all classes, or the most frequent class."""
    return float(max(1 / classes, np.bincount(labels).max() / len(labels)))


def outcomes(runs: Sequence[tuple[RunRecord, Path]], common: bool = False, k: int = 1) -> np.ndarray:
    """Runs × videos in the order of ids, 1 where the run was right.

    Args:
        runs: records, each with the folder of its predictions.
        common: if runs were tested on different videos of one data set, use the videos in common.
        k: a run is right if the label is among its first k.

    Raises:
        RecordError: predictions are not the record's, or the runs' videos differ and ``common`` is not set.
    """
    tables = [answers(record, folder) for record, folder in runs]
    manifests = sorted({record.data.test_manifest for record, _ in runs})
    datasets = sorted({record.data.dataset for record, _ in runs})
    if len(datasets) > 1:
        raise RecordError(f"records of {' and '.join(datasets)} have nothing to compare; choose one data set")
    if len(manifests) > 1 and not common:
        raise RecordError(
            f"records of test manifests {' and '.join(manifests)} were made on different videos; "
            "run them on one copy, or compare on the videos in common (--common)"
        )
    ids, label = tables[0].index, tables[0].label
    if not all(t.index.equals(ids) and t.label.equals(label) for t in tables[1:]):
        if not common:
            raise RecordError(f"predictions of test manifest {manifests[0]} list different videos; run `verify`")
        for table in tables[1:]:
            shared = ids.intersection(table.index)
            ids = shared[(label[shared] == table.label[shared]).to_numpy()]
        if ids.empty:
            raise RecordError(f"records of test manifests {' and '.join(manifests)} have no video in common")
        tables = [table.loc[ids] for table in tables]
    return np.stack([table["rank"].to_numpy() < k for table in tables]).astype(float)


def labels(record: RunRecord, folder: Path) -> np.ndarray:
    """Labels of the test videos, in the order of ids."""
    return answers(record, folder).label.to_numpy()


def answers(record: RunRecord, folder: Path) -> pd.DataFrame:
    """Per video, by id in order: ``label``, its ``rank`` among the scores, and the ``answer``, the class of the best.

    Files are read once in a process.
    """
    path, sha = folder / record.result.predictions, record.result.predictions_sha256
    at = path.stat().st_mtime_ns if path.exists() else 0
    if (path, sha, at) not in _READ:
        table = predictions(record, folder)
        answer = [-1 if e else s.argmax() for s, e in zip(table.scores, table.error, strict=True)]
        table = table.assign(rank=ranks(table), answer=answer).set_index("id").sort_index()
        _READ[path, sha, at] = table[["label", "rank", "answer"]]
    return _READ[path, sha, at]


def per_architecture(right: np.ndarray, records: Sequence[RunRecord]) -> np.ndarray:
    """Runs × videos -> architectures × videos, of runs of several architectures; else as it is.

    Seeds of one architecture are no independent draws of architectures: their mean counts as one draw.
    """
    variants = np.array([record.variant for record in records])
    if len(set(variants)) == 1:
        return right
    return np.stack([right[variants == v].mean(0) for v in sorted(set(variants))])


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    spread: tuple[Spread | None, Spread | None] = (None, None),
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Difference of mean accuracies, over videos in common and over runs: a bootstrap in two levels.

    The videos are resampled, the same ones for all runs of both models. Runs are too few to be resampled: with three,
    the bootstrap misses a third of the variance and all of Student's tails. So the runs' part of each draw comes from
    Student's t, with Welch's degrees of freedom. The resampled videos contain a part of the variance of runs again, the
    interaction of runs and videos. It is taken out of a model's own variance, but not of a ``spread``, which would then
    be less certain than its degrees of freedom say: 7 to 8 % of simulated suites had an error.

    Coverage, errors and power in simulated suites: ``python -m reproduce.studies.verdicts`` and
    ``tests/reproduce/evidence/test_statistics.py``. A model of one run and of no known spread is taken as it is:
    nothing is said of its other seeds (``Difference.known``).

    Args:
        a: runs × videos, 1 where right, or architectures × videos, the share of its runs that were.
        b: the same for the other model; same videos in the same order.
        spread: of the runs of each, see ``of_family``; None: their own.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        level: the interval misses the truth in this share of cases.
    """
    rng = np.random.default_rng(seed)
    per_video = a.mean(0) - b.mean(0)
    values, counts = np.unique(per_video, return_counts=True)  # resampling videos means drawing these counts again
    n = len(per_video)
    draws = rng.multinomial(n, counts / n, resamples) @ values / n
    parts = [_part_of_runs(x, s) for x, s in zip((a, b), spread, strict=True)]
    known = [part for part in parts if part]
    if spread[0] and spread[0] is spread[1]:  # one estimate serves both
        known = [(parts[0][0] + parts[1][0], parts[0][1])]
    total = sum(variance for variance, _ in known)
    if total > 0:
        freedom = total**2 / sum(variance**2 / k for variance, k in known)
        draws += np.sqrt(total) * rng.standard_t(freedom, resamples)
    low, high = np.quantile(100 * draws, (level / 2, 1 - level / 2))
    if len(a) == len(b) == 1 and not known:
        p = mcnemar(a[0], b[0])
    else:
        below, above = (draws <= 0).sum(), (draws >= 0).sum()
        p = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Difference(float(100 * per_video.mean()), float(low), float(high), float(p), n, all(parts))


def between(
    first: Sequence[tuple[RunRecord, Path]],
    second: Sequence[tuple[RunRecord, Path]],
    known: Mapping[str, Spread],
    common: bool = False,
    level: float = LEVEL,
) -> Difference:
    """Top-1 of one model's runs minus another's.

    Args:
        first: records of one model, each with the folder of its predictions.
        second: of the other.
        known: spreads of their suite, see ``spreads_of``.
        common: see ``outcomes``.
        level: see ``paired_difference``.
    """
    right = outcomes([*first, *second], common)
    sides = [[record for record, _ in runs] for runs in (first, second)]
    a, b = per_architecture(right[: len(first)], sides[0]), per_architecture(right[len(first) :], sides[1])
    return paired_difference(a, b, (of_family(known, sides[0]), of_family(known, sides[1])), level=level)


def _part_of_runs(x: np.ndarray, spread: Spread | None) -> tuple[float, float] | None:
    """Variance of a mean over runs, and its degrees of freedom; None: not known."""
    if spread:
        return spread.at(x.mean()) / len(x), spread.freedom
    if len(x) == 1:
        return None
    total, chance = _variances(x)
    return max(0.0, total - chance) / len(x), len(x) - 1


def _variances(x: np.ndarray) -> tuple[float, float]:
    """Variance of accuracies between runs, and its part from the videos (two-way analysis of variance)."""
    runs, videos = x.shape
    residual = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    interaction = (residual**2).sum() / ((runs - 1) * (videos - 1))
    return float(x.mean(1).var(ddof=1)), float(interaction / videos)


def _log_f(x: np.ndarray, d1: np.ndarray, d2: np.ndarray) -> np.ndarray:
    """Log density of the F distribution."""
    constant = xlogy(d1 / 2, d1) + xlogy(d2 / 2, d2) - betaln(d1 / 2, d2 / 2)
    return constant + xlogy(d1 / 2 - 1, x) - (d1 + d2) / 2 * np.log(d2 + d1 * x)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """P-value of McNemar's exact test: do both models have equally many videos that only one model has right?"""
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return float(min(1.0, 2 * bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number (Holm 1979): below ``LEVEL``, the difference holds."""
    order = np.argsort(p)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, float)[order] * factors))
    return adjusted
