"""Throughput of every native variant, of S/M/L and of the peers' own networks on this machine, in every mode.

Three levels: the forward pass, row by row; decoding and transforming of a suite's test views; and both together.
``results/throughput/<device>.json`` gets one row at a time, so that a stopped bench continues where it was.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from baselines.peers import PEERS
from reproduce.data.datasets import TestVideos
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.engines import NO_AMX, torch_is_safe
from reproduce.engine.recipe import videos_at_once
from reproduce.evidence.natives import NATIVES
from reproduce.measure.macs import MacCount, count
from reproduce.measure.throughput import (
    MODES,
    MOST_WINDOWS,
    WINDOW,
    Mode,
    matmul_rate,
    peak_memory,
    state_under,
    sweep,
    tf32,
    time_passes,
)
from reproduce.progress import Progress
from reproduce.records import device_name, session
from reproduce.suites import Suite
from reproduce.whole_files import write_atomic, write_json

PROBED = ("x3d_s", "slow_4x16_r50", "tsm_mobilenetv2_8f", "auto_tsnet_uniform_s")
"""A CPU runs these in every mode, minutes each, and all others in fp32, channels-last only."""
LARGEST = {"cpu": 16, "cuda": 256}  # batch of the sweeps
LIMIT = {"cpu": 1.0, "cuda": 5.0}  # seconds per pass at which a sweep ends
SCHEMA = 1
NOTES = """\
- On a CPU, some variants are timed in every mode, the others in fp32, channels-last.
- ms: one clip at a time. clips/s: at the batch that gives most of them; ±: interquartile range / median of {repeats} or
  more passes after a warm-up until times are stable; ~: of one of the row's
  two times they were not within {warm_up} passes.
- % of matmul: the network's GMACs/s over those of the fastest square matrix product of the same run, device and
  precision ({rates}). MiB: what a pass at that batch takes beyond weights and clips.
- pytorchvideo and mmaction2: their own eager networks, with the same arithmetic, in the same run.
"""


@dataclass(frozen=True)
class Subject:
    """A network to time: a native variant of ours, or a peer's own."""

    name: str
    source: str  # ours, pytorchvideo, mmaction2
    build: Callable[..., nn.Module]
    arguments: dict

    @property
    def size(self) -> tuple[int, int]:
        """Frames and crop."""
        return self.arguments["frames"], self.arguments["crop"]

    def cost(self) -> MacCount:
        """Its count; a peer's network is built in memory, since some cannot be built on the meta device."""
        build = partial(self.build, **self.arguments)
        return count(build if self.source == "ours" else build(), *self.size)


def subjects(names: Sequence[str] = ()) -> list[Subject]:
    """All subjects, or those of some variants; the peers' follow ours.

    Raises:
        ValueError: an unknown variant; the known ones are listed.
    """
    natives = {n.name: n for n in reversed(NATIVES)}  # a variant's first row has its own crop
    order = list(dict.fromkeys(n.name for n in NATIVES))
    unknown = sorted(set(names) - set(order))
    if unknown:
        raise ValueError(f"no variant {unknown[0]!r}; known: {', '.join(order)}")
    out = []
    for name in order:
        if names and name not in names:
            continue
        arguments = natives[name].arguments | {"crop": natives[name].crop}
        out.append(Subject(name, "ours", natives[name].build, arguments))
        given = {key: arguments[key] for key in ("num_classes", "frames", "crop")}
        out += [Subject(name, source, build, given) for (source, variant), build in PEERS.items() if variant == name]
    return out


def measure(subject: Subject, mode: Mode, cost: MacCount, device: torch.device, rates: dict[str, float]) -> dict:
    """One row: latency of a clip, the best batch and its rate; or why there is none."""
    frames, crop = subject.size
    row = dict(
        variant=subject.name,
        source=subject.source,
        mode=str(mode),
        frames=frames,
        crop=crop,
        gmacs=cost.gmacs,
        params=cost.params,
        matmul_gmacs_per_s=rates[mode.precision],
    )
    try:
        if mode.precision == "bf16" and not torch_is_safe():
            raise RuntimeError(f"torch's bf16 is not safe on CPUs with AMX; set {NO_AMX}")
        net = mode.prepared(subject.build(**subject.arguments).to(device))
        timings = dict(sweep(net, frames, crop, mode, LARGEST[device.type], LIMIT[device.type]))
        best = max(timings, key=lambda batch: batch / timings[batch].median)
        clips = mode.clips(net, frames, crop, best)
        with mode.autocast(device):
            with torch.inference_mode():
                net(*clips)  # compiled networks are compiled for the last batch of the sweep only
            memory = peak_memory(lambda: net(*clips), device)
            state = state_under(lambda: net(*clips), device)
    except (torch.OutOfMemoryError, RuntimeError) as error:  # of a mode that a device or an installation lacks
        return row | dict(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
    rate = best / timings[best].median
    return row | dict(
        latency_ms=1000 * timings[1].median,
        latency_spread=timings[1].spread,
        batch=best,
        clips_per_s=rate,
        spread=timings[best].spread,
        repeats=timings[best].repeats,
        stable=timings[1].stable and timings[best].stable,
        sweep={str(batch): batch / t.median for batch, t in timings.items()},
        gmacs_per_s=rate * cost.gmacs,
        share_of_matmul=rate * cost.gmacs / rates[mode.precision],
        peak_mib=None if math.isnan(memory) else memory,
        state=state,
    )


def levels(suite: Suite, cache: Path, device: torch.device, videos: int = 100) -> list[dict]:
    """Views per second of a suite's plain entries: the pass alone, the videos alone, and both, as in a test.

    Args:
        suite: its videos, protocol and recipes.
        cache: folder of the embedded videos.
        device: of the networks.
        videos: number of videos, the first ones of the test split, repeated if it has fewer.
    """
    manifest = suite.manifest("val", suite.data_root(cache))
    chosen = [i % len(manifest.videos) for i in range(videos)]
    rows = []
    for entry in suite.entries:
        if entry.search or entry.optional:
            continue
        own = suite.of(entry)
        config, views = own.config(entry), own.protocol.views
        batch = videos_at_once(config, own.protocol)
        model = VideoClassifier(dict(config.net)).to(device).eval()
        dataset = TestVideos(manifest, own.protocol, inputs=model.inputs)

        @torch.inference_mode()
        def forward(clips: torch.Tensor, model: VideoClassifier = model) -> object:
            return model(clips.to(device), mode="tensor").cpu()

        loader = DataLoader(
            dataset, batch, sampler=chosen, num_workers=config.workers, persistent_workers=config.workers > 0
        )
        seconds = [_seconds_per_video(loader, work) for work in (lambda clips: None, forward)]
        clips = next(iter(DataLoader(dataset, batch)))["clips"]
        alone = time_passes(lambda clips=clips, forward=forward: forward(clips), device)
        rows.append(
            dict(
                suite=suite.name,
                entry=entry.name,
                batch=batch * views,
                workers=config.workers,
                model_views_per_s=batch * views / alone.median,
                decode_views_per_s=views / seconds[0],
                end_to_end_views_per_s=views / seconds[1],
            )
        )
    return rows


def _seconds_per_video(loader: DataLoader, work: Callable[[torch.Tensor], object]) -> float:
    for data in loader:  # starts the workers, warms the file cache
        work(data["clips"])
    start = time.perf_counter()
    for data in loader:
        work(data["clips"])
    return (time.perf_counter() - start) / len(loader.sampler)


def bench(
    results: Path, names: Sequence[str] = (), every_mode: bool = False, suite: Suite | None = None, cache: Path = Path()
) -> str:
    """Time the rows that are not yet in this device's file, write file and table, and return the table.

    Failed rows, and rows of a network whose costs have changed, are timed again; with another number of threads or
    another torch, all are. Each session measures the matrix product that its rows are compared with.

    Args:
        results: the file is ``throughput/<device>.json`` in it.
        names: variants; none: all.
        every_mode: run all variants in every mode on a CPU too.
        suite: its videos are decoded for the other two levels; None: leave these out.
        cache: folder of the embedded videos.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = file_of(results, device_name())
    todo = [
        (subject, mode)
        for subject in subjects(names)
        for mode in MODES
        if every_mode
        or device.type == "cuda"
        or mode == Mode()
        or (subject.name in PROBED and subject.source == "ours")
    ]
    todo.sort(key=lambda pair: pair[1] != Mode())  # the mode of all variants comes first
    data = json.loads(path.read_text()) if path.exists() else None
    made = session().model_dump()
    same = dict(schema_version=SCHEMA, device=device_name(), threads=torch.get_num_threads(), torch=torch.__version__)
    same |= dict(tf32=tf32(device))
    if data is None or any(data.get(key) != value for key, value in same.items()):
        data = same | dict(rows=[], levels=[])
    data |= dict(provenance=made)
    done = {_key(row) for row in data["rows"] if "error" not in row}
    data["rows"] = [row for row in data["rows"] if _key(row) in done]
    rates: dict[str, float] = {}
    costs: dict[tuple, MacCount] = {}
    with Progress("bench", len(todo)) as progress:
        for subject, mode in todo:
            key = (subject.name, subject.source, str(mode))
            if key[:2] not in costs:
                costs[key[:2]] = subject.cost()
            cost = costs[key[:2]]
            if (*key, cost.gmacs, cost.params) not in done:
                rates = rates or {precision: matmul_rate(device, precision) for precision in ("fp32", "bf16")}
                row = measure(subject, mode, cost, device, rates)
                row |= dict(commit=made["commit"], time=session().time)
                data["rows"] = [r for r in data["rows"] if _key(r)[:3] != key] + [row]
                write_json(path, data)
            progress.step(note=f"{subject.name} {subject.source} {mode}")
    order = {(subject.name, subject.source): i for i, subject in enumerate(subjects())}
    modes = {str(mode): i for i, mode in enumerate(MODES)}
    data["rows"].sort(key=lambda row: (order.get((row["variant"], row["source"]), 0), modes.get(row["mode"], 0)))
    write_json(path, data)
    if suite and not any(row["suite"] == suite.name for row in data["levels"]):
        print(f"decoding and testing videos of {suite.name}", file=sys.stderr)
        data["levels"] += levels(suite, cache, device)
        write_json(path, data)
    text = rendered(data)
    write_atomic(path.with_suffix(".md"), lambda p: p.write_text(text))
    return text


def _key(row: dict) -> tuple:
    return row["variant"], row["source"], row["mode"], row["gmacs"], row["params"]


def file_of(results: Path, device: str) -> Path:
    """Where the rows of a device are: ``throughput/nvidia-h200.json``."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)", "", device.lower())).strip("-")
    return results / "throughput" / f"{slug}.json"


def rendered(data: dict) -> str:
    """A device's file as Markdown."""
    rows = [
        {
            "variant": row["variant"],
            "network": row["source"],
            "mode": row["mode"],
            "frames×crop": f"{row['frames']}×{row['crop']}²",
            "GMACs": f"{row['gmacs']:.2f}",
            "params M": f"{row['params'] / 1e6:.2f}",
            "ms": f"{row['latency_ms']:.4g}" if "error" not in row else row["error"],
            "batch": str(row.get("batch", "–")),
            "clips/s": f"{'' if row['stable'] else '~'}{row['clips_per_s']:.4g} ±{100 * row['spread']:.0f} %"
            if "error" not in row
            else "–",
            "GMACs/s": f"{row['gmacs_per_s']:.4g}" if "error" not in row else "–",
            "% of matmul": f"{100 * row['share_of_matmul']:.1f}" if "error" not in row else "–",
            "MiB": f"{row['peak_mib']:.0f}" if row.get("peak_mib") is not None else "–",
        }
        for row in data["rows"]
    ]
    parts = [f"## Throughput on {data['device']} ({data['threads']} threads)"]
    parts.append(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    if data["levels"]:
        frame = pd.DataFrame(data["levels"]).rename(columns=lambda name: name.replace("_", " ").replace(" per s", "/s"))
        parts += ["### A test's three levels", frame.to_markdown(index=False, floatfmt=".4g")]
    rates = []
    for precision in ("fp32", "bf16"):
        seen = [row["matmul_gmacs_per_s"] for row in data["rows"] if row["mode"].startswith(precision)]
        if seen:
            both = f"{min(seen):.4g}" + (f" to {max(seen):.4g}" if max(seen) > min(seen) else "")
            rates.append(f"{precision}{', TF32' if data['tf32'] and precision == 'fp32' else ''} {both} GMACs/s")
    repeats = min((row["repeats"] for row in data["rows"] if "error" not in row), default=0)
    parts.append(NOTES.format(rates="; ".join(rates), repeats=repeats, warm_up=WINDOW * MOST_WINDOWS))
    states = [row["state"] for row in data["rows"] if row.get("state")]
    if states:
        parts.append(f"During passes of the first row: {states[0]}. Of the last: {states[-1]}.")
    return "\n\n".join(parts)
