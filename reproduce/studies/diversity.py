"""Does the schedule of the PV-NAS-style search keep the searched networks diverse, as its name says?

    python -m reproduce.studies.diversity

The same search twice per seed on one suite: with rates in opposite phase, and with a constant rate of the distribution
of equal mean. Diversity is the expected share of blocks in which two networks drawn at that step differ; its mean is
that of the steps after the warm-up, in which nothing is learnt of architectures.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd

from reproduce.data.decode import DEFAULT
from reproduce.pictures.search import draw_curves
from reproduce.records import session
from reproduce.search import stage
from reproduce.studies.options import study_parser
from reproduce.suites import suite
from reproduce.whole_files import write_json

SCHEDULES = {"opposite phase": True, "plain": False}


def main() -> None:
    """Run the study, write its record and its picture."""
    parser = study_parser(__doc__, "studies/diversity.json", "runs", "cache")
    parser.add_argument("--suite", default="ssv2-quick")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()

    s = suite(options.suite)
    train = s.manifest("train", s.data_root(options.cache))
    base = stage.search_config(s.entry("pvnas"))
    warmup = base.options.warmup
    curves: dict[str, list[np.ndarray]] = {name: [] for name in SCHEDULES}
    found: dict[str, list[list[str]]] = {name: [] for name in SCHEDULES}
    for seed in range(options.seeds):
        for name, diverse in SCHEDULES.items():
            config = copy.deepcopy(base)
            config.options.diverse = diverse
            result = stage.search(s, config, seed, train, options.runs)
            curves[name].append(pd.read_parquet(result.folder / "journal.parquet").diversity.to_numpy())
            found[name].append(list(result.architecture))
    write_json(
        options.out,
        {
            "suite": s.name,
            "train_manifest": train.hash,
            "mean_diversity": {name: [float(c[warmup:].mean()) for c in runs] for name, runs in curves.items()},
            "final_diversity": {name: [float(c[-1]) for c in runs] for name, runs in curves.items()},
            "found": found,
            "provenance": session(DEFAULT).model_dump(),
        },
    )
    label = "share of blocks in which two drawn networks differ"
    draw_curves(curves, options.out.with_suffix(".png"), "step of the search", label)
    for name, runs in curves.items():
        mean, last = np.mean([c[warmup:] for c in runs]), np.mean([c[-1] for c in runs])
        print(f"{name}: mean diversity {mean:.3f}, at the end {last:.3f}")


if __name__ == "__main__":
    main()
