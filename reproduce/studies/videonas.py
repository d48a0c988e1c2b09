"""VideoNAS: about 400 video networks of equal GMACs, trained and put into a table to search in.

    python -m reproduce.studies.videonas --data ssv2 --setting base --plan
    python -m reproduce.studies.videonas --data ssv2 --setting base --part factorial --limit 20

The factorial subspace (``reproduce.evidence.tabular.SPACE``) is trained with seed 0, so are random architectures of the
whole space, each with its width solved to 1 % of the budget. 30 random networks of the subspace and its 30 best by
validation are trained with seeds 1 and 2 too; how good the best is, is estimated from those seeds only. Settings are
those of ``reproduce.studies.headroom``. Validation is on its held-out videos, neither of training nor of test.

plan.json, the list of networks, is written first. Runs are in RUNS/<suite>; what is finished is kept, so the same
command goes on after any interruption. It ends with videonas.parquet and README.md, the data card, of all runs so far.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from autotsnet.architecture import BlockChoice, GroupChoice, MacroArchitecture, TwoStreamArchitecture
from autotsnet.inputs import example
from autotsnet.registry import family
from autotsnet.spaces import preset
from reproduce.budget import cost, memory_folder
from reproduce.data.datasets import TestVideos
from reproduce.data.decode import DEFAULT
from reproduce.data.frames import cache as decode_once
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.inference import accelerate
from reproduce.engine.rebuild import config_of, for_test, model_of
from reproduce.engine.recipe import schedule, videos_at_once
from reproduce.engine.runner import DivergedError, preemptible, threads_of
from reproduce.engine.train import train
from reproduce.evidence import tabular
from reproduce.evidence.tabular import FACTORS, SPACE
from reproduce.launch import parallel
from reproduce.lease import held
from reproduce.measure.throughput import forward_throughput
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import session
from reproduce.spec import RunSpec
from reproduce.studies import headroom
from reproduce.studies.options import study_parser
from reproduce.studies.videonas_card import card
from reproduce.suites import Entry, Suite
from reproduce.whole_files import check_writable, write_atomic, write_json

RANDOM = 80  # networks of the whole space
REPEATED = 30  # networks with more seeds: so many at random, so many of the best
SEEDS = (0, 1, 2)  # the first of all networks
MISS = 0.01  # of the budget, at the most
PARTS = ("factorial", "random", "repeats", "speed")
ENTRY = "auto_tsnet_random"  # by whose expected losses the gate knows that training is as it was
LOSSES = 12  # parts of a training; the loss of each is a mean
NO_ANSWER = 255


def architecture(code: str) -> TwoStreamArchitecture:
    """The architecture of a code, before its width is solved.

    Raises:
        KeyError: it is no code.
    """
    found = tabular.levels(code)
    if code.startswith("random-"):
        return preset(SPACE["random"]).decode(torch.tensor([int(digit) for digit in found]))
    of = dict(zip(FACTORS, found, strict=True))
    depths, last = [int(d) for d in of["depth"][1:]], len(SPACE["channels"]) - 1

    def stream(factor: float) -> tuple[GroupChoice, ...]:
        groups = []
        for g, (channels, depth) in enumerate(zip(SPACE["channels"], depths, strict=True)):
            t = 3 if of["temporal"] == "all" or (of["temporal"] == "late" and g == last) else 1
            block = BlockChoice(t, int(of["kernel"][1:]), float(of["expansion"][1:]))
            groups.append(GroupChoice(round(factor * channels), (block,) * depth, of["attention"]))
        return tuple(groups)

    beta, stem = SPACE["beta"][of["split"]], SPACE["stem"]
    given = preset(SPACE["random"]).macro  # frames and crop: only the costs that a search assumes depend on them
    stems = stem, max(1, round(beta * stem))
    macro = MacroArchitecture(given.frames, given.crop, SPACE["alpha"], stems, SPACE["strides"], SPACE["head"])
    slow = None if of["split"] == "fast" else stream(1.0)
    fast = None if of["split"] == "slow" else stream(beta)
    return TwoStreamArchitecture(macro, slow, fast, (of["fusion"],) * len(SPACE["strides"]))


def suite_of(layout: str, setting: str, runs: Path) -> Suite:
    """The suite of a setting of the study of headroom, under this study's name."""
    of = headroom.suite_of(layout, setting, runs / "headroom")
    return replace(of, name=f"{layout}-videonas-{setting.replace('+', '_')}")


def entry_of(of: Suite, code: str) -> Entry:
    """A network of the plan as an entry whose width is solved to the suite's budget."""
    return Entry(ENTRY, of.file, net="auto_tsnet", architecture=architecture(code))


def planned_codes() -> dict[str, list[str]]:
    """Codes by part, in an order of no meaning, so that the first ones are a sample of all."""
    rng = np.random.default_rng(0)
    codes = tabular.codes()
    drawn = preset(SPACE["random"]).sample(RANDOM, rng).tolist()
    return dict(
        factorial=[codes[i] for i in rng.permutation(len(codes))],
        random=["random-" + "".join(map(str, code)) for code in drawn],
    )


def solved(of: Suite, part: str, number: int, code: str) -> dict[str, Any]:
    """A network of the plan: its scales, its costs, and the hash of what is to be run, but for seed and videos."""
    entry = entry_of(of, code)
    found, arch = of.solution(entry), entry.architecture
    scales = {knob: found.kwargs.get(knob, 1.0) for knob in arch.scales}
    both = arch.slow and arch.fast
    return dict(
        part=part,
        number=number,
        code=code,
        architecture=arch.hash,
        gmacs=found.gmacs,
        params=found.params,
        residual=found.residual,
        slow_share=_share(of, arch, scales) if both else float(arch.fast is None),
        spec=RunSpec.of(of, entry, 0, "", "", number).hash,
        **scales,
    )


def _share(of: Suite, arch: TwoStreamArchitecture, scales: dict[str, float]) -> float:
    """What the slow stream costs alone, over the sum of both alone."""
    sampling, crops = of.protocol.sampling, of.protocol.crops
    alone = []
    for stream in ("slow", "fast"):
        made = dict(num_classes=of.classes, frames=sampling.frames, crop=crops.size, **scales)
        made |= arch.alone(stream).arguments()
        alone.append(cost(family("auto_tsnet").build, made, sampling.frames, crops.test_size, memory_folder())[0])
    return alone[0] / sum(alone)


def planned(path: Path, layout: str, setting: str, of: Suite, limit: int | None, seeds: Sequence[int]) -> dict:
    """The plan, written before anything is run; networks that it has stay as they are.

    Args:
        path: of plan.json.
        layout: ``kinetics`` or ``ssv2``.
        setting: of the study of headroom.
        of: its suite.
        limit: networks of each part; None: all.
        seeds: the first of all networks, the others of those that are repeated.

    Raises:
        ValueError: the file is the plan of another table.
    """
    identity = dict(
        space=tabular.space_version(),
        factors={name: list(levels) for name, levels in FACTORS.items()},
        data=layout,
        setting=setting,
        changes=headroom.changes(setting),
        budget=of.gmacs,
    )
    before = json.loads(path.read_text()) if path.exists() else identity | dict(networks=[])
    if differs := [key for key, value in identity.items() if before.get(key) != value]:
        raise ValueError(
            f"{path} is the plan of another table ({', '.join(differs)} differ): choose another --out, or delete it"
        )
    known = {network["code"]: network for network in before["networks"]}
    codes = planned_codes()
    todo = [(part, i, code) for part, of_part in codes.items() for i, code in enumerate(of_part[:limit])]
    with Progress("videonas plan", len(todo)) as progress:
        for part, i, code in todo:
            if code not in known:
                known[code] = solved(of, part, i + len(codes["factorial"]) * (part == "random"), code)
            progress.step(note=code)
    plan = identity | dict(
        networks=sorted(known.values(), key=lambda network: network["number"]),
        seeds=list(seeds),
        repeated_at_random=codes["factorial"][:REPEATED],  # the order is random
        repeated_best=REPEATED,
    )
    write_json(path, plan)
    return plan


def missed(plan: dict) -> list[dict]:
    """Networks that the solver could not bring near enough to the budget; they are not trained."""
    return [network for network in plan["networks"] if abs(network["residual"]) > MISS]


@torch.no_grad()
def scores(
    model: VideoClassifier, manifest: Manifest, protocol: Protocol, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of videos, ``videos × classes``, and which could not be read. Where not all are finite, all are equal."""
    made, failed = [], []
    for batch in DataLoader(TestVideos(manifest, protocol, inputs=model.inputs), at_once):
        made += [sample["scores"] for sample in model.test_step(batch)]
        failed += [bool(error) for error in batch["error"]]
    found = torch.stack(made).double()
    found[~found.isfinite().all(1)] = 1 / found.shape[1]
    return found.numpy(), np.array(failed)


def marks(found: np.ndarray, failed: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Top-1 in percent, log-loss in nats and, in hex, the answer to each video; ``NO_ANSWER`` where it was not read."""
    answers = np.where(failed, NO_ANSWER, found.argmax(1)).astype(np.uint8)
    right = found[np.arange(len(labels)), labels].clip(1e-12)
    return dict(
        top1=100 * float((answers == labels).mean()),
        log_loss=float(-np.log(np.where(failed, 1 / found.shape[1], right)).mean()),
        answers=answers.tobytes().hex(),
    )


def labels_of(manifest: Manifest) -> np.ndarray:
    """Of its videos, in their order."""
    return np.array([video.label for video in manifest.videos])


class Along(Hook):
    """Losses, seconds and validation along a training, which goes on as if nobody looked: on a copy of its weights.

    ``steps.txt`` has step, loss and processor seconds of each step, ``validation-<step>.json`` a validation. Batch norm
    is as in a test, with the statistics so far; of averaged weights, the average so far.

    Args:
        spec: the run.
        protocol: of the validation.
        manifest: its videos.
        folder: of the run.
    """

    priority = "VERY_LOW"  # after the average is updated, before RunHook saves

    def __init__(self, spec: RunSpec, protocol: Protocol, manifest: Manifest, folder: Path) -> None:
        self.spec, self.protocol, self.manifest, self.folder = spec, protocol, manifest, folder
        self.path = folder / "steps.txt"
        self._clock = 0.0

    def before_train(self, runner: Runner) -> None:
        """Drop what comes after the checkpoint, and a line that was not finished."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [x for x in lines if len(x.split()) == 3 and x.endswith("\n") and int(x.split()[0]) <= runner.iter]
        write_atomic(self.path, lambda path: path.write_text("".join(whole)))
        self.at = [round(share * runner.max_iters) for share in tabular.AT if share < 1]
        self._clock = time.process_time()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Note the step; validate, where it is time."""
        step = batch_idx + 1
        with open(self.path, "a") as file:
            file.write(f"{step} {outputs['loss'].item()} {time.process_time() - self._clock:.4f}\n")
        path = self.folder / f"validation-{step}.json"
        if step in self.at and not path.exists():
            ema = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
            source = ema.ema_model.module if ema else getattr(runner.model, "module", runner.model)
            write_json(path, self._validation(source.net.state_dict()))
        self._clock = time.process_time()

    def _validation(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        config, protocol = config_of(self.spec), self.protocol
        model = model_of(config)
        model.net.load_state_dict(weights)
        accelerate(
            model.eval().net, *example(model.inputs, protocol.sampling.frames, protocol.crops.test_size, 1, "cpu")
        )
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        found = scores(model, self.manifest, protocol, videos_at_once(config, protocol))
        return marks(*found, labels_of(self.manifest))


def outcome(spec: RunSpec, of: Suite, splits: Sequence[Manifest], folder: Path) -> dict[str, Any]:
    """Train a run, or go on; validate and test it.

    Args:
        spec: the run.
        of: its suite.
        splits: of training, validation, test.
        folder: of the run.
    """
    training, validation, testing = splits
    protocol, diverged, config = of.protocol, False, config_of(spec)
    write_json(folder / "spec.json", spec.model_dump())
    if not (folder / "model.safetensors").exists():
        try:
            train(spec, protocol, training, folder, [Along(spec, protocol, validation, folder)])
        except DivergedError as error:
            print(f"  {error}", file=sys.stderr)
            diverged = True
    by_step = np.loadtxt(folder / "steps.txt", ndmin=2)
    steps, _ = schedule(config, len(training.videos))
    losses = np.full(steps, np.nan)
    losses[by_step[:, 0].astype(int) - 1] = by_step[:, 1]
    ends_at = [max(1, round(i * steps / LOSSES)) for i in range(LOSSES + 1)]
    parts = [losses[min(begin, end - 1) : end] for begin, end in pairwise(ends_at)]
    began = time.process_time()
    ends = {}
    if not diverged:
        model = for_test(spec, folder, protocol).to("cuda" if torch.cuda.is_available() else "cpu")
        diverged = not all(bool(p.isfinite().all()) for p in model.parameters())  # by the last step
    if not diverged:
        at_once = videos_at_once(config, protocol)
        ends["validation"] = marks(*scores(model, validation, protocol, at_once), labels_of(validation))
        validated = time.process_time()
        ends["test"] = marks(*scores(model, testing, protocol, at_once), labels_of(testing))
    else:
        validated = began
        for name, manifest in (("validation", validation), ("test", testing)):  # as one that knows nothing
            uniform = np.full((len(manifest.videos), of.classes), 1 / of.classes)
            ends[name] = marks(uniform, np.zeros(len(uniform), bool), labels_of(manifest))
    row: dict[str, Any] = dict(
        run=spec.hash,
        steps=steps,
        losses=[float(part.mean()) if np.isfinite(part).all() else None for part in parts],
        core_s=float(by_step[:, 2].sum()) + validated - began,
        diverged=diverged,
        validation=ends["validation"]["top1"],
        log_loss=ends["validation"]["log_loss"],
        answers=ends["validation"]["answers"],
        test=ends["test"]["top1"],
        test_log_loss=ends["test"]["log_loss"],
        test_answers=ends["test"]["answers"],
    )
    for share, end in tabular.AT.items():
        row["loss" + end] = row["losses"][round(share * LOSSES) - 1]
        path = folder / f"validation-{round(share * steps)}.json"
        if share < 1:
            row["validation" + end] = (json.loads(path.read_text()) if path.exists() else ends["validation"])["top1"]
    return row


@lru_cache(maxsize=1)
def data_of(layout: str, setting: str, cache: Path, runs: Path) -> tuple[Suite, tuple[Manifest, ...]]:
    """The suite of a setting, and its videos of training, validation and test."""
    of = suite_of(layout, setting, runs)
    root = of.data_root(cache)
    splits = tuple(of.manifest(split, root) for split in ("train", "holdout", "val"))
    for manifest in splits:
        decode_once(manifest)
    return of, splits


@dataclass(frozen=True)
class Job:
    """One run of the plan: what a process is given.

    Attributes:
        data: ``kinetics`` or ``ssv2``.
        setting: of the study of headroom.
        suite: name of its suite.
        code: of the network.
        number: of the network.
        spec: hash of what is to be run, but for seed and videos.
        seed: of the run.
        total: rows of the whole table.
    """

    data: str
    setting: str
    suite: str
    code: str
    number: int
    spec: str
    seed: int
    total: int

    def row(self, runs: Path) -> Path:
        """The file of its outcome."""
        return runs / self.suite / "rows" / f"{self.spec}-s{self.seed}.json"

    def run(self, cache: Path, runs: Path, results: Path | None = None, timed: bool = False) -> None:
        """Do what is missing.

        Raises:
            ValueError: what would be run is not what was planned.
        """
        path = self.row(runs)
        if path.exists():
            return
        of, splits = data_of(self.data, self.setting, cache, runs)
        train_manifest, validation, test_manifest = splits
        spec = RunSpec.of(of, entry_of(of, self.code), self.seed, train_manifest, test_manifest, self.number)
        if spec.model_copy(update=dict(seed=0, train_manifest="", test_manifest="")).hash != self.spec:
            raise ValueError(
                f"{self.code} is not the run that was planned: recipe, network or numerics have changed since; a table "
                "is of one version: delete the plan, or choose another --out"
            )
        folder = spec.folder(runs)
        with held(folder), threads_of(spec.recipe):
            if path.exists():
                return
            row = outcome(spec, of, splits, folder)
            manifests = dict(train=train_manifest.hash, validation=validation.hash, test=test_manifest.hash)
            made = session(DEFAULT).model_dump()
            write_json(path, row | dict(code=self.code, seed=self.seed, manifests=manifests, provenance=made))
        _show(path.parent, self, row)


_shown: list[Progress] = []  # of this process


def _show(rows: Path, job: Job, row: dict) -> None:
    """A line that says how far all processes are together."""
    done = len(list(rows.glob("*-s*.json")))
    if not _shown:
        _shown.append(Progress("videonas", job.total, done - 1))
    progress = _shown[0]
    progress.step(done - progress.done, f"{job.code}, seed {job.seed}: {row['validation']:.1f} % of validation")


def jobs(plan: dict, of: Suite, codes: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """The runs of some networks of the plan; those that miss the budget are left out."""
    wanted, out = set(codes), {network["code"] for network in missed(plan)}
    extra = 2 * plan["repeated_best"] * (len(plan["seeds"]) - 1)
    total = len(plan["networks"]) - len(out) + extra  # more, where no network is repeated twice
    return [
        Job(plan["data"], plan["setting"], of.name, n["code"], n["number"], n["spec"], seed, total)
        for seed in seeds
        for n in plan["networks"]
        if n["code"] in wanted - out
    ]


def work(todo: list[Job], options: argparse.Namespace) -> None:
    """Do runs, several at a time.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
    """
    missing = [job for job in todo if not job.row(options.runs).exists()]
    if not missing:
        return
    with preemptible():
        data_of(missing[0].data, missing[0].setting, options.cache, options.runs)  # generated once
    if options.jobs > 1 and len(missing) > 1:
        parallel.side_by_side(missing, options.cache, options.runs, options.out, min(options.jobs, len(missing)))
    with preemptible():
        for job in missing:  # what failed in a process of its own says why
            job.run(options.cache, options.runs)


def best(plan: dict, of: Suite, runs: Path) -> list[str]:
    """The best of the subspace by validation with the first seed; none before all of the plan are trained."""
    mine = [n["code"] for n in plan["networks"] if n["part"] == "factorial"]
    paths = {job.code: job.row(runs) for job in jobs(plan, of, mine, plan["seeds"][:1])}
    if not all(path.exists() for path in paths.values()):
        return []
    found = {code: json.loads(path.read_text())["validation"] for code, path in paths.items()}
    return sorted(found, key=found.get, reverse=True)[: plan["repeated_best"]]


def time_networks(plan: dict, of: Suite, runs: Path) -> None:
    """Forward passes of each network of the plan, one after the other, on the threads of a training."""
    with Progress("videonas speed", len(plan["networks"])) as progress, preemptible():
        for network in plan["networks"]:
            path = speed_of(network, of, runs)
            if not path.exists():
                config = of.config(entry_of(of, network["code"]))
                with threads_of(config):
                    net = model_of(config).net.to("cuda" if torch.cuda.is_available() else "cpu")
                    speed = forward_throughput(net, of.protocol.sampling.frames, of.protocol.crops.test_size)
                write_json(path, speed.model_dump())
            progress.step(note=network["code"])


def speed_of(network: dict, of: Suite, runs: Path) -> Path:
    """The file of a network's throughput."""
    return runs / of.name / "speed" / f"{network['spec']}.json"


def table_of(plan: dict, of: Suite, runs: Path) -> pd.DataFrame:
    """All rows so far, with their origin in ``attrs``.

    Raises:
        ValueError: they are not all of the same videos.
    """
    networks, rows, origins, speeds = {n["code"]: n for n in plan["networks"]}, [], {}, {}
    for job in jobs(plan, of, networks, plan["seeds"]):
        if not job.row(runs).exists():
            continue
        row, network = json.loads(job.row(runs).read_text()), networks[job.code]
        origins.setdefault(json.dumps(row.pop("manifests")), []).append(row.pop("provenance"))
        path = speed_of(network, of, runs)
        if path.exists():
            speeds[job.code] = json.loads(path.read_text())
        factorial = network["part"] == "factorial"
        found = tabular.levels(job.code) if factorial else (None,) * len(FACTORS)
        kept = ("part", "gmacs", "params", "residual", "width", "expansion", "slow_share")
        scales = {"expansion": "expansion_scale"}  # the factor has the name
        rows.append(
            dict(code=job.code, seed=job.seed, **dict(zip(FACTORS, found, strict=True)))
            | {scales.get(key, key): network[key] for key in kept}
            | dict(architecture=json.dumps(architecture(job.code).to_dict()), architecture_hash=network["architecture"])
            | dict(clips_per_s=speeds.get(job.code, {}).get("clips_per_s", np.nan))
            | {name: np.nan if value is None else value for name, value in row.items()}
            | dict(losses=np.array(row["losses"], "float32"))
            | {name: bytes.fromhex(row[name]) for name in ("answers", "test_answers")}
        )
    if len(origins) > 1:
        raise ValueError(f"{of.name}: rows are of {len(origins)} sets of videos; delete the rows of the old ones")
    table = pd.DataFrame(rows)
    if rows:
        floats = [name for name in table if table[name].dtype == float and name != "gmacs"]
        table[floats] = table[floats].astype("float32")
        made = [m for of_one in origins.values() for m in of_one]
        table.attrs["videonas"] = {key: plan[key] for key in ("space", "data", "setting", "changes", "budget")} | dict(
            suite=of.name,
            dataset=of.dataset,
            classes=of.classes,
            seeds=plan["seeds"],
            repeated_at_random=plan["repeated_at_random"],
            planned=len(plan["networks"]),
            missed=[network["code"] for network in missed(plan)],
            manifests=json.loads(next(iter(origins))),
            commits=sorted({m["commit"] for m in made}),
            dirty=any(m["dirty"] for m in made),
            devices=sorted({m["device"] for m in made}),
            threads=sorted({m["threads"] for m in made}),
            versions=made[-1]["versions"],
            timed_on=sorted({f"{s['device']}, {s['threads']} threads, batch {s['batch']}" for s in speeds.values()}),
        )
    return table


def write(table: pd.DataFrame, splits: Sequence[Manifest], out: Path) -> None:
    """The table, with the labels of its videos, and its card."""
    for name, manifest in zip(("labels", "test_labels"), splits, strict=True):
        table.attrs["videonas"][name] = labels_of(manifest).tolist()
    path = out / "videonas.parquet"
    write_atomic(path, lambda part: table.to_parquet(part, index=False, compression="zstd", compression_level=19))
    write_atomic(out / "README.md", lambda part: part.write_text(card(table)))


def said(plan: dict, of: Suite, options: argparse.Namespace) -> str:
    """What is to be done."""
    parts = {part: [n["code"] for n in plan["networks"] if n["part"] == part] for part in ("factorial", "random")}
    residuals = [abs(n["residual"]) for n in plan["networks"]]
    rows = len(list((options.runs / of.name / "rows").glob("*-s*.json")))
    lines = [
        f"{of.name}, {of.gmacs:g} GMACs per view, space {plan['space']}: {len(parts['factorial'])} networks of the "
        f"subspace and {len(parts['random'])} of the whole space, seed {plan['seeds'][0]}; "
        f"{REPEATED} random and the {plan['repeated_best']} best with seeds {plan['seeds'][1:]}; {rows} rows are there",
        f"within {100 * max(residuals):.2f} % of the budget, {100 * np.mean(residuals):.2f} % in the mean",
    ]
    lines += [f"missed, not trained: {n['code']}, {100 * n['residual']:+.1f} %" for n in missed(plan)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Plan, train what is missing, time, and write the table and its card."""
    environment = os.environ.get
    parser = study_parser(__doc__, "videonas", "runs", "cache")
    parser.add_argument("--data", choices=headroom.LAYOUTS, default=environment("DATA") or "ssv2")
    parser.add_argument("--setting", default=environment("SETTING") or "base", help="of the study of headroom")
    parser.add_argument(
        "--part", default=environment("PART") or ",".join(PARTS), help=f"of {', '.join(PARTS)}; none: only the table"
    )
    parser.add_argument("--limit", type=int, help="networks of each part, the first ones of the plan")
    parser.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), help="the first of all networks, the others of those repeated"
    )
    parser.add_argument("--plan", action="store_true", help="only write the list of networks")
    parser.add_argument("--jobs", type=int, default=int(environment("JOBS") or 0), help="runs at a time; 0: as fit")
    options = parser.parse_args(argv)
    parts = set() if options.part == "none" else set(options.part.split(","))
    try:
        headroom.changes(options.setting)
        seeds = [int(seed) for seed in options.seeds.split(",")]
        if len(set(seeds)) < len(seeds) or parts - set(PARTS):
            raise ValueError(f"--part {options.part} or --seeds {options.seeds}: unknown, or twice there")
    except ValueError as error:
        parser.error(str(error))

    for folder, way_out in ((options.runs, "--runs"), (options.out, "--out")):
        check_writable(folder, way_out)
    options.jobs = options.jobs or parallel.fitting()
    of = suite_of(options.data, options.setting, options.runs)
    plan = planned(options.out / "plan.json", options.data, options.setting, of, options.limit, seeds)
    print(said(plan, of, options), file=sys.stderr)
    if options.plan:
        return
    mine = {part: [n["code"] for n in plan["networks"] if n["part"] == part][: options.limit] for part in PARTS}
    parallel.keep_memory()
    for part in ("factorial", "random"):
        if part in parts:
            work(jobs(plan, of, mine[part], seeds[:1]), options)
    if "repeats" in parts:
        again = best(plan, of, options.runs)
        if not again:
            print("the best are not known before all of the subspace are trained", file=sys.stderr)
        work(jobs(plan, of, [*plan["repeated_at_random"], *again], seeds[1:]), options)
    if "speed" in parts:
        time_networks(plan, of, options.runs)
    table = table_of(plan, of, options.runs)
    if table.empty:
        print("no run is finished yet, there is no table", file=sys.stderr)
        return
    _, splits = data_of(options.data, options.setting, options.cache, options.runs)
    write(table, splits[1:], options.out)
    print(f"{options.out}: videonas.parquet of {len(table)} rows, README.md")


if __name__ == "__main__":
    main()
