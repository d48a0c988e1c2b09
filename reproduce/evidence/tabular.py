"""VideoNAS: trained video networks of equal GMACs as a table to search in. It needs numpy and pandas, nothing of ours.

    from reproduce.evidence.tabular import VideoNAS

    table = VideoNAS("results/videonas/videonas.parquet")
    answer = table.query("even-late-concat-se-e1-k3-d122")  # what a training and a validation would tell
    child = table.neighbours(answer["code"])[0]
    table.query(child, at=1 / 3)  # a third of the training, at a third of its price
    print(table.spent, table.final_report())  # core-seconds; the test of the best that was queried

A code is one level of each factor of ``SPACE``, joined by ``-``. Codes that begin with ``random-`` are architectures
drawn from the whole space of Auto-TSNet; each digit is a candidate of a variable. Queries give validation only, on
videos that are neither of training nor of test. A strategy that looks at the test before it has chosen is no search.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPACE: dict[str, Any] = dict(
    factors=dict(
        split=("slow", "mostly_slow", "even", "mostly_fast", "fast"),  # of the budget; the ends: one stream
        temporal=("none", "late", "all"),  # temporal kernels of 3: nowhere, in the last block group, in all
        fusion=("none", "concat", "fast_to_slow", "slow_to_fast"),  # at all positions
        attention=("none", "se"),  # at the end of all block groups
        expansion=("e1", "e3"),  # in all blocks; at equal GMACs a small one makes a wide network
        kernel=("k3", "k5"),  # spatial, in all blocks
        depth=("d122", "d221"),  # blocks of each group
    ),
    halved=("attention", "expansion", "kernel", "depth"),  # an even number of them is at its second level
    beta=dict(slow=0.0, mostly_slow=0.25, even=0.5, mostly_fast=1.0, fast=1.0),  # channels of fast, of those of slow
    channels=(24, 48, 96),  # of slow before the width is solved for the budget
    stem=16,
    strides=(2, 2, 2),
    alpha=4,
    head=128,
    random="tiny",  # the space of the codes that are drawn
)
FACTORS: dict[str, tuple[str, ...]] = SPACE["factors"]
AT = {1 / 3: "_third", 2 / 3: "_two_thirds", 1.0: ""}  # shares of a training, and the end of their columns' names
DEFAULT = Path(__file__).resolve().parents[2] / "results" / "videonas" / "videonas.parquet"


def space_version() -> str:
    """Eight hex digits of all that a code means."""
    return hashlib.sha256(json.dumps(SPACE, sort_keys=True).encode()).hexdigest()[:8]


def codes() -> list[str]:
    """All codes of the factorial subspace: half of the product, in which no main effect is mixed with that of a pair.

    One stream has no fusion.
    """
    names, halved = list(FACTORS), SPACE["halved"]
    made = []
    for levels in product(*FACTORS.values()):
        of = dict(zip(names, levels, strict=True))
        even = sum(FACTORS[name].index(of[name]) for name in halved) % 2 == 0
        if even and (of["fusion"] == "none" or of["split"] not in ("slow", "fast")):
            made.append("-".join(levels))
    return made


def levels(code: str) -> tuple[str, ...]:
    """The levels of a code, in the order of ``FACTORS``; of one that was drawn, its digits.

    Raises:
        KeyError: it is no code; the message names what is wrong.
    """
    found = _parts(code)
    if code.startswith("random-"):
        return found
    if len(found) != len(FACTORS):
        raise KeyError(f"{code!r} is no code: it has {len(found)} levels, of {', '.join(FACTORS)}")
    for name, level in zip(FACTORS, found, strict=True):
        if level not in FACTORS[name]:
            raise KeyError(f"{code!r} is no code: {name} is {level!r}, not {', '.join(FACTORS[name])}")
    return found


def distance(a: str, b: str) -> int:
    """In how many factors two codes differ."""
    return sum(x != y for x, y in zip_longest(_parts(a), _parts(b)))


def _parts(code: str) -> tuple[str, ...]:
    return tuple(code.removeprefix("random-") if code.startswith("random-") else code.split("-"))


class Surrogate:
    """A Gaussian process over codes: their correlation falls exponentially with the number of levels that differ.

    Length and noise are those of the highest marginal likelihood on a grid.

    Args:
        known: levels of each code, as many of each.
        values: of each.
    """

    def __init__(self, known: Sequence[Sequence[str]], values: Sequence[float]) -> None:
        self.known, y = np.array(known), np.asarray(values, float)
        self.mean, self.scale = y.mean(), y.std() or 1.0
        apart, best = self._apart(self.known), -np.inf
        for length in self.known.shape[1] * np.geomspace(0.1, 3, 8):
            roots, vectors = np.linalg.eigh(np.exp(-apart / length))
            z = vectors.T @ (y - self.mean) / self.scale
            for noise in (0.01, 0.03, 0.1, 0.3, 1.0):
                variances = roots.clip(0) + noise
                likelihood = -(z**2 / variances + np.log(variances)).sum()
                if likelihood > best:
                    best, self.length, self.vectors, self.z, self.variances = likelihood, length, vectors, z, variances

    def _apart(self, others: np.ndarray) -> np.ndarray:
        return (self.known[:, None] != others[None]).sum(-1)

    def __call__(self, code: Sequence[str]) -> tuple[float, float]:
        """Mean and standard deviation for the levels of a code."""
        near = self.vectors.T @ np.exp(-self._apart(np.array([code]))[:, 0] / self.length)
        left = max(0.0, 1 - float((near**2 / self.variances).sum()))
        return float(self.mean + self.scale * (near * self.z / self.variances).sum()), float(self.scale * left**0.5)


class VideoNAS:
    """The table, and an account of what its queries would have cost.

    Args:
        path: of the Parquet file.

    Attributes:
        info: setting, data, manifests and origin, see the data card beside the file.
        codes: of the factorial subspace, those that are in the table.
        drawn: codes drawn from the whole space.
        spent: core-seconds of all trainings that the queries so far stand for.

    Raises:
        ValueError: the file is no such table, or one of another version of the space.
    """

    def __init__(self, path: str | Path = DEFAULT) -> None:
        table = pd.read_parquet(path)
        self.info: dict[str, Any] = table.attrs.get("videonas", {})
        if self.info.get("space") != space_version():
            raise ValueError(
                f"{path} is of space version {self.info.get('space')}, this code knows {space_version()}: take the "
                "code of the commit that made the table, or make the table anew (make videonas)"
            )
        self._runs: dict[str, dict[int, dict[str, Any]]] = {}
        for row in table.to_dict("records"):
            self._runs.setdefault(row["code"], {})[int(row["seed"])] = row
        self.codes = [code for code in self._runs if not code.startswith("random-")]
        self.drawn = [code for code in self._runs if code.startswith("random-")]
        self._surrogates: dict[int, Surrogate] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all queries: another search begins."""
        self.spent, self._paid, self._found = 0.0, {}, {}

    def query(self, code: str, seed: int | None = None, at: float = 1.0, surrogate: bool = False) -> dict[str, Any]:
        """What training and validation of an architecture tell; the same each time.

        A training is charged once, up to the farthest point that was asked for; to go on costs the difference.

        Args:
            code: of the architecture.
            seed: of one training; None: the mean over all that are in the table, and all are charged.
            at: share of the training: 1/3, 2/3 or 1.
            surrogate: for an architecture that is not in the table, an estimate from all that are; it costs nothing.

        Returns:
            ``validation`` in percent, at the end also its ``log_loss`` in nats, ``loss`` of the training at that point,
            ``gmacs``, ``params``, ``clips_per_s``, ``diverged`` (such a training counts as chance), ``seeds``,
            ``charged`` for this query. ``source`` is ``table``; of a ``surrogate`` there are ``validation`` and its
            standard deviation ``sd`` only.

        Raises:
            KeyError: it is not in the table, or not with that seed; the message names the nearest.
            ValueError: no such share.
        """
        share = min(AT, key=lambda known: abs(known - at))
        if abs(share - at) > 0.01:
            raise ValueError(f"at={at}: the table has 1/3, 2/3 and 1")
        runs = self._runs.get(code)
        if runs is None:
            if surrogate:
                return self._estimate(code)
            raise KeyError(
                f"{code} is not in the table; the nearest are {', '.join(self.nearest(code))}; for an estimate: "
                "surrogate=True"
            )
        if seed is not None and seed not in runs:
            raise KeyError(f"{code} was not trained with seed {seed}, but with {', '.join(map(str, runs))}")
        seeds = sorted(runs) if seed is None else [seed]
        charged = 0.0
        for s in seeds:
            paid = self._paid.get((code, s), 0.0)
            charged += runs[s]["core_s"] * max(0.0, share - paid)
            self._paid[code, s] = max(share, paid)
        self.spent += charged
        found = self._mean(code, seeds, AT[share])
        if share == 1:
            self._found[code] = found["validation"]
            found["log_loss"] = self._over(code, seeds, "log_loss")
        return found | dict(at=share, charged=charged)

    def _mean(self, code: str, seeds: list[int], end: str) -> dict[str, Any]:
        rows = [self._runs[code][s] for s in seeds]
        first = rows[0]
        return dict(
            code=code,
            seeds=seeds,
            validation=sum(row["validation" + end] for row in rows) / len(rows),
            loss=sum(row["loss" + end] for row in rows) / len(rows),
            gmacs=first["gmacs"],
            params=first["params"],
            clips_per_s=first["clips_per_s"],
            diverged=any(row["diverged"] for row in rows),
            source="table",
        )

    def _estimate(self, code: str) -> dict[str, Any]:
        found = levels(code)
        if len(found) not in self._surrogates:
            known = [c for c in self._runs if len(levels(c)) == len(found)]
            means = [self._mean(c, sorted(self._runs[c]), "")["validation"] for c in known]
            self._surrogates[len(found)] = Surrogate([levels(c) for c in known], means)
        mean, sd = self._surrogates[len(found)](found)
        return dict(code=code, validation=mean, sd=sd, source="surrogate")

    def nearest(self, code: str, number: int = 3) -> list[str]:
        """The codes in the table that differ from a code in the fewest factors."""
        return sorted(self._runs, key=lambda known: distance(code, known))[:number]

    def neighbours(self, code: str) -> list[str]:
        """The codes of the subspace that are one step away: one factor changes, or two of those that are halved."""
        mine, halved = levels(code), {list(FACTORS).index(name) for name in SPACE["halved"]}
        found = []
        for other in self.codes:
            changed = {i for i, (a, b) in enumerate(zip(mine, levels(other), strict=True)) if a != b}
            if len(changed) == 1 or (len(changed) == 2 and changed <= halved):
                found.append(other)
        return found

    def optimum(self) -> dict[str, Any] | None:
        """An estimate of the best architecture of the subspace, from seeds by which none was chosen for repetition.

        None where nothing was repeated.
        """
        again = {code: [s for s in self._runs[code] if s] for code in self.codes}
        means = {code: self._mean(code, seeds, "") for code, seeds in again.items() if seeds}
        if not means:
            return None
        best = max(means.values(), key=lambda found: found["validation"])
        return best | dict(test=self._over(best["code"], best["seeds"], "test"))

    def _over(self, code: str, seeds: Sequence[int], column: str) -> float:
        return sum(self._runs[code][s][column] for s in seeds) / len(seeds)

    def final_report(self, code: str | None = None) -> dict[str, Any]:
        """The end of a search: the test of the architecture that it chose, over all seeds in the table.

        Args:
            code: what was chosen; by default the highest validation of all that were queried to their end.

        Returns:
            ``test`` in percent, ``test_log_loss``, ``validation``, ``spent``, ``queried`` architectures, and
            ``regret``: the test of ``optimum`` minus this one, in points, None where that is not known.

        Raises:
            ValueError: nothing was queried to its end.
            KeyError: the code is not in the table.
        """
        if code is None:
            if not self._found:
                raise ValueError("no architecture was queried to its end; query some, or name what was chosen")
            code = max(self._found, key=self._found.get)
        if code not in self._runs:
            raise KeyError(f"{code} is not in the table; the nearest are {', '.join(self.nearest(code))}")
        seeds, best = sorted(self._runs[code]), self.optimum()
        test = self._over(code, seeds, "test")
        return dict(
            code=code,
            seeds=seeds,
            validation=self._mean(code, seeds, "")["validation"],
            test=test,
            test_log_loss=self._over(code, seeds, "test_log_loss"),
            regret=best and best["test"] - test,
            spent=self.spent,
            queried=len({c for c, _ in self._paid}),
        )
