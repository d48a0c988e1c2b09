"""Models at equal measured time instead of equal GMACs: each at the budget at which a pass of one clip takes as long.

A suite at another budget is a suite with records of its own, ``ssv2-quick@0.03``. Here each entry has the budget of its
own that takes the time asked for, on this device. A Tiny Video Network is searched under that time and takes part as
``tiny_video_net_evolved``, of a suite that is a file. Nothing of it is in the suites' own tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from autotsnet.inputs import example, inputs_of
from autotsnet.registry import MODELS
from autotsnet.search.constraint import forward_ms
from reproduce.budget import BudgetError
from reproduce.evidence import tables
from reproduce.evidence.statistics import between, spreads_of
from reproduce.launch import local, parallel
from reproduce.records import device_name, load_all
from reproduce.search.stage import search, search_config
from reproduce.suites import Entry, Suite, at_budget, suite
from reproduce.whole_files import write_atomic, write_json

REFERENCE = "x3d"  # its time at the suite's budget is what all have, where none is asked for
SEARCHED, EVOLVED = "tiny_video_net_searched", "tiny_video_net_evolved"
TOLERANCE = 0.03  # of the time; timings repeat no better on a machine that does other work
TRIES = 8
NOTE = """\
- ms: median of ten forward passes of one clip, fp32, channels-last, on the device named, before the training. Models
  whose time misses that of the title by over 3 % are marked: between two budgets it may jump.
- GMACs/view: of the network that takes that long. − {reference}: top-1 minus its, in points, as `compare` has it; no
  correction for the number of differences.
"""
FILE = '''"""{name} with the Tiny Video Network that was searched under {ms:.4g} ms."""

from mmengine.config import read_base

from baselines.tiny_video_net import tiny_video_net

with read_base():
    from configs.suites.{module} import *

nets["{evolved}"] = dict(type=tiny_video_net, dropout=0.0, architecture={architecture})
entries = [*entries, dict(name="{evolved}", note="searched under a runtime")]
'''


def ms_of(of: Suite, entry: Entry) -> float:
    """Milliseconds of a pass of one clip of an entry's network at the suite's budget."""
    sampling, crops = of.protocol.sampling, of.protocol.crops
    net = MODELS.build(of.config(entry).net)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips = example(inputs_of(net), sampling.frames, crops.test_size, 1, device)
    return forward_ms(net, *(clip.contiguous(memory_format=torch.channels_last_3d) for clip in clips))


def at_time(of: Suite, entry: Entry, target: float) -> tuple[Suite, float]:
    """The suite at the budget at which an entry takes ``target`` milliseconds, and what it takes.

    Raises:
        ValueError: the entry is searched for at a budget of GMACs; or no network of it comes near.
    """
    if entry.search:
        raise ValueError(f"{entry.name} is searched for, or drawn, at a budget of GMACs; choose entries that are not")
    budget, tried = at_budget(of, of.gmacs), []
    for _ in range(TRIES):
        try:
            tried.append((ms_of(budget, entry), budget))
        except BudgetError:
            break
        taken = tried[-1][0]
        if abs(taken / target - 1) <= TOLERANCE:
            break
        budget = at_budget(of, budget.gmacs * target / taken)
    if not tried:
        raise ValueError(f"{entry.name}: no network of {of.gmacs:g} GMACs to start from; choose another entry")
    taken, budget = min(tried, key=lambda found: abs(math.log(found[0] / target)))
    return budget, taken


def equal_time(
    of: Suite, entries: Sequence[str], target: float | None, seeds: list[int], cache: Path, runs: Path, results: Path
) -> str:
    """Solve, search, train and test what is not there yet, and render ``tables/runtime-<suite>.md`` and ``.csv``.

    Args:
        of: a suite of ours.
        entries: names; ``tiny_video_net_searched`` is the one that is searched for.
        target: milliseconds; None: those of ``REFERENCE`` at the suite's budget.
        seeds: of the runs; the search has the first one.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder of records.
    """
    path, device = results / "runtime" / f"{of.name}.json", device_name()
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("device") != device or target not in (None, known.get("ms")):
        known = dict(device=device, ms=target or ms_of(of, of.entry(REFERENCE)), rows={})
    target, own = known["ms"], of
    if SEARCHED in entries:
        own = _with_evolved(of, target, seeds[0], cache, runs, results)
    names = [EVOLVED if name == SEARCHED else name for name in entries]
    for name in names:
        if name not in known["rows"]:
            budget, taken = at_time(
                own if name == EVOLVED else of, (own if name == EVOLVED else of).entry(name), target
            )
            known["rows"][name] = dict(suite=budget.ref, ms=taken)
            write_json(path, known)
    for name in names:
        parallel.run_jobs(local.jobs(suite(known["rows"][name]["suite"]), [name], seeds), cache, runs, results, 1)
    frame = frame_of(known, names, results)
    table = frame.to_markdown(index=False, disable_numparse=True)
    markdown = f"## {of.dataset} at {target:.4g} ms a clip, {device}\n\n{table}\n\n{NOTE.format(reference=REFERENCE)}"
    write_atomic(results / "tables" / f"runtime-{of.name}.csv", lambda p: frame.to_csv(p, index=False))
    write_atomic(results / "tables" / f"runtime-{of.name}.md", lambda p: p.write_text(markdown))
    return markdown


def _with_evolved(of: Suite, target: float, seed: int, cache: Path, runs: Path, results: Path) -> Suite:
    """The suite with one entry more, as a file: the network that evolution finds under the time."""
    config = search_config(of.entry(SEARCHED))
    config.options.milliseconds = float(f"{target:.4g}")
    found = search(of, config, seed, of.manifest("train", of.data_root(cache)), runs)
    name = re.sub(r"\W", "_", of.name)
    text = FILE.format(
        name=of.name, ms=target, module=name, evolved=EVOLVED, architecture=repr(found.architecture.to_dict())
    )
    path = results / "runtime" / f"runtime_{name}.py"
    write_atomic(path, lambda p: p.write_text(text))
    return suite(str(path))


def frame_of(known: dict, names: Sequence[str], results: Path) -> pd.DataFrame:
    """Rows of the table, the most accurate first."""
    records, rows = {}, []
    for name in names:
        of = suite(known["rows"][name]["suite"])
        folder = results / "records" / of.name
        records[name] = [(r, folder) for r in load_all(folder) if r.entry == name]
        row = next(r for r in tables.rows(of, results) if r.name == name)
        rows.append((name, row, known["rows"][name]["ms"]))
    spreads = spreads_of([run for of in records.values() for run in of])
    out = []
    for name, row, ms in sorted(rows, key=lambda r: -r[1].top1):
        against = "–"
        if name != REFERENCE and REFERENCE in records:
            against = str(between(records[name], records[REFERENCE], spreads))
        out.append(
            {
                "model": name,
                "ms": f"{ms:.2f}" + ("" if abs(ms / known["ms"] - 1) <= TOLERANCE else " (missed)"),
                "GMACs/view": f"{row.gmacs:.4f}",
                "params M": f"{row.params / 1e6:.3f}",
                "runs": str(len(row.records)),
                "top-1 % [95 %]": f"{row.top1:.1f} [{row.low:.1f}, {row.high:.1f}]",
                f"− {REFERENCE}, points [95 %]": against,
            }
        )
    return pd.DataFrame(out)
