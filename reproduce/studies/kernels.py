"""What do the quick ways of a CPU change in accuracy? Families trained and tested with and without them.

    python -m reproduce.studies.kernels --entries slowfast,x3d,tsm --seeds 5

Sides: ``torch``, trained with torch's own layers; ``ours``, with the quick ones, as every run is; ``bf16``, these in
bf16 autocast (``amp``); ``tested``, the networks of ``ours`` tested in bf16 (``test_amp``).

The quick layers differ from torch's by rounding only, which a training makes grow until its runs differ as those of two
seeds do. The rule, stated before any run: the accuracies are unchanged if, for each family, the 95 % interval of the
difference of the means (Welch's, over the seeds; of ``tested``, paired) holds 0. Families of another call are added to
the record, and an interrupted study goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from scipy.stats import ttest_ind, ttest_rel

from reproduce.engine import runner
from reproduce.engine.test import test
from reproduce.launch import parallel
from reproduce.launch.local import Job
from reproduce.progress import Progress
from reproduce.records import score, session
from reproduce.spec import RunSpec
from reproduce.studies.options import study_parser
from reproduce.suites import suite as suite_named
from reproduce.whole_files import write_atomic, write_json

AGAINST = dict(ours="torch", bf16="ours", tested="ours")  # side -> the one that it is set against
SIDES = ("torch", *AGAINST)
BF16 = '''"""{suite} in bf16; written by reproduce/studies/kernels.py."""

from mmengine.config import read_base

with read_base():
    from configs.suites.{module} import *

amp = "bf16"
'''


def top1(entry: str, seed: int, sides: Sequence[str], suite: str, runs: Path, cache: Path) -> list[float]:
    """Percent of one seed's test videos, of each side."""
    torch.set_num_threads(1)
    parallel.keep_memory()
    found = {}
    for side in sides:
        results, path = runs / "results", runs / f"{suite.replace('-', '_')}_bf16.py"
        if side == "tested":
            tested_in_bf16(found["ours"].parent, runs / side / entry / str(seed), suite, cache)
            found[side] = runs / side / entry / str(seed) / "predictions.parquet"
            continue
        write_atomic(path, lambda p: p.write_text(BF16.format(suite=suite, module=suite.replace("-", "_"))))
        named = str(path) if side == "bf16" else suite
        with patch.object(runner, "quicken", (lambda net: net) if side == "torch" else runner.quicken):
            Job(named, entry, seed, 0).run(cache, runs / side, results, timed=False)
        (found[side],) = (runs / side).glob(f"*/{entry}-s{seed}-*/predictions.parquet")
    tables = map(pd.read_parquet, found.values())
    return [100 * score(table)[0] / len(table) for table in tables]


def tested_in_bf16(run: Path, folder: Path, suite: str, cache: Path) -> None:
    """The predictions of a run's network in bf16, in another folder."""
    if (folder / "predictions.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    spec, of = RunSpec.load(run), suite_named(suite)
    spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(test_amp="bf16")))
    shutil.copyfile(run / "model.safetensors", folder / "model.safetensors")
    test(spec, of.protocol, of.manifest("val", of.data_root(cache)), folder)


def differences(of: dict[str, list[float]]) -> dict[str, dict]:
    """Each side's difference to the one that it is set against, in points, and whether it is unchanged."""
    found = {}
    for side, other in AGAINST.items():
        if side in of and other in of:
            if side == "tested":
                result = ttest_rel(of[side], of[other])
            else:
                result = ttest_ind(of[side], of[other], equal_var=False)
            low, high = result.confidence_interval(0.95)
            mean = (sum(of[side]) - sum(of[other])) / len(of[other])
            unchanged = bool(low <= 0 <= high) or of[side] == of[other]  # equal pairs have no interval
            found[side] = dict(against=other, points=[mean, low, high], unchanged=unchanged)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study; print and write what was found."""
    parser = study_parser(__doc__, "studies/kernels.json", "runs", "cache")
    parser.add_argument("--suite", default="kinetics-quick")
    parser.add_argument("--entries", default="slowfast,x3d,tsm", help="comma-separated")
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated; tested needs ours before it")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(argv)
    sides = options.sides.split(",")
    rest = sides, options.suite, options.runs / "kernels", options.cache
    todo = [(entry, seed) for entry in options.entries.split(",") for seed in range(options.seeds)]
    found: dict[str, dict] = {entry: {side: [] for side in sides} for entry, _ in todo}
    with (
        ProcessPoolExecutor(parallel.fitting(), get_context("spawn")) as pool,
        Progress("with and without quick ways", len(todo)) as progress,
    ):
        for (entry, _), future in zip(todo, [pool.submit(top1, *job, *rest) for job in todo], strict=True):
            for side, percent in zip(sides, future.result(), strict=True):
                found[entry][side].append(percent)
            progress.step()
    record = json.loads(options.out.read_text()) if options.out.exists() else dict(families={})
    for entry, top1s in found.items():
        compared = differences(top1s)
        made = dict(suite=options.suite, top1=top1s, differences=compared, provenance=session().model_dump())
        record["families"][entry] = made
        for side, d in compared.items():
            mean, low, high = d["points"]
            said = "unchanged" if d["unchanged"] else "changed"
            print(f"{entry}: {side} - {d['against']} {mean:+.1f} points [{low:+.1f}, {high:+.1f}], {said}")
    write_json(options.out, dict(families=record["families"]))


if __name__ == "__main__":
    main()
