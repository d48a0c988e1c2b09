"""The gate: do the recipes still yield what they yielded?

Expected values and their tolerances stand beside the recipes, ``configs/<size>/<entry>.json``, with a tiny checkpoint
per entry of the tiny suite. Tiers, by what they cost:

- ``instant``: GMACs, parameters, the losses of the first steps on real clips;
- ``inference``: what the committed checkpoint says of the tiny test videos: logits, accuracy;
- ``speed``: forward passes as ratios to a reference network timed in the same run, of several fresh processes, by a
  Mann-Whitney test; nothing else should run;
- ``training``: mean accuracies of the quick suites, over seeds, within their recorded intervals. Records that are there
  are taken; with other folders (``RESULTS=fresh RUNS=fresh/runs``) all is trained anew, in hours. Where runs differ so
  much that the interval would be wider than 10 points, nothing is expected, and the tier says of which.

What is expected and not measured any more fails too.

``accept`` is the one way to move an expectation; it leaves a line in ``results/CHANGES.md``, with the file's hash: a
file that was edited otherwise fails ``check`` and ``verify``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from platform import machine, processor

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.stats import f as fisher
from scipy.stats import mannwhitneyu
from scipy.stats import t as student
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from reproduce.budget import Solution
from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.local import jobs, run_jobs
from reproduce.engine.parallel import keep_memory
from reproduce.engine.runner import threads_of
from reproduce.engine.searching import method, search_config
from reproduce.files import save_weights, write_json
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import Model, RunRecord, git_commit, load_all, score
from reproduce.reference import REFERENCE, note
from reproduce.suites import CONFIGS, SUITES, Architecture, Entry, Suite, difference

CHANGES = REFERENCE / "CHANGES.md"
TIERS = ("instant", "inference", "speed", "training")
INFERENCE = "videos and labels", "top-1, videos", "logits"  # quantities of that tier
SPEED = "time ÷ reference"  # and of that one
GATE = replace(SUITES["ssv2-tiny"], gmacs=0.0022)  # about the least that all families reach: small checkpoints
QUICK = ("kinetics-quick", "ssv2-quick")
STEPS = 20  # whose losses are expected
TEACHING = 240  # steps that a checkpoint is trained for: 24 videos, by heart
PROCESSES = 8  # fresh ones, each a sample of how slow a network is; 7 against 7 could hardly be significant
PAIRS = 20  # of timings in each, network and reference
ALPHA = 1e-3  # of the Mann-Whitney test: one false alarm in a thousand networks that are as slow as tolerated


LOSS_TOLERANCE = 1e-3  # on another platform; with AVX2 or no vectors instead of AVX-512, up to 2e-5 was seen
LOGITS_TOLERANCE = 1e-3
REPEATS = 5  # runs beyond the first of each kind, to know the spread of runs by
WIDEST = 10.0  # points: an interval wider than that gates nothing
SLOWDOWN = 0.05  # processes of the same code differ by 1 % (standard deviation); 15 % is to be caught


class GateError(ValueError):
    """Something no longer yields what it did; the message is the table of differences."""


@dataclass(frozen=True)
class Measured:
    """A value, and what a first expectation of it tolerates.

    Attributes:
        value: a number, a list of numbers, or a text that must be equal.
        tolerance: greatest absolute difference; of ``ratios`` the slowdown; a pair: the value must lie between.
        exact: on the platform of the expectation no difference is tolerated.
        ratios: the value is a sample of time ratios, known on the platform of the expectation only.
        seeds: of the runs whose mean the value is.
    """

    value: float | str | list[float]
    tolerance: float | list[float] = 0.0
    exact: bool = False
    ratios: bool = False
    seeds: tuple[int, ...] = ()


GONE = Measured("–")  # of what is expected and not measured any more


@dataclass(frozen=True)
class Row:
    """One line of the table of differences."""

    path: Path  # of the expectation
    case: str
    quantity: str
    measured: Measured
    expected: dict | None  # as the file has it
    verdict: str  # empty: as expected


# ---- what is measured


def platform() -> str:
    """What must be equal for equal floating point results: torch, the processor and the vectors it is used with."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    keys = "model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part"  # the last two of ARM
    cpu = [re.search(rf"(?m)^{key}\s*: (.*)$", text) for key in keys]
    names = ", ".join(found[1] for found in cpu if found) or f"{machine()} {processor()}"
    return f"torch {torch.__version__}; {names}; {torch.backends.cpu.get_cpu_capability()}"


def ready(suite: Suite, only: Sequence[str] = ()) -> list[Entry]:
    """The entries of a suite that need no search, or those of some names; random architectures are drawn, the first."""
    out = []
    for entry in suite.entries:
        if only and entry.name not in only:
            continue
        if entry.search is None:
            out.append(entry)
        elif entry.variants > 1:
            architecture = _drawn(suite.name, entry)
            # The space does not reach down to the gate's budget: there the solver may scale what was drawn.
            variants = 1 if suite is GATE else entry.variants
            out.append(replace(entry, architecture=architecture, variants=variants))
    return out


@cache
def _drawn(suite_name: str, entry: Entry) -> Architecture:
    config = search_config(entry)
    return method(config).draw(SUITES[suite_name], config, 0)


def cost(suite: Suite, entry: Entry) -> dict[str, Measured]:
    """GMACs and parameters, to the last one; and whether they are the budget, which some families cannot make small."""
    solution = suite.solution(entry)
    out = {"GMACs": Measured(solution.gmacs), "parameters": Measured(solution.params)}
    return out if suite is GATE else out | {"at the budget": _at_budget([solution])}


def _at_budget(costs: Sequence[Solution | Model]) -> Measured:
    missed = [f"{100 * c.residual:+.2f} %" for c in costs if not c.matched]
    return Measured("no: " + ", ".join(missed) if missed else "yes")


def _model(suite: Suite, entry: Entry) -> VideoClassifier:
    return _built(suite.config(entry))


def _built(config: Config) -> VideoClassifier:
    torch.manual_seed(0)
    return VideoClassifier(config.net, label_smoothing=config.label_smoothing)


def losses(
    suite: Suite, entry: Entry, cache: Path, steps: int = STEPS, rate: float = 0.1
) -> tuple[list[float], VideoClassifier]:
    """Train an entry for a few steps by its recipe, at a constant share of its rate; the losses, and the model.

    At the full rate, differences of rounding grow from 1e-7 to 0.1 within 20 steps: no other platform could be checked.
    """
    model, config = _model(suite, entry), suite.config(entry)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # mmengine announces every parameter without decay
    optimiser = build_optim_wrapper(model, config.optim_wrapper)
    for group in optimiser.param_groups:
        group["lr"] *= rate
    clips = TrainClips(suite.manifest("train", suite.data_root(cache)), suite.protocol, seed=0)
    batch, out = config.batch, []
    model.train()
    for step in range(steps):
        torch.manual_seed(step)  # dropout
        data = default_collate([clips[step * batch + i] for i in range(batch)])
        out.append(model.train_step(data, optimiser)["loss"].item())
    return out, model


def checkpoint(entry: Entry, configs: Path) -> Path:
    """Where the tiny weights of an entry stand."""
    return (configs / entry.config).with_name(f"{entry.name}.safetensors")


def teach(suite: Suite, entry: Entry, cache: Path, configs: Path) -> None:
    """Train the tiny checkpoint of an entry and write it in half precision."""
    with threads_of(dict(threads=1)):  # sums over several threads are other sums
        _, model = losses(suite, entry, cache, TEACHING, rate=1.0)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.net.state_dict().items()}
    save_weights(checkpoint(entry, configs), state)


def teach_missing(cache: Path, only: Sequence[str] = (), configs: Path = CONFIGS) -> None:
    """Train the tiny checkpoints that are not there."""
    for entry in ready(GATE, only):
        if not checkpoint(entry, configs).exists():
            teach(GATE, entry, cache, configs)


def taught(suite: Suite, entry: Entry, configs: Path) -> VideoClassifier:
    """The entry with its tiny checkpoint.

    Raises:
        GateError: there is none, or it is not this network's.
    """
    model, path = _model(suite, entry), checkpoint(entry, configs)
    try:
        state = load_file(path)
        model.net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise GateError(
            f"{path} does not fit {entry.name} ({reason}); where the network is meant to have changed, delete it and "
            "run `make accept-results TIERS=inference REASON=…`, which trains another"
        ) from error
    return model.eval()


def inference(suite: Suite, entry: Entry, cache: Path, configs: Path) -> dict[str, Measured]:
    """What the tiny checkpoint says of the videos it was taught and of others, read and scored as in a run's test."""
    try:
        model, root = taught(suite, entry, configs), suite.data_root(cache)
    except GateError as error:
        return {"checkpoint": Measured(str(error))}  # is here when it is not as expected
    rows, logits = [], []
    with torch.inference_mode():
        for split in ("train", "val"):
            for batch in DataLoader(TestVideos(suite.manifest(split, root), suite.protocol), batch_size=8):
                clips = batch.pop("clips")
                logits += model(clips[:, :1]).flatten().tolist()
                rows += [{**row, "scores": row["scores"].numpy()} for row in model(clips, mode="predict", **batch)]
    table = pd.DataFrame(rows).astype({"label": int}).sort_values("id")
    videos = "\n".join(
        f"{v}\t{label}\t{error}" for v, label, error in zip(table.id, table.label, table.error, strict=True)
    )
    return {
        INFERENCE[0]: Measured(f"{len(table)}: {hashlib.sha256(videos.encode()).hexdigest()[:12]}"),
        INFERENCE[1]: Measured(score(table)[0]),
        INFERENCE[2]: Measured(logits, LOGITS_TOLERANCE, exact=True),
    }


class Reference(nn.Sequential):
    """What networks are timed against: pointwise and depthwise convolutions of torch's, nothing of this project's.

    Its maps are small: they stay in the processor's caches, and memory is not what its time depends on.
    """

    def __init__(self) -> None:
        def block() -> Iterator[nn.Module]:
            yield from (nn.Conv3d(24, 48, 1), nn.BatchNorm3d(48), nn.ReLU())
            yield from (nn.Conv3d(48, 48, 3, padding=1, groups=48), nn.BatchNorm3d(48), nn.ReLU())
            yield nn.Conv3d(48, 24, 1)

        stem = nn.Conv3d(3, 24, (1, 3, 3), stride=(4, 8, 8), padding=(0, 1, 1))
        head = nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 8)
        super().__init__(stem, *(layer for _ in range(12) for layer in block()), *head)


def time_ratio(
    net: nn.Module, reference: nn.Module, clips: Tensor, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of a network's forward pass ÷ time of the reference's: the median of passes taken in turn.

    Of a slower clock, or of time shared with others, both have their part, so the ratio stays; a neighbour who takes
    the memory's bandwidth slows down the network alone. Each time is the shortest of five passes.

    Args:
        net: in evaluation mode.
        reference: in evaluation mode.
        clips: B 3 T H W.
        clock: seconds.
    """

    def shortest(module: nn.Module) -> float:
        times = []
        for _ in range(5):
            start = clock()
            module(clips)
            times.append(clock() - start)
        return min(times)

    with torch.inference_mode():
        shortest(net), shortest(reference)  # warm up
        return float(np.median([shortest(net) / shortest(reference) for _ in range(PAIRS)]))


def speeds(
    suite: Suite, entries: Sequence[Entry], planted: Callable[[], AbstractContextManager] = contextlib.nullcontext
) -> dict[str, Measured]:
    """How slow networks are, in forward passes of the reference: a ratio of each of some fresh processes.

    Passes of one process are no independent sample: where its memory lies is the same for all of them.

    Args:
        suite: of the entries.
        entries: whose networks are timed.
        planted: a regression, see ``studies.regressions``.
    """
    found, context = [], multiprocessing.get_context("spawn")
    configs = {e.name: suite.config(e) for e in entries}
    with Progress("speed", PROCESSES) as progress:
        for process in range(PROCESSES):
            with ProcessPoolExecutor(1, context) as pool:
                found.append(pool.submit(_speeds, suite.protocol, configs, planted, process).result())
            progress.step(note=f"of {len(entries)} networks")
    return {e.name: Measured([f[e.name] for f in found], SLOWDOWN, ratios=True) for e in entries}


def _speeds(
    protocol: Protocol, configs: dict[str, Config], planted: Callable[[], AbstractContextManager], process: int
) -> dict[str, float]:
    keep_memory()  # whether glibc gives it back depends on the order of allocations: up to a third of a pass
    names, out = list(configs), {}
    with threads_of(dict(threads=1)), planted():
        torch.manual_seed(0)
        clips = torch.randn(4, 3, protocol.sampling.frames, protocol.crops.size, protocol.crops.size)
        clips = clips.to(memory_format=torch.channels_last_3d)
        reference = Reference().eval().to(memory_format=torch.channels_last_3d)
        np.random.default_rng(process).shuffle(names)  # what was timed before matters a little
        for name in names:
            try:
                out[name] = round(time_ratio(_built(configs[name]).net.eval(), reference, clips), 4)
            except RuntimeError as error:
                raise GateError(f"{name} cannot be timed: {error}") from error
    return out


def spread(records: Sequence[RunRecord], family: str, runs: int) -> float:
    """How far the mean of so many repeated runs may lie from the mean of the first ones, in points: 95 % of them.

    On the same videos only the runs differ: their variance is that over seeds of one network. Rounding is enough for
    it: on another number of threads, with the same seed, trainings part within some steps. It is pooled over a suite;
    families whose runs differ more, or less, than the others' (F test) have their own. ``statistics.spreads`` takes
    the part of chance that videos have in it away, as claims are of other videos, too.

    Args:
        records: of a suite.
        family: whose runs are repeated.
        runs: in the mean.

    Returns:
        Infinity where the records have fewer than ``REPEATS`` repetitions.
    """
    groups: dict[str, dict[tuple, list[float]]] = {}
    for r in records:
        top1 = 100 * r.result.top1 / r.result.n
        groups.setdefault(_kind(r.model.family), {}).setdefault((r.entry, r.variant), []).append(top1)

    def pooled(families: Sequence[str]) -> tuple[int, float]:
        seeds = [g for name in families for g in groups[name].values() if len(g) > 1]
        repeats = sum(len(g) - 1 for g in seeds)
        return repeats, sum(np.var(g, ddof=1) * (len(g) - 1) for g in seeds) / max(1, repeats)

    def differs(name: str) -> bool:
        (repeats, own), (others, rest) = pooled([name]), pooled([other for other in groups if other != name])
        if not repeats or not others or not rest:
            return False
        p = fisher.cdf(own / rest, repeats, others)
        return 2 * min(p, 1 - p) < 0.05

    family, alike = _kind(family), [name for name in groups if not differs(name)]
    repeats, variance = pooled(alike if family in alike else [family])
    return float(student.ppf(0.975, repeats) * np.sqrt(2 * variance / runs)) if repeats >= REPEATS else np.inf


def _kind(family: str) -> str:
    """Uniform architectures are of the space of the others; their runs differ as much."""
    return family.removesuffix("_uniform")


def training(
    suite: Suite, entry: Entry, cache: Path, runs: Path, results: Path, seeds: Sequence[int] = ()
) -> dict[str, Measured]:
    """The mean accuracy of an entry's records in ``results``, else in the reference.

    What is missing of today's recipe is trained first.

    Args:
        suite: of the entry.
        entry: of which all architectures and all seeds count.
        cache: of the embedded videos.
        runs: folder of run folders.
        results: folder of records.
        seeds: that must be among them; without any and without a record, 0.
    """

    def stored() -> list[RunRecord]:
        places = dict.fromkeys((REFERENCE, results))  # one's own count where there are both
        return [r for place in places for r in load_all(place / "records" / suite.name)]

    def found() -> dict[tuple[int, int], RunRecord]:
        mine = [r for r in stored() if r.entry == entry.name and r.variant < entry.variants]
        return {(r.seed, r.variant): r for r in mine if not difference(r, suite, entry)}

    variants = range(entry.variants)
    there = found()
    whole = {seed for seed, _ in there if all((seed, v) in there for v in variants)}
    wanted = sorted(whole | set(seeds)) or [0]
    missing = [seed for seed in wanted if seed not in whole]
    if missing:
        run_jobs(jobs(suite, [entry.name], missing), cache, runs, results)
        there = found()
    records = [there[seed, v] for seed in wanted for v in variants]
    top1 = float(np.mean([100 * r.result.top1 / r.result.n for r in records]))
    half = spread(stored(), records[0].model.family, len(records))
    return {
        "top-1 %": Measured(top1, [round(top1 - half, 2), round(top1 + half, 2)], seeds=tuple(wanted)),
        "at the budget": _at_budget([r.model for r in records]),
    }


def measure(
    tiers: Sequence[str], cache: Path, runs: Path, results: Path, configs: Path = CONFIGS, only: Sequence[str] = ()
) -> Iterator[tuple[Path, str, dict[str, Measured]]]:
    """Everything that the tiers ask for: file of the expectation, case, values by quantity.

    Last comes what the files expect of these tiers, and of entries that are no more, and was not measured: ``GONE``.

    Raises:
        ValueError: unknown tier or entry.
    """
    unknown = sorted(set(tiers) - set(TIERS))
    if unknown:
        raise ValueError(f"unknown tier {unknown[0]!r}; known: {', '.join(TIERS)}")

    todo = []
    if {"instant", "inference", "speed"} & set(tiers):
        todo += [(GATE, "gate", e) for e in ready(GATE, only)]
    if "instant" in tiers:
        todo += [(SUITES[QUICK[-1]], QUICK[-1], e) for e in ready(SUITES[QUICK[-1]], only)]
    if "training" in tiers:
        todo += [(SUITES[name], f"{name} trained", e) for name in QUICK for e in SUITES[name].entries]
    todo = [(suite, case, e) for suite, case, e in todo if not only or e.name in only]
    unknown = sorted(set(only) - {e.name for _, _, e in todo})
    if unknown:
        raise ValueError(f"these tiers check nothing of {unknown[0]!r}; without --only they say what they check")
    gated = [e for _, case, e in todo if case == "gate"]
    ratios = speeds(GATE, gated) if "speed" in tiers and gated else {}
    seen = set()
    with Progress("gate", len(todo)) as progress:
        for suite, case, entry in todo:
            path, out = (configs / entry.config).with_name(f"{entry.name}.json"), {}
            if case.endswith("trained"):
                seeds = _expectations(path).get(case, {}).get("top-1 %", {}).get("seeds", ())
                out |= training(suite, entry, cache, runs, results, seeds)
            elif "instant" in tiers:
                out |= cost(suite, entry)
            if case == "gate":
                with threads_of(dict(threads=1)):
                    if "instant" in tiers:
                        first, _ = losses(suite, entry, cache)
                        out[f"losses of {STEPS} steps"] = Measured(first, LOSS_TOLERANCE, exact=True)
                    if "inference" in tiers:
                        out |= inference(suite, entry, cache, configs)
                if "speed" in tiers:
                    out[SPEED] = ratios[entry.name]
            seen |= {(path, case, name) for name in out}
            if "checkpoint" in out:  # says why there is nothing of its tier
                seen |= {(path, case, name) for name in INFERENCE}
            yield path, case, out
            progress.step(note=f"{case} {entry.name}")
    for path in sorted(configs.glob("*/*.json")):
        if only and path.stem not in only:
            continue
        known = any(path.stem == e.name and Path(e.config).parent.name == path.parent.name for e in _all_entries())
        for case, expected in _expectations(path).items():
            asked = (name for name in expected if not known or tier(case, name) in tiers)
            gone = {name: GONE for name in asked if (path, case, name) not in seen}
            if gone:
                yield path, case, gone


def tier(case: str, quantity: str) -> str:
    """The tier that measures a quantity of a case."""
    if case.endswith("trained"):
        return "training"
    return "inference" if quantity in INFERENCE else "speed" if quantity == SPEED else "instant"


def _all_entries() -> list[Entry]:
    return [e for suite in (GATE, *(SUITES[name] for name in QUICK)) for e in suite.entries]


def _expectations(path: Path) -> dict[str, dict[str, dict]]:
    """What a file says, by case and quantity; nothing where there is none.

    Raises:
        GateError: it is not what ``accept`` writes.
    """
    if not path.exists():
        return {}
    try:
        file = json.loads(path.read_text())
        for case in file.values():
            for expected in case.values():
                np.shape(expected["expected"]), np.asarray(expected["tolerance"], float)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"{path} is no file of expectations ({error!r}); restore it: git checkout {path}") from error
    return file


# ---- expected against measured


def judge(measured: Measured, expected: dict | None, here: str) -> str:
    """Why a value is not as expected; empty if it is.

    Args:
        measured: now.
        expected: ``expected``, ``tolerance`` and, where it matters, ``platform``.
        here: this platform.
    """
    if measured is GONE:
        return "no longer measured"
    if expected is None:
        return "" if ungated(measured) else "no expectation"
    old, new, tolerance = expected["expected"], measured.value, expected["tolerance"]
    if measured.ratios:
        if expected.get("platform") != here or not _slower(new, old, tolerance):
            return ""  # how fast one network is against another depends on the processor
        return f"slower by {100 * (np.median(new) / np.median(old) - 1):.0f} %"
    if isinstance(tolerance, list):
        if tolerance[1] - tolerance[0] > WIDEST:
            return f"an interval of {tolerance[1] - tolerance[0]:.1f} points gates nothing"
        return "" if tolerance[0] <= new <= tolerance[1] else "outside its interval"
    if isinstance(old, str) or isinstance(new, str):
        return "" if old == new else "differs"
    if np.shape(old) != np.shape(new):
        return f"shape {np.shape(new)}, expected {np.shape(old)}"
    if expected.get("platform") == here:
        tolerance = 0.0
    worst = float(np.max(np.abs(np.subtract(new, old))))
    return "" if worst <= tolerance else f"off by {worst:.2g}"  # not a number compares as off


def ungated(measured: Measured) -> str:
    """Why nothing is expected of a value; empty if something is."""
    if not isinstance(measured.tolerance, list):
        return ""
    width = measured.tolerance[1] - measured.tolerance[0]
    if np.isinf(width):
        return "not gated: too few runs to know their spread by"
    return f"not gated: interval would be {width:.1f} points" if width > WIDEST else ""


def _slower(new: list[float], old: list[float], tolerance: float) -> bool:
    return mannwhitneyu(new, (1 + tolerance) * np.array(old), alternative="greater").pvalue < ALPHA


def _moves(row: Row) -> bool:
    """Whether ``accept`` takes a value: where it is wrong, or of other seeds.

    Ratios also on another platform, or of a faster network.
    """
    old, m = row.expected, row.measured
    if old is not None and list(m.seeds) != old.get("seeds", []):
        return True
    if row.verdict or not m.ratios or old is None:
        return bool(row.verdict)
    return old.get("platform") != platform() or _slower(old["expected"], m.value, old["tolerance"])


def compare(measured: Iterator[tuple[Path, str, dict[str, Measured]]]) -> list[Row]:
    """A row for everything measured."""
    here, rows = platform(), []
    for path, case, values in measured:
        file = _expectations(path)
        for quantity, value in values.items():
            expected = file.get(case, {}).get(quantity)
            rows.append(Row(path, case, quantity, value, expected, judge(value, expected, here)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Old, new and tolerance, as text."""
    lines = []
    for row in rows:
        old = "–" if row.expected is None else _short(row.expected["expected"])
        tolerance = row.measured.tolerance if row.expected is None else row.expected["tolerance"]
        exact = row.expected is not None and row.expected.get("platform") == platform() and not row.measured.ratios
        lines.append(
            {
                "model": row.path.stem,
                "case": row.case,
                "quantity": row.quantity,
                "old": old,
                "new": _short(row.measured.value),
                "tolerance": "0, same platform" if exact else _short(tolerance),
                "verdict": row.verdict or "as expected",
            }
        )
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{value[0]:.6g} … {value[-1]:.6g} (mean {np.mean(value):.6g})"
    if isinstance(value, list):
        return " … ".join(f"{v:.6g}" for v in value)
    return value if isinstance(value, str) else f"{value:.8g}"


def edited(paths: Sequence[Path], changes: Path) -> list[str]:
    """A line for each file of expectations that is not as ``accept`` left it last.

    Args:
        paths: the files.
        changes: where ``accept`` noted their hashes.
    """
    out = []
    for path in paths:
        known, now = _noted(path, changes), _digest(path)
        if now != known:
            was = f"left it as {known}" if known else "never wrote it"
            out.append(
                f"{path}: its content is {now}, `accept` {was}; restore it, or: make accept-results REASON='why'"
            )
    return out


def _noted(path: Path, changes: Path) -> str:
    """The hash that a file had when it was last accepted; empty if it never was."""
    text = changes.read_text() if changes.exists() else ""
    return (re.findall(rf"`{_name(path)}` = (\w+)", text) or [""])[-1]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def check(rows: Sequence[Row], changes: Path) -> str:
    """One line when everything is as expected, after one for each value of which nothing is expected.

    Args:
        rows: what was measured.
        changes: see ``edited``.

    Raises:
        GateError: something is not; the message is the table of it. Or expectations were edited by hand.
    """
    wrong = [row for row in rows if row.verdict]
    found = edited(sorted({row.path for row in rows if row.path.exists()}), changes)
    if wrong:
        found.insert(
            0,
            f"{len(wrong)} of {len(rows)} checks fail\n\n{table(wrong)}\n\n"
            "Where this is meant: make accept-results REASON='why' (with the same TIERS)",
        )
    if found:
        raise GateError("\n".join(found))
    elsewhere = sum(row.measured.ratios and row.expected.get("platform") != platform() for row in rows)
    free = [row for row in rows if row.expected is None]
    lines = [f"{row.case} {row.path.stem}, {row.quantity}: {ungated(row.measured)}" for row in free]
    known = f"{len(rows) - elsewhere - len(free)} checks are as expected"
    known += f"; {elsewhere} timings are expected on another platform only" if elsewhere else ""
    return "\n".join([*lines, known])


def needs_reason(reason: str) -> None:
    """Raise a ValueError where none is given."""
    if not reason.strip():
        raise ValueError("an expectation moves for a reason; give one: make accept-results REASON='why'")


def accept(rows: Sequence[Row], reason: str, changes: Path) -> list[str]:
    """Make what was measured the expectation wherever it is not as expected; the lines added to ``changes``.

    A tolerance that a file states stays, as does one that was edited; an interval is that of the new value, and none
    that is wider than ``WIDEST`` is written. What is no longer measured goes, at last the file and its checkpoint.

    Raises:
        ValueError: no reason is given.
        GateError: a tiny checkpoint is missing or does not fit.
    """
    needs_reason(reason)
    unfit = next((row for row in rows if row.quantity == "checkpoint"), None)
    if unfit:
        raise GateError(str(unfit.measured.value))
    for row in rows:
        if not isinstance(row.measured.value, str) and not np.isfinite(row.measured.value).all():
            raise GateError(
                f"{row.case} {row.path.stem}, {row.quantity}: {_short(row.measured.value)} is not to expect"
            )
    lines = []
    for path in sorted({row.path for row in rows}):
        file, moved = _expectations(path), []
        if file and _noted(path, changes) != _digest(path):
            moved.append(f"{'edited by hand to' if _noted(path, changes) else 'not noted before,'} {_digest(path)}")
        for row in (r for r in rows if r.path == path and _moves(r)):
            m, old = row.measured, row.expected
            before = "none" if old is None else _short(old["expected"])
            if m is GONE or ungated(m):
                del file[row.case][row.quantity]
                if not file[row.case]:
                    del file[row.case]
                moved.append(f"{row.case} {row.quantity} {before} → {row.verdict if m is GONE else ungated(m)}")
                continue
            keep = old is not None and not isinstance(m.tolerance, list)
            new = {"expected": m.value, "tolerance": old["tolerance"] if keep else m.tolerance}
            new |= {"platform": platform()} if m.exact or m.ratios else {}
            new |= {"seeds": list(m.seeds)} if m.seeds else {}
            file.setdefault(row.case, {})[row.quantity] = new
            moved.append(f"{row.case} {row.quantity} {before} → {_short(m.value)}")
        if not moved:
            continue
        if file:
            write_json(path, file)
        else:
            path.unlink()
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        made = f"{date.today().isoformat()}, {git_commit()[:8]}, `{_name(path)}` = {_digest(path) if file else 'gone'}"
        lines.append(f"- {made}, {reason.strip()}: " + "; ".join(moved))
        note(changes, lines[-1])
    return lines
