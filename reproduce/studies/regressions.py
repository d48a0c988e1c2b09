"""Does the gate notice regressions, and nothing else?

    python -m reproduce.studies.regressions

Each regression is planted in every family of the gate in turn; then all families are checked repeatedly without one.
``--speed`` does the same for speed, on a machine that does nothing else: the planted network waits after each pass and
is 15 % slower. ``--only`` adds entries to the record, with a provenance of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from reproduce import budget
from reproduce.data import datasets
from reproduce.data.decode import DEFAULT
from reproduce.evidence import gate, quantities
from reproduce.progress import Progress
from reproduce.records import session
from reproduce.studies.options import study_parser
from reproduce.suites import Suite, _solution
from reproduce.whole_files import write_json

SLOWER = 0.15


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
        # Stored solutions of budgets are of the unchanged code.
        with patch.object(conv, "__init__", planted), patch.object(budget, "remembered", lambda _, key, make: make()):
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
    """One test video is missing."""
    original = Suite.manifest

    def planted(self, split, root):
        manifest = original(self, split, root)
        return manifest.subset(manifest.videos[1:]) if split == "val" else manifest

    with patch.object(Suite, "manifest", planted):
        yield


@contextmanager
def slower(share: float = SLOWER) -> Iterator[None]:
    """Every pass of the network takes longer by this share of its time."""
    original = quantities._built

    def planted(config):
        model = original(config)
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

    with patch.object(quantities, "_built", planted):
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
    """Whether an entry has batch norm, which can be in a wrong mode."""
    model = quantities._model(quantities.GATE, quantities.ready(quantities.GATE, [entry])[0])
    return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())


def regressions(cache: Path, repeats: int, only: list[str]) -> dict:
    """Which quantities notice each planted regression, and in how many clean repeats anything is noticed."""
    entries = [e.name for e in quantities.ready(quantities.GATE, only)]
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


def added(record: dict, found: dict, made: dict) -> dict:
    """A record with the entries of another call in it, and the provenance of these.

    Raises:
        ValueError: it is of other faults, or of another number of repeats.
    """
    if record["planted"].keys() != found["planted"].keys() or record["repeats"] != found["repeats"]:
        raise ValueError("--only: the record is of other faults or repeats; run the study of all entries, or set --out")
    for name, of in found["planted"].items():
        record["planted"][name] |= of
    record["missed"] = sorted({*record["missed"], *found["missed"]})
    record["false_alarms"] |= found["false_alarms"]
    record["added"] = record.get("added", {}) | dict.fromkeys(found["false_alarms"], made)
    return record


def speed(repeats: int, only: list[str]) -> dict:
    """The verdicts on networks that are slower by 15 %, and repeatedly on the same networks without a change."""
    entries, here = quantities.ready(quantities.GATE, only), quantities.platform()
    with Progress("checks of speed", 2 + repeats) as progress:

        def measured(planted: Callable[[], AbstractContextManager] = nullcontext) -> dict[str, quantities.Measured]:
            found = quantities.speeds(quantities.GATE, entries, planted)
            progress.step()
            return found

        def judged(found: dict[str, quantities.Measured]) -> dict[str, dict]:
            return {name: _judged(before[name].value, now, here) for name, now in found.items()}

        before = measured()
        slow = judged(measured(slower))
        clean = [judged(measured()) for _ in range(repeats)]
    again = {e.name: [found[e.name] for found in clean] for e in entries}
    return dict(slower=slow, repeats=repeats, clean=again, tolerance=quantities.SLOWDOWN, platform=here)


def _judged(before: list[float], now: quantities.Measured, here: str) -> dict:
    expected = dict(expected=before, tolerance=quantities.SLOWDOWN, platform=here)
    change = 100 * (np.median(now.value) / np.median(before) - 1)
    return dict(slower_percent=round(float(change), 2), caught=bool(gate.judge(now, expected, here)))


def main() -> None:
    """Run the study and write its record."""
    parser = study_parser(__doc__, "studies/regressions.json", "cache")
    parser.add_argument("--speed", action="store_true", help="that of speed; nothing else may run")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="", help="comma-separated entries")
    default = Path(parser.get_default("out"))
    options = parser.parse_args()

    only = [name for name in options.only.split(",") if name]
    known = [e.name for e in quantities.ready(quantities.GATE)]
    unknown = sorted(set(only) - set(known))
    if unknown:
        parser.error(f"--only: nothing is checked of {unknown[0]!r}; of: {', '.join(known)}")
    if only and options.out == default:
        parser.error("--only: name another file by --out; the study's own is of all entries")
    made = session(DEFAULT).model_dump()
    found = speed(options.repeats, only) if options.speed else regressions(options.cache, options.repeats, only)
    out = default.with_name("slower.json") if options.speed and options.out == default else options.out
    if only and not options.speed and out.exists():
        found = added(json.loads(out.read_text()), found, made)
    write_json(out, dict(provenance=made) | found)
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
