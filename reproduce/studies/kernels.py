"""Do the quick layers of a training change what is learnt? Families trained with them and with torch's own.

    python -m reproduce.studies.kernels --seeds 5

The two sides differ by rounding only, which a training makes grow until its runs differ as those of two seeds do. The
rule, stated before any run: the accuracies are unchanged if, for each family, the 95 % interval of the difference of
the means (Welch's, over the seeds) holds 0. An interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from scipy.stats import ttest_ind

from reproduce.engine import runner
from reproduce.evidence.reference import own_option
from reproduce.launch import parallel
from reproduce.launch.local import Job
from reproduce.progress import Progress
from reproduce.records import score, session
from reproduce.whole_files import write_json

SIDES = ("torch", "ours")


def top1(entry: str, seed: int, side: str, suite: str, runs: Path, cache: Path) -> float:
    """Percent of one run's test videos."""
    torch.set_num_threads(1)
    parallel.keep_memory()
    folder = runs / "kernels" / side
    with patch.object(runner, "quicken", runner.quicken if side == "ours" else lambda net: net):
        Job(suite, entry, seed, 0).run(cache, folder, folder / "results", timed=False)
    (path,) = folder.glob(f"{suite}/{entry}-s{seed}-*/predictions.parquet")
    table = pd.read_parquet(path)
    return 100 * score(table)[0] / len(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="kinetics-quick")
    parser.add_argument("--entries", default="slowfast,x3d,tsm", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("RUNS") or "runs"))
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("CACHE") or ".cache"))
    own_option(parser, "--out", "studies/kernels.json")
    options = parser.parse_args(argv)
    rest = options.suite, options.runs, options.cache
    todo = [(e, seed, side) for e in options.entries.split(",") for side in SIDES for seed in range(options.seeds)]
    found: dict[str, dict] = {e: {side: [] for side in SIDES} for e, *_ in todo}
    with (
        ProcessPoolExecutor(parallel.fitting(), get_context("spawn")) as pool,
        Progress("with and without quick layers", len(todo)) as progress,
    ):
        for (entry, _, side), future in zip(todo, [pool.submit(top1, *job, *rest) for job in todo], strict=True):
            found[entry][side].append(future.result())
            progress.step()
    for entry, of in found.items():
        test = ttest_ind(of["ours"], of["torch"], equal_var=False)
        low, high = test.confidence_interval(0.95)
        mean = sum(of["ours"]) / len(of["ours"]) - sum(of["torch"]) / len(of["torch"])
        of |= dict(difference=[mean, low, high], unchanged=bool(low <= 0 <= high))
        unchanged = "unchanged" if of["unchanged"] else "changed"
        print(f"{entry}: {mean:+.1f} points [{low:+.1f}, {high:+.1f}], {unchanged}", file=sys.stdout)
    write_json(options.out, dict(suite=options.suite, families=found, provenance=session().model_dump()))


if __name__ == "__main__":
    main()
