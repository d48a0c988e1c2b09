"""Equal care: the same number of trials for every entry of a suite, and never on test videos.

    python -m reproduce tune kinetics-quick

A trial is the recipe with other values, from the space that it names in ``tuning`` (``configs/recipes/quick.py``).
Trial 0 is the recipe as it stands; the values of the others follow from the study's seed and their number, so that all
entries get the same points. Successive halving: all trials train for the first of the recipe's ``shares`` of its
epochs, the best of them for the next. The best have the highest top-1 on held-out videos, and of equal ones the least
log-loss; a trial that diverges is the worst.

RUNS/tuning/<suite>/<entry>-s<seed>-<hash>/    a trial, as a run, and trial.json
RESULTS/tuning/<suite>/<entry>.json            the trials of an entry, what they took, and what they chose
<file of the suite>.tuned.json                 what was chosen, where it is taken over: the suite's recipe from then on
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.dist import get_world_size
from scipy.stats.qmc import Halton
from tabulate import tabulate

from reproduce.data import synthetic
from reproduce.data.decode import DEFAULT
from reproduce.data.frames import cache as decode_once
from reproduce.data.manifest import DataError, Manifest
from reproduce.engine.runner import DivergedError, preemptible, threads_of
from reproduce.engine.test import test
from reproduce.engine.train import train
from reproduce.launch import parallel
from reproduce.lease import held
from reproduce.progress import Progress
from reproduce.records import Search, Tuning, score, session
from reproduce.search.stage import method, resolved, search_config
from reproduce.spec import RunSpec, digest
from reproduce.suites import Entry, Suite, check_equal_care
from reproduce.whole_files import write_json

HELD_OUT = 0.1  # of the training videos of each class, where the data set has no videos to choose on
LEAST = 2  # trials that go on
DONE = "trial.json"  # in a trial's folder, when it is over


class TuningError(ValueError):
    """Trials cannot be made, or say nothing; the message names the entry and the way out."""


@dataclass(frozen=True)
class Plan:
    """The trials of an entry, before the first.

    Attributes:
        entry: whose.
        trials: how many, the recipe as it stands among them.
        shares: of the recipe's epochs that trials train for, one rung after the other.
        space: place in the config -> ``low``, ``high``, and ``log`` where it is drawn by ratio.
        structure: arguments of the network that are tried instead of the recipe's.
        seed: of the points, and of all trainings.
    """

    entry: Entry
    trials: int
    shares: tuple[float, ...]
    space: dict[str, dict[str, Any]]
    structure: list[dict[str, Any]]
    seed: int

    @classmethod
    def of(cls, entry: Entry, trials: int = 0, seed: int = 0) -> Plan:
        """What an entry's config says; ``trials`` in place of its own, if not 0.

        Raises:
            TuningError: it says nothing, or something that cannot be done.
        """
        given, recipe, where = entry.tuning_space(), entry.recipe(), f"{entry.name}, `tuning` in its recipe"
        if not given:
            raise TuningError(
                f"{entry.name}: its recipe has no `tuning`, the space of the trials, and stays as its authors have it; "
                "see configs/recipes/quick.py"
            )
        try:
            of_net = given.get("structure", {}).get(entry.net or entry.name, [])
            plan = cls(entry, trials or given["trials"], tuple(given["shares"]), given["space"], of_net, seed)
            for place, of in plan.space.items():
                low, high, least = of["low"], of["high"], 0 if of.get("log") else -math.inf
                if not least < low < high < math.inf or of.keys() - {"low", "high", "log"}:
                    raise TuningError(f"{where}: {place} is {of}, no range from `low` to `high`")
                float(reduce(getitem, place.split("."), recipe))
            if not plan.space or plan.shares != tuple(sorted({*plan.shares, 1})) or plan.shares[0] <= 0:
                raise TuningError(f"{where}: `shares` are {plan.shares}, they rise to 1; `space` is {plan.space}")
            if plan.trials < LEAST:
                raise TuningError(f"{entry.name}: {plan.trials} trials choose nothing, take {LEAST} or more")
        except TuningError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TuningError(f"{where} is not right ({error!r}); see configs/recipes/quick.py") from error
        if plan.structure and entry.search:
            raise TuningError(f"{where}: the structure of {entry.name} is searched for, not tuned; take it out")
        return plan

    @property
    def hash(self) -> str:
        """Equal for the entries of a suite, whose structures differ."""
        return digest([self.space, self.shares, self.seed])

    def values(self, number: int) -> dict[str, Any]:
        """Of a trial: a point of a Halton sequence, shifted by the seed, to three digits; of trial 0, none."""
        if not number:
            return {}
        dimensions = len(self.space) + 1
        shift = np.random.default_rng((self.seed, 4)).random(dimensions)
        *point, which = (Halton(dimensions, scramble=False).random(number + 1)[number] + shift) % 1
        made = {}
        for (place, of), u in zip(sorted(self.space.items()), point, strict=True):
            low, high = of["low"], of["high"]
            made[place] = float(f"{low * (high / low) ** u if of.get('log') else low + (high - low) * u:.3g}")
        options = [{}, *self.structure]
        return made | _of_net(options[int(which * len(options))])

    def kept(self, rung: int, trials: int) -> int:
        """How many of a rung's trials go on: so many that the next rung takes as long; of the last rung's, one."""
        if rung + 1 == len(self.shares):
            return 1
        return min(trials, max(LEAST, math.ceil(round(trials * self.shares[rung] / self.shares[rung + 1], 6))))

    def check(self, suite: Suite) -> None:
        """Find out before the first step what cannot be brought to the suite's budget.

        Raises:
            TuningError: a structure, drawn or not.
            BudgetError: the recipe's own network.
        """
        if self.entry.search:
            method(suite, search_config(self.entry)).check()
            return
        suite.solution(self.entry)
        for option in self.structure:
            try:
                solution = suite.solution(replace(self.entry, values=_of_net(option)))
                fault = "" if solution.matched else f"it misses by {100 * solution.residual:+.1f} %"
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                fault = str(error)
            if fault:
                raise TuningError(
                    f"{self.entry.name}: its structure {option} does not meet {suite.name}'s budget: {fault}; "
                    "take it out of `tuning` in the recipe"
                )


def _of_net(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {f"net.{name}": value for name, value in arguments.items()}


@dataclass(frozen=True)
class Trial:
    """One training with one set of values, and its test on held-out videos.

    Attributes:
        suite: with the entry's protocol.
        spec: the run.
        train: its videos.
        held_out: the videos that it is judged on.
        number: of the trial.
        values: see ``Plan.values``.
    """

    suite: Suite
    spec: RunSpec
    train: Manifest
    held_out: Manifest
    number: int
    values: dict[str, Any]

    def __str__(self) -> str:
        """``x3d trial 2, 1 epochs: lr 0.004, weight_decay 0.03``."""
        return f"{self.spec.entry} trial {self.number}, {self.spec.recipe['epochs']:.3g} epochs: {said(self.values)}"

    @property
    def clips(self) -> int:
        """That it trains on."""
        return round(self.spec.recipe["epochs"] * len(self.train.videos))

    def folder(self, runs: Path) -> Path:
        """Apart from those of runs."""
        return self.spec.folder(runs / "tuning")

    def result(self, runs: Path) -> dict[str, Any] | None:
        """What ``run`` has left; None: nothing yet."""
        path = self.folder(runs) / DONE
        return json.loads(path.read_text()) if path.exists() else None

    def run(self, cache: Path, runs: Path, results: Path, number: str = "", timed: bool = True) -> None:
        """Do what is missing and leave ``trial.json``; arguments as of ``reproduce.launch.local.Job.run``."""
        folder, protocol = self.folder(runs), self.suite.protocol
        if self.result(runs):
            return
        with held(folder), threads_of(self.spec.recipe):
            print(f"  {self}", file=sys.stderr)
            clock, begin = folder / "train" / "clock.json", time.monotonic()
            before = json.loads(clock.read_text())["a_seconds"] if clock.exists() else 0.0  # of earlier sessions
            write_json(folder / "spec.json", self.spec.model_dump())
            try:
                if not (folder / "model.safetensors").exists():
                    train(self.spec, protocol, self.train, folder)
                if not (folder / "predictions.parquet").exists():
                    test(self.spec, protocol, self.held_out, folder)
                found = judged(folder)
            except DivergedError as error:
                print(f"  {error}", file=sys.stderr)
                found = dict(diverged=True)
            wall, gpu = before + time.monotonic() - begin, torch.cuda.is_available()
            took = dict(seconds=wall * (1 if gpu else torch.get_num_threads()), unit="GPU" if gpu else "core")
            write_json(folder / DONE, found | took)


def judged(folder: Path) -> dict[str, Any]:
    """What a trial's predictions are worth: right videos of n, and log-loss; a failed video is wrong, and at chance."""
    table = pd.read_parquet(folder / "predictions.parquet")
    fine = table[table.error == ""]
    scores = np.stack(fine.scores) if len(fine) else np.ones((0, 2))
    if not np.isfinite(scores).all():
        return dict(diverged=True)
    right = scores[np.arange(len(fine)), fine.label]
    losses = np.append(-np.log(right.clip(1e-12)), [math.log(scores.shape[1])] * (len(table) - len(fine)))
    return dict(diverged=False, top1=score(table)[0], n=len(table), log_loss=float(losses.mean()))


def best_first(results: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Numbers of the trials that did not diverge."""
    finite = {number: (-of["top1"], of["log_loss"], number) for number, of in results.items() if not of["diverged"]}
    return sorted(finite, key=finite.get)


def videos(suite: Suite, cache: Path) -> tuple[Manifest, Manifest]:
    """Those that trials train on, and those that they are judged on; none is a test video.

    The latter are the data set's own, where it has some; else a tenth of the training videos of each class, at least
    one, chosen by the hashes of their ids and taken out of training.

    Raises:
        DataError: the data is not in order, or a class has a single video.
    """
    root = suite.data_root(cache)
    whole = suite.manifest("train", root)
    decode_once(whole)
    if suite.root is None and "holdout" in synthetic.video.splits(suite.size):
        apart = suite.manifest("holdout", root)
        decode_once(apart)
        return whole, apart
    order = sorted(whole.videos, key=lambda video: hashlib.sha256(video.id.encode()).digest())
    counts = Counter(video.label for video in order)
    single = next((label for label, count in counts.items() if count == 1), None)
    if single is not None:
        raise DataError(
            f"{whole.dataset}: class {whole.classes[single]!r} has one training video, and none to hold out for trials"
        )
    left, chosen = {label: max(1, round(HELD_OUT * count)) for label, count in counts.items()}, set()
    for video in order:
        if left[video.label]:
            left[video.label] -= 1
            chosen.add(video.id)
    parts = [tuple(v for v in whole.videos if (v.id in chosen) == out) for out in (False, True)]
    return whole.subset(parts[0]), whole.subset(parts[1])


def tune(
    suite: Suite,
    entries: Iterable[Entry],
    cache: Path,
    runs: Path,
    results: Path,
    trials: int = 0,
    seed: int = 0,
    at_a_time: int = 1,
) -> dict[str, dict[str, Any]]:
    """Do what is missing of the trials of entries; write their files, and return what these hold, by entry.

    Args:
        suite: gives data, budget and protocol.
        entries: of it, or a user's model.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder for the files.
        trials: of each entry; 0: as many as the recipe says.
        seed: of points and trainings.
        at_a_time: trials, a process each.

    Raises:
        TuningError: the trials cannot be made as they are planned; or all of an entry diverged.
        BudgetError: an entry cannot be brought to the budget.
        DataError: see ``videos``.
        PreemptedError: SIGTERM; the same command goes on.
    """
    if get_world_size() > 1:
        raise TuningError("a trial is one process, and JOBS= of them run at a time; issue the command without --gpus")
    # Trials begin at the recipe, not at what earlier ones have chosen; values of a user's own are its recipe.
    untuned = [replace(entry, values={}, tuning=None) if entry.tuning else entry for entry in entries]
    plans = [Plan.of(entry, trials, seed) for entry in untuned]
    if not plans:
        return {}
    if odd := next((plan for plan in plans if plan.hash != plans[0].hash), None):
        raise TuningError(
            f"{plans[0].entry.name} and {odd.entry.name} have recipes of another `tuning`; make them equal, "
            "or tune them apart: their care is not equal"
        )
    for plan in plans:
        plan.check(suite.of(plan.entry))
    learned, held_out = data = videos(suite, cache)
    found = [resolved(suite, plan.entry, seed, 0, learned, runs) for plan in plans]
    plans = [replace(plan, entry=entry) for plan, (entry, _) in zip(plans, found, strict=True)]
    studies = [Study(suite.of(plan.entry), plan, *data) for plan in plans]
    with Progress(f"tune {suite.name}, clips", sum(study.clips() for study in studies)) as progress:
        for _ in plans[0].shares:
            _run([trial for study in studies for trial in study.todo()], cache, runs, results, at_a_time, progress)
            for study in studies:
                study.close(runs)
    # A search on all training videos is charged to the runs that use it, one on a part of them to the trials.
    searches = [search if learned.split == held_out.split else None for _, search in found]
    return {
        study.plan.entry.name: study.write(search, results) for study, search in zip(studies, searches, strict=True)
    }


@dataclass
class Study:
    """The trials of an entry, rung by rung.

    Attributes:
        suite: with the entry's protocol.
        plan: of the trials.
        train: videos of the trainings.
        held_out: videos that trials are judged on.
        rows: of the finished rungs, a row per trial.
    """

    suite: Suite
    plan: Plan
    train: Manifest
    held_out: Manifest
    rows: list[dict[str, Any]] = field(default_factory=list)
    _rung: int = 0
    _alive: Sequence[int] = ()

    def __post_init__(self) -> None:
        self._alive = range(self.plan.trials)

    def trial(self, number: int) -> Trial:
        """Of the present rung."""
        values = {**self.plan.entry.values, **self.plan.values(number)}
        entry = replace(self.plan.entry, values=values)
        spec = RunSpec.of(self.suite, entry, self.plan.seed, self.train, self.held_out)
        epochs = spec.recipe["epochs"] * self.plan.shares[self._rung]
        spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(epochs=epochs)))
        return Trial(self.suite, spec, self.train, self.held_out, number, values)

    def todo(self) -> list[Trial]:
        """The trials of the present rung."""
        return [self.trial(number) for number in self._alive]

    def clips(self) -> int:
        """That all rungs train on."""
        plan, number, total = self.plan, self.plan.trials, 0.0
        for rung, share in enumerate(plan.shares):
            total += number * share
            number = plan.kept(rung, number)
        return round(total * plan.entry.recipe().epochs * len(self.train.videos))

    def close(self, runs: Path) -> None:
        """End the present rung: the best of its trials go on.

        Raises:
            TuningError: all of them diverged.
        """
        trials, share = self.todo(), self.plan.shares[self._rung]
        found = {trial.number: trial.result(runs) for trial in trials}
        for trial in trials:
            what = dict(number=trial.number, values=trial.values, epochs=trial.spec.recipe["epochs"])
            self.rows.append(what | dict(run=trial.spec.hash) | found[trial.number])
        best = best_first(found)
        if not best:
            ranges = ", ".join(f"{place} {of['low']:g} to {of['high']:g}" for place, of in self.plan.space.items())
            raise TuningError(
                f"{self.plan.entry.name}: all {len(found)} trials of {share:.2g} of the epochs diverged, the recipe's "
                f"values and others of {ranges}; lower the rate in the recipe and in its `tuning`"
            )
        self._alive = best[: self.plan.kept(self._rung, len(found))]
        self._rung += 1

    def write(self, search: Search | None, results: Path) -> dict[str, Any]:
        """Write the file of the finished study, where it is not there already, and return what it holds.

        Args:
            search: that was made for the trials only.
            results: folder for the file.
        """
        plan, suite = self.plan, self.suite
        threads = 1 if self.rows[0]["unit"] == "GPU" else plan.entry.recipe().get("threads", 1)
        tuning = Tuning(
            trials=plan.trials,
            seconds=sum(row["seconds"] for row in self.rows)
            + (search.wall_s * search.devices * threads if search else 0),
            unit=self.rows[0]["unit"],
            values=next(row["values"] for row in self.rows if row["number"] == self._alive[0]),
            plan=plan.hash,
            train_manifest=self.train.hash,
            held_out_manifest=self.held_out.hash,
        )
        made = dict(suite=suite.name, dataset=suite.dataset, gmacs=suite.gmacs, entry=plan.entry.name, seed=plan.seed)
        made |= dict(space=plan.space, structure=plan.structure, shares=plan.shares, trials=self.rows)
        made |= dict(search=search and search.model_dump(), tuning=tuning.model_dump())
        path, made = results / "tuning" / suite.name / f"{plan.entry.name}.json", json.loads(json.dumps(made))
        if path.exists() and made.items() <= (known := json.loads(path.read_text())).items():
            return known
        made["provenance"] = session(DEFAULT).model_dump()
        write_json(path, made)
        return made


def _run(todo: list[Trial], cache: Path, runs: Path, results: Path, at_a_time: int, progress: Progress) -> None:
    """Do the trials that are not done."""
    left = {number: trial for number, trial in enumerate(todo) if trial.result(runs) is None}
    missing = list(left.values())
    progress.skip(sum(trial.clips for trial in todo) - sum(trial.clips for trial in missing))

    def seen() -> None:
        for number, trial in list(left.items()):
            if trial.result(runs):
                progress.step(left.pop(number).clips, note=str(trial))

    if at_a_time > 1 and len(missing) > 1:
        parallel.keep_memory()
        parallel.side_by_side(missing, cache, runs, results, min(at_a_time, len(missing)), seen)
    with preemptible():
        for trial in missing:  # what failed in a process of its own fails again here, and says why
            trial.run(cache, runs, results)
            seen()


def take_over(suite: Suite, studies: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write what was chosen beside the suite's file, for all runs from now on; return where.

    Raises:
        SuiteError: it would stand beside values that were chosen with other care.
    """
    known = json.loads(suite.tuned.read_text()) if suite.tuned.exists() else {}
    known |= {name: study["tuning"] for name, study in studies.items()}
    check_equal_care({name: Tuning(**of) for name, of in known.items()}, suite.tuned)
    write_json(suite.tuned, known)
    return suite.tuned


def said(values: Mapping[str, Any]) -> str:
    """Values for a reader: ``lr 0.004, strides (1, 2, 2, 2)``."""
    texts = {place.rpartition(".")[2]: tuple(v) if isinstance(v, list) else v for place, v in values.items()}
    return ", ".join(f"{name} {value}" for name, value in texts.items()) or "the recipe as it stands"


def table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """What trials took and chose, and their top-1 on held-out videos, by entry."""
    rows = []
    for name, study in studies.items():
        tuning, trials = study["tuning"], study["trials"]
        short = [row for row in trials if row["epochs"] == trials[0]["epochs"]]
        last = [row for row in trials if row["epochs"] == trials[-1]["epochs"]]
        best = next(row for row in last if row["values"] == tuning["values"])
        rows.append(
            {
                "model": name,
                "trials": tuning["trials"],
                f"{tuning['unit']}-min": f"{tuning['seconds'] / 60:.1f}",
                "diverged": sum(row["diverged"] for row in short),
                "recipe, short": "–" if short[0]["diverged"] else f"{100 * short[0]['top1'] / short[0]['n']:.1f}",
                "chosen, whole": f"{100 * best['top1'] / best['n']:.1f}",
                "chosen": said(tuning["values"]),
            }
        )
    return tabulate(rows, headers="keys", disable_numparse=True)
