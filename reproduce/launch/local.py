"""The runs of a suite as a list, and one after the other."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmengine.dist import get_rank, get_world_size

from reproduce.data.frames import cache as decode_once
from reproduce.data.manifest import Manifest
from reproduce.engine.runner import preemptible
from reproduce.records import RunRecord
from reproduce.run import run, stages
from reproduce.search.stage import check_searchable, method, resolved, search_config
from reproduce.spec import RunSpec
from reproduce.suites import Suite
from reproduce.suites import suite as suite_named


@lru_cache(maxsize=1)
def _data(suite: Suite, cache: Path) -> tuple[Manifest, Manifest]:
    """Training and test videos, read once for all runs of a suite."""
    root = suite.data_root(cache)
    splits = suite.manifest("train", root), suite.manifest("val", root)
    if get_rank() == 0:
        for manifest in splits:
            decode_once(manifest)
    return splits


@dataclass(frozen=True)
class Job:
    """One run of a suite before its architecture is known: what a process, or a machine of a cluster, is given.

    Attributes:
        suite: see ``Suite.ref``.
        entry: name of the entry.
        seed: of the run.
        variant: which of several architectures of the entry.
    """

    suite: str
    entry: str
    seed: int
    variant: int

    def __str__(self) -> str:
        """``kinetics: auto_tsnet_random architecture 1, seed 0``."""
        suite = suite_named(self.suite)
        kind = f" architecture {self.variant}" if suite.entry(self.entry).variants > 1 else ""
        return f"{suite.name}: {self.entry}{kind}, seed {self.seed}"

    def arguments(self, cache: Path, runs: Path, results: Path) -> list[str]:
        """Of the command line that does this run only."""
        what = ["--entries", self.entry, "--seeds", str(self.seed), "--variant", str(self.variant)]
        what += ["--engine", "local"]
        return ["run", self.suite, *what, "--cache", str(cache), "--runs", str(runs), "--results", str(results)]

    def run(self, cache: Path, runs: Path, results: Path, number: str = "", timed: bool = True) -> RunRecord | None:
        """Search where an architecture is to be found, then train, test and measure; or find it done.

        The run is announced under ``number`` once its data is found to be in order. Not ``timed``, it is left without
        its throughput, hence without a record, until it is run again.
        """
        suite = suite_named(self.suite)
        train, test = _data(suite, cache)
        if number and get_rank() == 0:
            print(f"[{number}] {self}", file=sys.stderr)
        return run(suite, suite.entry(self.entry), self.seed, self.variant, train, test, runs, results, timed)

    def whole(self, cache: Path, runs: Path) -> bool:
        """Whether the run needs no more than to be read; of one with a search of its own that is not asked."""
        suite = suite_named(self.suite)
        entry, data = suite.entry(self.entry), _data(suite, cache)
        if entry.search and entry.variants == 1:
            return False
        entry, _ = resolved(suite, entry, self.seed, self.variant, data[0], runs)
        spec = RunSpec.of(suite.of(entry), entry, self.seed, *data, self.variant)
        return (spec.folder(runs) / "record.json").exists()


def jobs(suite: Suite, entries: list[str], seeds: list[int], variant: int | None = None) -> list[Job]:
    """Every run of a suite, or those of one variant; seeds outermost, so that a stopped job has whole tables first.

    Raises:
        ValueError: a recipe's stages, or the budget of a search, are found to be wrong before the first run.
    """
    for entry in map(suite.entry, entries):
        stages(entry.name, entry.recipe())
        if entry.search:
            method(suite.of(entry), search_config(entry)).check()
    return [
        Job(suite.ref, name, seed, v)
        for seed in seeds
        for name in entries
        for v in range(suite.entry(name).variants)
        if variant in (None, v)
    ]


def check_searches(todo: list[Job], cache: Path, runs: Path, ranks: int) -> None:
    """Before hours of work: raise a ValueError where a search cannot be done on so many ranks."""
    suite = suite_named(todo[0].suite)
    searched = [(e, job.seed) for job in todo if (e := suite.entry(job.entry)).search and e.variants == 1]
    if ranks > 1 and searched:
        train = suite.manifest("train", suite.data_root(cache))
        for entry, seed in searched:
            check_searchable(suite, search_config(entry), seed, train, runs, ranks)


def run_jobs(todo: list[Job], cache: Path, runs: Path, results: Path) -> None:
    """One run after the other.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
    """
    with preemptible():
        check_searches(todo, cache, runs, get_world_size())
        for i, job in enumerate(todo, 1):
            job.run(cache, runs, results, f"{i}/{len(todo)}")
