"""In which setting of the embedded videos do single runs tell architectures apart?

    python -m reproduce.studies.headroom --settings base,joint --plan

Eight architectures of equal GMACs, two seeds each, in every setting: the hand-made families and four random ones of
Auto-TSNet's tiny space. Rules and settings are written into the record before the first figure, and cannot be changed
after it. A setting is ``SETTINGS``' name, or several joined: ``joint+third+steady``. A data set of a setting takes
about 4 GB as decoded frames, below CACHE.

Runs are those of a suite that is written to RUNS/headroom, as are their records: its name is in no table. What is
finished is kept, so the same command goes on after any interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import fdtri
from tabulate import tabulate

from reproduce.data import synthetic
from reproduce.data.decode import DEFAULT
from reproduce.launch import parallel
from reproduce.launch.local import Job
from reproduce.progress import Progress
from reproduce.records import RunRecord, session
from reproduce.search import stage
from reproduce.spec import run_id
from reproduce.studies.options import study_parser
from reproduce.suites import Suite, named, suite
from reproduce.whole_files import check_writable, write_atomic, write_json

LAYOUTS = ("kinetics", "ssv2")
RANDOM = {f"random{number}": number for number in range(4)}  # as auto_tsnet_random of the quick suites, by variant
ARCHITECTURES = ("x3d", "slowfast", "tsm", "auto_tsnet_uniform", *RANDOM)
REPEATED = {name: 5 for name in ("x3d", "auto_tsnet_uniform", "random0")}  # with --seed-sd: seeds

RULES = dict(
    question="in which setting do single runs tell architectures apart?",
    architectures=list(ARCHITECTURES),
    seeds=2,
    test_videos=2_000,
    icc="of architectures, one-way random effects, single run: (MSB - MSW) / (MSB + (k - 1) MSW), k seeds",
    icc_95="from the F distribution of MSB / MSW (Shrout and Fleiss 1979)",
    seed_sd="square root of MSW, points of top-1",
    spread="maximum - median of the architectures' mean top-1, points",
    least_spread_in_seed_sds=3.0,
    least_icc=0.6,
    choice="of the settings of at least the least spread, the one of the largest ICC; accepted from the least ICC on",
)

VIDEOS = dict(val=RULES["test_videos"], holdout=400)  # beside the 2,400 of training
TSM = dict(tsm=dict(strides=(1, 2, 2, 2)))  # its authors': with the quick suites' it costs 0.0101 GMACs at the least
SETTINGS: dict[str, dict[str, Any]] = {  # what is another than in the quick suites
    "base": {},
    "half": dict(gmacs=0.008, nets=TSM),
    "third": dict(gmacs=0.0055, nets=TSM),  # at 0.0053 TSM misses by 3 %
    "hard": dict(
        videos=dict(difficulty=dict(amplitude=(0.25, 0.7), radius=(0.06, 0.12), clutter=20, distractors=6)),
    ),
    "order": dict(videos=dict(steps=3)),
    "joint": dict(videos=dict(joint=True, classes=16)),
    "frames": dict(sampling=dict(kind="dense", frames=16, stride=2), nets=TSM),  # at equal GMACs: narrower networks
    "steady": dict(recipe=dict(epochs=5, warmup=0.2, precise_bn=32)),
    "many": dict(videos=dict(train=7_200), recipe=dict(epochs=2, warmup=0.2, precise_bn=32)),  # 900 steps, seen twice
    "ema": dict(recipe=dict(ema=0.02, precise_bn=32)),  # over about 50 steps
}
PILOT = ("base", "half", "third", "hard", "order", "joint", "frames")
RUN_S = 60  # seconds of a run of three epochs, roughly, on a core

FILE = '''"""Setting {name} of reproduce/studies/headroom.py on synthetic-{layout}; written by it."""

from mmengine.config import read_base

with read_base():
    from configs.suites.{layout}_quick import *

suite.update({suite})
suite["protocol"]["sampling"].update({sampling})
{lines}
entries = {entries}
'''


def changes(name: str) -> dict[str, Any]:
    """What a setting changes, as plain data: ``gmacs``, ``videos``, ``sampling``, ``nets``, ``recipe``.

    Raises:
        ValueError: an unknown one; the message lists the known ones.
    """
    made: dict[str, Any] = {}
    for part in name.split("+"):
        if part not in SETTINGS:
            raise ValueError(f"unknown setting {part!r}; known: {', '.join(SETTINGS)}, or several joined by +")
        for key, value in SETTINGS[part].items():
            made[key] = made.get(key, {}) | value if isinstance(value, dict) else value
    return json.loads(json.dumps(made))


def suite_of(layout: str, name: str, folder: Path) -> Suite:
    """The suite of a setting, from a file that is written for it: all processes of a run read that.

    Args:
        layout: ``kinetics`` or ``ssv2``.
        name: of the setting.
        folder: for the file.
    """
    base, new = named(f"{layout}-quick"), changes(name)
    videos, entry = new.get("videos", {}), base.entry("auto_tsnet_random")
    space = stage.method(base, stage.search_config(entry))
    lines = [f"nets[{net!r}].update({arguments})" for net, arguments in new.get("nets", {}).items()]
    for random, number in RANDOM.items():
        lines.append(f"nets[{random!r}] = dict(nets[{entry.net!r}], architecture={space.draw(number).to_dict()})")
    text = FILE.format(
        name=name,
        layout=layout,
        suite=dict(
            dataset=f"synthetic-{layout} headroom {name}",
            size=synthetic.changed(base.size, VIDEOS | videos),
            classes=videos.get("classes", base.classes),
            gmacs=new.get("gmacs", base.gmacs),
        ),
        sampling=new.get("sampling", {}),
        lines="\n".join(lines + [f"{key} = {value!r}" for key, value in new.get("recipe", {}).items()]),
        entries=[dict(name=architecture) for architecture in ARCHITECTURES],
    )
    path = folder / f"{layout}_headroom_{name.replace('+', '_')}.py"
    write_atomic(path, lambda part: part.write_text(text))
    return suite(str(path))


def intraclass(top1: np.ndarray) -> tuple[float, float, float]:
    """How much of the variance of single runs is that of architectures: ICC(1,1) with its 95 % interval.

    Args:
        top1: architectures × seeds, at least two of each.

    Returns:
        The coefficient, and the ends of its interval; 0 where no two numbers differ. It may be negative.
    """
    n, k = top1.shape
    between, within = k * top1.mean(1).var(ddof=1), top1.var(1, ddof=1).mean()

    def share(a: float, b: float) -> float:
        return float((a - b) / (a + (k - 1) * b)) if a + b else 0.0

    low, high = fdtri(n - 1, n * (k - 1), 0.975), fdtri(n * (k - 1), n - 1, 0.975)
    return share(between, within), share(between, low * within), share(high * between, within)


def figures(top1: Mapping[str, Sequence[float]], classes: int) -> dict[str, Any]:
    """What the rules ask of a setting.

    Args:
        top1: per architecture, percent of each seed; seeds that not all architectures have serve the seed SD only.
        classes: N.
    """
    seeds = min(map(len, top1.values()))
    runs = np.array([of[:seeds] for of in top1.values()])
    icc, low, high = intraclass(runs)
    means, seed_sd = runs.mean(1), float(np.sqrt(runs.var(1, ddof=1).mean()))
    spread = float(means.max() - np.median(means))
    found = dict(
        top1={name: list(of) for name, of in top1.items()},
        seeds=seeds,
        chance=100 / classes,
        icc=icc,
        icc_95=[low, high],
        seed_sd=seed_sd,
        spread=spread,
        eligible=spread >= RULES["least_spread_in_seed_sds"] * seed_sd,
    )
    if longer := [of for of in top1.values() if len(of) > seeds]:
        found["seed_sd_of_repeated"] = float(np.sqrt(np.mean([np.var(of, ddof=1) for of in longer])))
    return found


def choice(of: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The setting that the rules choose, and whether it is accepted; none, where none has the spread."""
    eligible = {name: figure["icc"] for name, figure in of.items() if figure["eligible"]}
    best = max(eligible, key=eligible.get, default=None)
    return dict(setting=best, accepted=best is not None and eligible[best] >= RULES["least_icc"])


def registered(path: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The study's record, with the rules and these settings in it, written before any figure of theirs.

    Raises:
        ValueError: it has figures by other rules, or of another setting of that name.
    """
    rules = json.loads(json.dumps(RULES))
    record = json.loads(path.read_text()) if path.exists() else dict(settings={}, figures={of: {} for of in LAYOUTS})
    with_figures = set().union(*record["figures"].values())
    if with_figures and record["rules"] != rules:
        raise ValueError(f"{path} has figures by other rules, which are not changed afterwards; choose another --out")
    for name in settings:
        if name in with_figures and record["settings"][name] != changes(name):
            raise ValueError(f"{path} has figures of another setting {name!r}; call the new one by another name")
    record["rules"] = rules
    record["settings"] |= {name: changes(name) for name in settings}
    write_json(path, record)
    return record


def is_whole(figure: Mapping[str, Any] | None, seeds: Mapping[str, int]) -> bool:
    """Whether a setting's figures are from as many seeds of each architecture."""
    return figure is not None and all(len(figure["top1"].get(name, ())) >= n for name, n in seeds.items())


def measured(of: Suite, seeds: Mapping[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Do the runs of a setting that are missing, and return its figures."""
    todo = [Job(of.ref, name, seed, 0) for seed in range(max(seeds.values())) for name in seeds if seed < seeds[name]]
    results = options.runs / "headroom"
    parallel.run_jobs(todo, options.cache, options.runs, results, options.jobs)
    folder = results / "records" / of.name
    records = [RunRecord.load(folder / f"{run_id(job.entry, 0, job.seed)}.json") for job in todo]
    top1 = {n: [100 * r.result.top1 / r.result.n for r in records if r.entry == n] for n in seeds}
    return figures(top1, of.classes) | dict(
        test_videos=records[0].result.n,
        test_manifest=records[0].data.test_manifest,
        train_manifest=records[0].data.train_manifest,
        gmacs={r.entry: r.model.gmacs for r in records},
        runs={run_id(r.entry, 0, r.seed): r.run for r in records},
        final_loss={n: [r.training.final_loss for r in records if r.entry == n] for n in seeds},
        training_s=sum(r.training.wall_s for r in records),
        provenance=session(DEFAULT).model_dump(),
    )


def table(record: Mapping[str, Any]) -> str:
    """All figures, and what the rules choose."""
    parts = []
    for layout, of in record["figures"].items():
        rows = []
        for name, f in of.items():
            row = {"setting": name, "ICC": f"{f['icc']:.2f} [{f['icc_95'][0]:.2f}, {f['icc_95'][1]:.2f}]"}
            row |= {"seed SD": f["seed_sd"], "of five seeds": f.get("seed_sd_of_repeated"), "max - median": f["spread"]}
            row |= {"enough": "yes" if f["eligible"] else "no", "chance": f["chance"]}
            rows.append(row | {a: np.mean(top1) for a, top1 in f["top1"].items()})
        if rows:
            chosen = choice(of)
            verdict = f"{chosen['setting']}, {'accepted' if chosen['accepted'] else 'not accepted'}"
            said = verdict if chosen["setting"] else "none, no setting spreads enough"
            lines = tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f")
            parts.append(f"synthetic-{layout}, top-1 in %\n\n{lines}\n\nchosen: {said}")
    return "\n\n".join(parts)


def plan(missing: Sequence[tuple[str, str]], seeds: Mapping[str, int], at_a_time: int) -> str:
    """What is to be done, and about how long it takes."""
    runs, new = sum(seeds.values()), [changes(name) for _, name in missing]
    steps = sum(n.get("recipe", {}).get("epochs", 3) * n.get("videos", {}).get("train", 2_400) / 2_400 for n in new)
    minutes = RUN_S / 60 * runs * steps / 3 / at_a_time
    videos = {(layout, json.dumps(changes(name).get("videos"))) for layout, name in missing}
    lines = [f"  {layout} {name}: {changes(name) or 'as the quick suite'}" for layout, name in missing]
    lines.append(
        f"{len(missing)} settings × {runs} runs, {at_a_time} at a time, {RUN_S} s each for three epochs: about "
        f"{minutes:.0f} minutes where nothing else runs; before that, minutes for the networks' widths and for each of "
        f"{len(videos)} data sets, where they are not there"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study; print and write what was found."""
    parser = study_parser(__doc__, "studies/headroom.json", "runs", "cache")
    parser.add_argument("--settings", default=",".join(PILOT), help=f"of {', '.join(SETTINGS)}; joined by +")
    parser.add_argument("--data", choices=(*LAYOUTS, "both"), default="both")
    parser.add_argument("--seeds", type=int, default=RULES["seeds"], help="of each architecture, from 2 on")
    parser.add_argument("--seed-sd", action="store_true", help="also five seeds of three architectures")
    parser.add_argument("--steady", action="store_true", help="every setting with +steady")
    parser.add_argument("--plan", action="store_true", help="only say what would be done and how long it takes")
    parser.add_argument("--register", action="store_true", help="only write the rules and the settings")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("JOBS") or 0), help="runs at a time; 0: as fit")
    options = parser.parse_args(argv)
    settings = [name + "+steady" * options.steady for name in dict.fromkeys(options.settings.split(","))]
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: one run shows nothing of the spread of seeds, take 2 or more")
    try:
        for name in settings:
            changes(name)
    except ValueError as error:
        parser.error(f"--settings: {error}")

    options.jobs = options.jobs or parallel.fitting()
    seeds = {name: options.seeds for name in ARCHITECTURES}
    if options.seed_sd:
        seeds |= {name: max(number, options.seeds) for name, number in REPEATED.items()}
    known = json.loads(options.out.read_text())["figures"] if options.out.exists() else {}
    layouts = LAYOUTS if options.data == "both" else (options.data,)
    missing = [(of, name) for name in settings for of in layouts if not is_whole(known.get(of, {}).get(name), seeds)]
    print(plan(missing, seeds, options.jobs), file=sys.stderr)
    if options.plan:
        return
    record = registered(options.out, settings)
    if options.register:
        return
    check_writable(options.runs, "--runs")
    suites = {which: suite_of(*which, options.runs / "headroom") for which in missing}
    for of in suites.values():  # a budget out of reach, before hours of work
        of.check(ARCHITECTURES)
    runs = sum(seeds.values())
    with Progress("headroom", runs * len(missing)) as progress:
        for (layout, name), of in suites.items():
            record["figures"][layout][name] = measured(of, seeds, options)
            record["chosen"] = {which: choice(found) for which, found in record["figures"].items()}
            write_json(options.out, record)
            progress.step(runs, note=f"{layout} {name}")
    print(table(record))


if __name__ == "__main__":
    main()
