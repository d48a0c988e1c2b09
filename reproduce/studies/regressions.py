"""Does the gate catch what it is there for, and nothing else?

    python -m reproduce.studies.regressions --out results/studies/regressions.json

Each regression is planted in every family of the gate in turn; then all is checked again and again as it is. With
``--speed``, the same of speed, on a machine that does nothing else: a network that busily waits after each pass is
15 % slower, in real time; every check runs in a process of its own, as checks on different days do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from reproduce import gate
from reproduce.data import datasets
from reproduce.data.decode import DEFAULT
from reproduce.files import write_json
from reproduce.progress import Progress
from reproduce.records import provenance
from reproduce.suites import Suite, _solution

SLOWER = 0.15
TIMED = ("x3d", "slowfast", "auto_tsnet_uniform")  # again and again; all others once


@contextmanager
def wrong_stride() -> Iterator[None]:
    """The convolution that reads the pixels strides twice as far."""
    conv = torch.nn.modules.conv._ConvNd
    original = conv.__init__

    def planted(self, in_channels, out_channels, kernel_size, stride, *args, **kwargs):
        stride = tuple(2 * s for s in stride) if in_channels == 3 else stride
        original(self, in_channels, out_channels, kernel_size, stride, *args, **kwargs)

    _solution.cache_clear()
    try:
        with patch.object(conv, "__init__", planted):
            yield
    finally:
        _solution.cache_clear()


@contextmanager
def training_mode() -> Iterator[None]:
    """Batch normalisation in training mode at test."""
    original = torch.nn.functional.batch_norm

    def planted(x, mean, var, weight=None, bias=None, training=False, *args):
        return original(x, mean, var, weight, bias, True, *args)

    with patch.object(torch.nn.functional, "batch_norm", planted):
        yield


@contextmanager
def shuffled_labels(kind: type = datasets.TestVideos) -> Iterator[None]:
    """Labels of one class, of the videos of training or of test, are drawn anew."""
    original, rng = kind.__getitem__, np.random.default_rng(0)

    def planted(self, n):
        item = original(self, n)
        return item | {"label": int(rng.integers(4)) if item["label"] == 1 else item["label"]}

    with patch.object(kind, "__getitem__", planted):
        yield


@contextmanager
def dropped_video() -> Iterator[None]:
    """One test video is not there."""
    original = Suite.manifest

    def planted(self, split, root):
        manifest = original(self, split, root)
        return manifest.subset(manifest.videos[1:]) if split == "val" else manifest

    with patch.object(Suite, "manifest", planted):
        yield


@contextmanager
def slower(share: float = SLOWER) -> Iterator[None]:
    """Every pass of the network takes longer by so much of its time."""
    original = gate._model

    def planted(suite, entry):
        model = original(suite, entry)
        forward = model.net.forward

        def late(*args, **kwargs):
            start = time.perf_counter()
            out = forward(*args, **kwargs)
            end = time.perf_counter()
            while time.perf_counter() < end + share * (end - start):
                pass
            return out

        model.net.forward = late
        return model

    with patch.object(gate, "_model", planted):
        yield


PLANTED: dict[str, Callable[[], AbstractContextManager]] = {
    "wrong stride": wrong_stride,
    "batch norm in training mode at test": training_mode,
    "shuffled training labels of a class": lambda: shuffled_labels(datasets.TrainClips),
    "shuffled test labels of a class": shuffled_labels,
    "dropped video": dropped_video,
}


def noticed(entry: str, cache: Path) -> list[str]:
    """Quantities of an entry that are not as expected; or the error that the gate ends with."""
    folder = Path("unused")  # of records
    try:
        rows = gate.compare(gate.measure(("instant", "inference"), cache, folder, folder, only=[entry]))
    except (ValueError, RuntimeError) as error:
        return [f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"]
    return sorted({row.quantity for row in rows if row.verdict})


def has_batch_norm(entry: str) -> bool:
    """Whether there is any to be in a wrong mode."""
    model = gate._model(gate.GATE, gate.ready(gate.GATE, [entry])[0])
    return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())


def regressions(cache: Path, repeats: int, only: list[str]) -> dict:
    """Which quantities notice each planted regression, and in how many clean repeats anything is noticed."""
    entries = [e.name for e in gate.ready(gate.GATE, only)]
    planted: dict[str, dict[str, list[str] | None]] = {name: {} for name in PLANTED}
    clean = dict.fromkeys(entries, 0)
    with Progress("regressions", len(entries) * (len(PLANTED) + repeats)) as progress:
        for entry in entries:
            for name, plant in PLANTED.items():
                with plant():
                    there = plant is not training_mode or has_batch_norm(entry)
                    planted[name][entry] = noticed(entry, cache) if there else None  # none: there is nothing to plant
                progress.step(note=f"{entry}: {name}")
            for _ in range(repeats):
                clean[entry] += bool(noticed(entry, cache))
                progress.step(note=f"{entry}: as it is")
    missed = [f"{name}: {e}" for name, of in planted.items() for e, found in of.items() if found == []]
    return dict(planted=planted, missed=missed, repeats=repeats, false_alarms=clean)


def _ratios(entry: str, slow: bool) -> list[float]:
    """In a process of its own."""
    suite, (ready,) = gate.GATE, gate.ready(gate.GATE, [entry])
    with gate._one_thread():
        if not slow:
            return gate.speed(suite, ready)["time ÷ reference"].value
        with slower():
            return gate.speed(suite, ready)["time ÷ reference"].value


def speed(repeats: int, only: list[str]) -> dict:
    """The verdicts on networks as slow as before, and on those that are slower by 15 %."""
    entries, here = [e.name for e in gate.ready(gate.GATE, only)], gate.platform()
    todo = [(e, False) for e in entries] + [(e, True) for e in entries]
    todo += [(e, False) for _ in range(repeats) for e in TIMED if e in entries]
    before, slow, clean = {}, {}, {e: [] for e in TIMED if e in entries}
    context = multiprocessing.get_context("spawn")
    with Progress("speed", len(todo)) as progress:
        for n, (entry, is_slow) in enumerate(todo):
            with ProcessPoolExecutor(1, context) as pool:
                ratios = pool.submit(_ratios, entry, is_slow).result()
            if n < len(entries):
                before[entry] = ratios
            else:
                expected = dict(expected=before[entry], tolerance=gate.SLOWDOWN, platform=here)
                verdict = gate.judge(gate.Measured(ratios, gate.SLOWDOWN, ratios=True), expected, here)
                change = 100 * float(np.median(ratios) / np.median(before[entry]) - 1)
                found = dict(slower_percent=round(change, 2), caught=bool(verdict))
                clean[entry].append(found) if not is_slow else slow.update({entry: found})
            progress.step(note=entry + (f", {100 * SLOWER:.0f} % slower" if is_slow else ""))
    return dict(slower=slow, repeats=repeats, clean=clean, tolerance=gate.SLOWDOWN, platform=here)


def main() -> None:
    """Run the study and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="that of speed; nothing else may run")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="", help="comma-separated entries")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("CACHE", ".cache")))
    parser.add_argument("--out", type=Path, help="default: results/studies/regressions.json, slower.json")
    options = parser.parse_args()

    only = [name for name in options.only.split(",") if name]
    made = provenance("", DEFAULT).model_dump()
    found = speed(options.repeats, only) if options.speed else regressions(options.cache, options.repeats, only)
    out = options.out or Path("results/studies") / ("slower.json" if options.speed else "regressions.json")
    write_json(out, found | dict(provenance=made))
    if options.speed:
        caught = sum(f["caught"] for f in found["slower"].values())
        alarms = sum(f["caught"] for runs in found["clean"].values() for f in runs)
        print(f"{100 * SLOWER:.0f} % slower: {caught} of {len(found['slower'])} networks caught")
        print(f"as before: {alarms} false alarms in {sum(map(len, found['clean'].values()))} checks")
    else:
        print(f"missed: {'; '.join(found['missed']) or 'none'}")
        print(f"clean: {sum(found['false_alarms'].values())} false alarms in {options.repeats} repeats of all entries")


if __name__ == "__main__":
    main()
