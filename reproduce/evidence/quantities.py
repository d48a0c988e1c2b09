"""What the gate measures: the quantities of each tier, with the tolerances of their first expectations."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
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
from scipy.stats import t as student
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from autotsnet.architecture import Architecture
from autotsnet.inputs import RGB, example
from autotsnet.layers.quick import quicken
from reproduce.budget import Solution
from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import threads_of
from reproduce.evidence.reference import REFERENCE
from reproduce.launch.local import jobs, run_jobs
from reproduce.launch.parallel import keep_memory
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import Model, RunRecord, load_all, score
from reproduce.search.stage import method, search_config
from reproduce.suites import SUITES, Entry, Suite, difference
from reproduce.whole_files import save_weights

INFERENCE = "videos and labels", "top-1, videos", "logits"  # quantities of the tier of that name
SPEED = "time ÷ reference"  # the quantity of the tier of that name
GATE = replace(SUITES["ssv2-tiny"], gmacs=0.0022)  # about the least that all families reach: small checkpoints
STEPS = 20  # of training, whose losses are expected
TEACHING = 240  # steps of training of a checkpoint: it knows its 24 videos by heart
PROCESSES = 8  # fresh ones, each a sample of how slow a network is; 7 against 7 could hardly be significant
PAIRS = 20  # of timings in each process: network and reference
REPEATS = 5  # runs beyond the first of each kind; with fewer the spread of runs is unknown
LOSS_TOLERANCE = 1e-3  # on another platform; with AVX2 or no vectors instead of AVX-512, up to 2e-5 was seen
LOGITS_TOLERANCE = 1e-3
SLOWDOWN = 0.05  # processes of the same code differ by 1 % (standard deviation); 15 % is to be caught


class GateError(ValueError):
    """A recipe no longer yields the expected values, or cannot be measured; the message says which."""


@dataclass(frozen=True)
class Measured:
    """A measured value and the tolerance of its first expectation.

    Attributes:
        value: a number, a list of numbers, or a text that must be equal.
        tolerance: greatest absolute difference; for ``ratios`` the greatest slowdown; a pair: bounds of the value.
        exact: no difference is tolerated on the platform of the expectation.
        ratios: the value is a sample of time ratios, compared on the platform of the expectation only.
        seeds: seeds of the runs that the value is the mean of.
    """

    value: float | str | list[float]
    tolerance: float | list[float] = 0.0
    exact: bool = False
    ratios: bool = False
    seeds: tuple[int, ...] = ()


def platform() -> str:
    """Version of torch, processor and vector instructions: where all are equal, floating-point results are equal."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    keys = "model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part"  # the last two of ARM
    cpu = [re.search(rf"(?m)^{key}\s*: (.*)$", text) for key in keys]
    names = ", ".join(found[1] for found in cpu if found) or f"{machine()} {processor()}"
    return f"torch {torch.__version__}; {names}; {torch.backends.cpu.get_cpu_capability()}"


def ready(suite: Suite, only: Sequence[str] = ()) -> list[Entry]:
    """The entries of a suite that need no search, or those in ``only``; of random architectures the first is drawn."""
    out = []
    for entry in suite.entries:
        if only and entry.name not in only:
            continue
        if entry.search is None:
            out.append(entry)
        elif entry.variants > 1:
            architecture = _drawn(suite.name, entry)
            # The gate's budget is below the space: the solver may scale the drawn architecture.
            variants = 1 if suite is GATE else entry.variants
            out.append(replace(entry, architecture=architecture, variants=variants))
    return out


@cache
def _drawn(suite_name: str, entry: Entry) -> Architecture:
    config = search_config(entry)
    return method(SUITES[suite_name], config).draw(0)


def cost(suite: Suite, entry: Entry) -> dict[str, Measured]:
    """Exact GMACs and parameters, and whether the budget is met; the gate's own is too small for some families."""
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
    """Train an entry for a few steps by its recipe, at a constant share of its learning rate; the losses and the model.

    At the full rate, rounding differences grow from 1e-7 to 0.1 within 20 steps: other platforms could not be checked.
    """
    model, config = _model(suite, entry), suite.config(entry)
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # mmengine announces every parameter without decay
    optimiser = build_optim_wrapper(model, config.optim_wrapper)
    for group in optimiser.param_groups:
        group["lr"] *= rate
    clips = TrainClips(suite.manifest("train", suite.data_root(cache)), suite.protocol, seed=0, inputs=model.inputs)
    batch, out = config.batch, []
    quicken(model).train()
    for step in range(steps):
        torch.manual_seed(step)  # dropout
        data = default_collate([clips[step * batch + i] for i in range(batch)])
        out.append(model.train_step(data, optimiser)["loss"].item())
    return out, model


def first_losses(suite: Suite, entry: Entry, cache: Path) -> dict[str, Measured]:
    """The losses of the first steps."""
    return {f"losses of {STEPS} steps": Measured(losses(suite, entry, cache)[0], LOSS_TOLERANCE, exact=True)}


def checkpoint(entry: Entry, configs: Path) -> Path:
    """The file of an entry's tiny checkpoint."""
    return configs / GATE.size / f"{entry.name}.safetensors"


def teach(suite: Suite, entry: Entry, cache: Path, configs: Path) -> None:
    """Train the tiny checkpoint of an entry and write it in half precision."""
    with threads_of(dict(threads=1)):  # sums over several threads are other sums
        _, model = losses(suite, entry, cache, TEACHING, rate=1.0)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.net.state_dict().items()}
    save_weights(checkpoint(entry, configs), state)


def taught(suite: Suite, entry: Entry, configs: Path) -> VideoClassifier:
    """The entry with its tiny checkpoint.

    Raises:
        GateError: there is no checkpoint, or it is one of another network.
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
    """Logits and accuracy of the tiny checkpoint on training and test videos, read and scored as in a run's test."""
    try:
        model, root = taught(suite, entry, configs), suite.data_root(cache)
    except GateError as error:
        return {"checkpoint": Measured(str(error))}  # a quantity that nothing is expected of: it fails
    rows, logits = [], []
    with torch.inference_mode():
        for split in ("train", "val"):
            videos = TestVideos(suite.manifest(split, root), suite.protocol, inputs=model.inputs)
            for batch in DataLoader(videos, batch_size=8):
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
    """The network that others are timed against: torch's pointwise and depthwise convolutions, no code of this project.

    Its feature maps are small and stay in the processor's caches: its time does not depend on the memory.
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
    step: Callable[[], object], reference: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of a network's forward pass ÷ that of the reference, which alternate: the median ratio.

    A slower clock and other programs slow both down, and the ratio stays; but a program that takes up the memory's
    bandwidth slows only the network. Each time is the shortest of five passes.

    Args:
        step: a pass of the network, in evaluation mode.
        reference: a pass of the reference.
        clock: seconds.
    """

    def shortest(forward: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = clock()
            forward()
            times.append(clock() - start)
        return min(times)

    with torch.inference_mode():
        shortest(step), shortest(reference)  # warm up
        return float(np.median([shortest(step) / shortest(reference) for _ in range(PAIRS)]))


def speeds(
    suite: Suite, entries: Sequence[Entry], planted: Callable[[], AbstractContextManager] = contextlib.nullcontext
) -> dict[str, Measured]:
    """Times of networks in units of the reference's: one ratio per network from each of several fresh processes.

    Passes within one process are not independent: they share the layout of its memory.

    Args:
        suite: of the entries.
        entries: the entries whose networks are timed.
        planted: a context manager that plants a regression, see ``studies.regressions``.
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

        @cache
        def clips(inputs: tuple[str, ...]) -> list[Tensor]:
            those = example(inputs, protocol.sampling.frames, protocol.crops.size, batch=4, device="cpu")
            return [clip.to(memory_format=torch.channels_last_3d) for clip in those]

        reference = partial(Reference().eval().to(memory_format=torch.channels_last_3d), *clips(RGB))
        np.random.default_rng(process).shuffle(names)  # the network timed before has a small effect
        for name in names:
            try:
                model = _built(configs[name])
                out[name] = round(time_ratio(partial(model.net.eval(), *clips(model.inputs)), reference), 4)
            except RuntimeError as error:
                raise GateError(f"{name} cannot be timed: {error}") from error
    return out


def spread(records: Sequence[RunRecord], family: str, runs: int) -> float:
    """Half-width in points of the 95 % interval for the mean of repeated runs, around the mean of the first runs.

    The videos are the same, so that only the runs vary; their variance is that over the seeds of one network. A seed
    does not fix a run: on another number of threads, rounding is different, and trainings diverge within some steps.
    The variance is pooled over a suite; a family has its own where its runs vary more or less than others (F test).

    Args:
        records: all records of a suite.
        family: the family whose runs are repeated.
        runs: number of runs in each mean.

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
    """The family, without ``_uniform``: uniform architectures are of the same space, and their runs vary as much."""
    return family.removesuffix("_uniform")


def training(
    suite: Suite, entry: Entry, cache: Path, runs: Path, results: Path, seeds: Sequence[int] = ()
) -> dict[str, Measured]:
    """The mean accuracy of an entry's records in ``results``, or else in the reference.

    Only records of today's recipe count; runs that are missing are trained first.

    Args:
        suite: the suite of the entry.
        entry: the entry; all its architectures and seeds count.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder of records.
        seeds: seeds that must be among the runs; if there are none and no record, seed 0 is trained.
    """

    def stored() -> list[RunRecord]:
        places = dict.fromkeys((REFERENCE, results))  # a record in both: that of ``results`` counts
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
