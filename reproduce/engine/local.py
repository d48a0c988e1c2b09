"""One run on this machine: train, test, measure, record. Each stage is skipped when its artefact is whole.

spec.json → train/last.pth → model.safetensors + training.json → predictions.parquet → throughput.json → record.json

``sessions.json`` says by which code, where and when each stage was done.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR
from mmengine.runner import TestLoop
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from autotsnet.inputs import channels, example
from autotsnet.registry import family
from reproduce.data.datasets import StreamSampler, TestVideos, TrainClips, skipped_videos
from reproduce.data.decode import DEFAULT
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VIEWS, VideoClassifier
from reproduce.engine.distributed import agreed, distribute
from reproduce.engine.inference import accelerate
from reproduce.engine.runner import (
    LAST,
    Bf16OptimWrapper,
    CheckpointError,
    PreciseBNHook,
    RunHook,
    StreamLoop,
    build_runner,
    check_shared_memory,
    ignore_sigterm,
    preemptible,
    resume_from,
    threads_of,
)
from reproduce.engine.searching import check_searchable, resolved, search_config
from reproduce.files import save_weights, write_atomic, write_json
from reproduce.lease import held
from reproduce.measure.throughput import forward_throughput
from reproduce.own import define
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import (
    Data,
    Model,
    Provenance,
    Result,
    RunRecord,
    Search,
    Throughput,
    Training,
    score,
    session,
    sha256,
)
from reproduce.suites import Entry, RunSpec, Suite
from reproduce.suites import suite as suite_named

SKIPPED = "skipped.txt"  # training videos that could not be decoded


class Predictions(BaseMetric):
    """One row per video, part by part; the accuracy is computed from the rows, later, by whoever asks.

    The videos are cut into parts of ``PART``, whatever the number of ranks. A part is tested by one rank and leaves a
    file; an interrupted test goes on with the parts that have none. So every video is scored once, and its scores do
    not depend on how many ranks there are or were.

    Args:
        path: of the table of all videos.
        ids: of the videos, in the data set's order.
        label: for the progress line.
        weights: hash of the tested weights; parts of others are deleted, with a line.
    """

    PART = 16

    def __init__(self, path: Path, ids: list[str], label: str, weights: str) -> None:
        super().__init__(collect_device="gpu")  # exchanges objects through the process group, of CPUs too
        self.path, self._ids, self._weights = path, ids, weights
        self._parts = [range(i, min(i + self.PART, len(ids))) for i in range(0, len(ids), self.PART)]
        if get_rank() == 0:
            self._delete_strangers()
        missing = agreed([part for part in self._parts if not self._file(part).exists()])
        self._mine = missing[get_rank() :: get_world_size()]
        self._rows: list[dict] = []
        if get_rank() == 0:
            done = len(ids) - sum(map(len, missing))
            self._progress = Progress(label, sum(map(len, self._mine)) + done, done)

    def batches(self, size: int) -> list[list[int]]:
        """Indices of this rank's videos, by no more than ``size``; none reaches across parts."""
        return [list(part[i : i + size]) for part in self._mine for i in range(0, len(part), size)]

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep id, label, frames, error and scores of each video; write a part when it is whole."""
        for sample in data_samples:
            row = {k: sample[k].item() if torch.is_tensor(sample[k]) else sample[k] for k in ("id", "label", "frames")}
            self._rows.append({**row, "error": sample["error"], "scores": sample["scores"].numpy()})
        part = self._mine[len(self.results)]
        if len(self._rows) == len(part):
            self._write(self._file(part), pd.DataFrame(self._rows).assign(weights=self._weights))
            self.results.append(part.start)
            self._rows = []
        if get_rank() == 0:
            self._progress.step(len(data_samples))

    def compute_metrics(self, results: list) -> dict:
        """Put the parts together: called on rank 0 when all ranks are done."""
        self._progress.__exit__()
        table = pd.concat([pd.read_parquet(self._file(part)) for part in self._parts])
        table = table.drop(columns="weights").sort_values("id", ignore_index=True)
        self._write(self.path, table)
        for part in self._parts:
            self._file(part).unlink()
        return dict(top1=score(table)[0] / len(table))

    def _delete_strangers(self) -> None:
        """Parts that are of other weights or videos, or damaged, say nothing of this test."""
        strangers = []
        for part in self._parts:
            path = self._file(part)
            if path.exists() and not self._is_mine(path, self._ids[part.start : part.stop]):
                path.unlink()
                strangers.append(path.name)
        if strangers:
            print(
                f"  {self._file(self._parts[0]).parent}: {len(strangers)} parts, the first is {strangers[0]}, are of "
                "other weights or videos, or damaged; these videos are tested anew",
                file=sys.stderr,
            )

    def _is_mine(self, path: Path, ids: list[str]) -> bool:
        try:
            table = pd.read_parquet(path, columns=["id", "weights"])
        except (OSError, ValueError, KeyError):
            return False
        return list(table.id) == ids and set(table.weights) == {self._weights}

    def _file(self, part: range) -> Path:
        return self.path.parent / "test" / f"part-{part.start:06d}.parquet"

    @staticmethod
    def _write(path: Path, table: pd.DataFrame) -> None:
        write_atomic(path, lambda p: table.to_parquet(p, index=False))


def execute(
    suite: Suite,
    entry: Entry,
    spec: RunSpec,
    train: Manifest,
    test: Manifest,
    runs: Path,
    results: Path,
    search: Search | None = None,
    timed: bool = True,
) -> RunRecord | None:
    """Do what is missing of a run and return its record, also copied to ``results/records/<suite>/``.

    Of several ranks, all call it: they train and test together; rank 0 does the rest while the others wait.

    Args:
        suite: the suite.
        entry: the entry, its architecture known.
        spec: the run.
        train: training videos.
        test: test videos.
        runs: folder of run folders.
        results: folder of records and tables.
        search: what finding the architecture took.
        timed: False: leave throughput and record for later, and return None.

    Raises:
        OutputError: a folder cannot be written.
        DataError: the data cannot be trained on.
        CheckpointError: a checkpoint is damaged or unsafe.
        DivergedError: the loss is not finite.
    """
    folder = spec.folder(runs)
    done = agreed((folder / "record.json").exists())  # then it is only read
    with held(folder) if get_rank() == 0 and not done else nullcontext():
        return _execute(suite, entry, spec, train, test, folder, results, search, timed)


def _execute(
    suite, entry, spec, train, test, folder: Path, results: Path, search: Search | None, timed: bool
) -> RunRecord | None:
    alone = get_rank() == 0
    if alone and not (folder / "spec.json").exists():
        write_json(folder / "spec.json", spec.model_dump())
    if alone and (folder / "predictions.parquet").exists() and _tested_weights(folder) != _weights(folder):
        print(f"  {folder}: predictions.parquet is of other weights; tested anew", file=sys.stderr)
        for name in ("predictions.parquet", "throughput.json", "record.json"):
            (folder / name).unlink(missing_ok=True)
    stages = (
        ("model.safetensors", lambda: _train(suite, spec, train, folder)),
        ("predictions.parquet", lambda: _test(suite, spec, test, folder)),
        ("throughput.json", lambda: alone and _measure(suite, spec, folder)),
        ("record.json", lambda: alone and _record(suite, entry, spec, train, test, folder, search)),
    )
    for artefact, stage in stages if timed else stages[:2]:
        if not agreed((folder / artefact).exists()):
            # What is timed has the whole machine; answers must not depend on how large it is.
            with nullcontext() if artefact == "throughput.json" else threads_of(spec.recipe):
                stage()
    if not timed:
        return None
    record = agreed(RunRecord.load(folder / "record.json") if alone else None)
    target = results / "records" / suite.name
    for name, source in ((f"{spec.id}.parquet", "predictions.parquet"), (f"{spec.id}.json", "record.json")):
        if alone and (not (target / name).exists() or sha256(target / name) != sha256(folder / source)):
            write_atomic(target / name, lambda path, source=source: shutil.copyfile(folder / source, path))
    return record


def _weights(folder: Path) -> str:
    """Hash of a run's weights; empty without any."""
    path = folder / "model.safetensors"
    return sha256(path)[:12] if path.exists() else ""


def _tested_weights(folder: Path) -> str | None:
    path = folder / "test.json"
    return json.loads(path.read_text())["weights"] if path.exists() else None


def _begin(folder: Path, stage: str) -> None:
    """Note a session of a stage."""
    path = folder / "sessions.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(stage, []).append(session(DEFAULT).model_dump())
    write_json(path, known)


@dataclass(frozen=True)
class Job:
    """One run of a suite before its architecture is known: what a process, or a machine of a cluster, is given."""

    suite: str
    entry: str
    seed: int
    variant: int

    def __str__(self) -> str:
        """``kinetics: auto_tsnet_random architecture 1, seed 0``."""
        kind = f" architecture {self.variant}" if suite_named(self.suite).entry(self.entry).variants > 1 else ""
        return f"{self.suite}: {self.entry}{kind}, seed {self.seed}"

    def arguments(self, cache: Path, runs: Path, results: Path) -> list[str]:
        """Of the command line that does this run only."""
        what = ["--entries", self.entry, "--seeds", str(self.seed), "--variant", str(self.variant)]
        what += ["--engine", "local"]
        return ["run", self.suite, *what, "--cache", str(cache), "--runs", str(runs), "--results", str(results)]

    def run(self, cache: Path, runs: Path, results: Path, number: str = "", timed: bool = True) -> RunRecord | None:
        """Search where an architecture is to be found, then train, test and measure; or find it done.

        The run is announced under ``number`` once its data is found to be in order. Not ``timed``, it is left without
        its throughput, hence without a record, until it is run again.
        """
        suite = suite_named(self.suite)
        root = suite.data_root(cache)
        train, test = suite.manifest("train", root), suite.manifest("val", root)
        if number and get_rank() == 0:
            print(f"[{number}] {self}", file=sys.stderr)
        return run(suite, suite.entry(self.entry), self.seed, self.variant, train, test, runs, results, timed)


def run(
    suite: Suite,
    entry: Entry,
    seed: int,
    variant: int,
    train: Manifest,
    test: Manifest,
    runs: Path,
    results: Path,
    timed: bool = True,
) -> RunRecord | None:
    """Search where an architecture is to be found, then as ``execute``."""
    entry, search = resolved(suite, entry, seed, variant, train, runs)
    suite = suite.of(entry)
    spec = RunSpec.of(suite, entry, seed, train, test, variant)
    return execute(suite, entry, spec, train, test, runs, results, search, timed)


def jobs(suite: Suite, entries: list[str], seeds: list[int], variant: int | None = None) -> list[Job]:
    """Every run of a suite, or those of one variant; seeds outermost, so that a stopped job has whole tables first."""
    return [
        Job(suite.name, name, seed, v)
        for seed in seeds
        for name in entries
        for v in range(suite.entry(name).variants)
        if variant in (None, v)
    ]


def check_searches(todo: list[Job], cache: Path, runs: Path, ranks: int) -> None:
    """Before hours of work: raise a ValueError where a search cannot be done on so many ranks."""
    suite = suite_named(todo[0].suite)
    searched = [(e, job.seed) for job in todo if (e := suite.entry(job.entry)).search and e.variants == 1]
    if ranks > 1 and searched:
        train = suite.manifest("train", suite.data_root(cache))
        for entry, seed in searched:
            check_searchable(suite, search_config(entry), seed, train, runs, ranks)


def run_jobs(todo: list[Job], cache: Path, runs: Path, results: Path) -> None:
    """One run after the other.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
    """
    with preemptible():
        check_searches(todo, cache, runs, get_world_size())
        for i, job in enumerate(todo, 1):
            job.run(cache, runs, results, f"{i}/{len(todo)}")


def schedule(config: Config, videos: int) -> tuple[int, list[dict]]:
    """Steps of the training, and its learning rate, per step: a linear rise, then half a cosine to zero.

    With ``cosine_from_start``, as in PySlowFast by default, the cosine runs over the whole training, times the rise.
    With ``milestones``, shares of the training like ``warmup``, the rate falls to a tenth at each of them instead.
    """
    steps = math.ceil(config.epochs * videos / config.batch)
    warmup = max(1, round(config.warmup * steps))
    begin = 0 if config.get("cosine_from_start") else warmup
    fall = dict(type=CosineAnnealingLR, eta_min=0.0, begin=begin, end=steps, T_max=steps - begin, by_epoch=False)
    if config.get("milestones"):
        fall = dict(type=MultiStepLR, milestones=[round(m * steps) for m in config.milestones], by_epoch=False)
    return steps, [dict(type=LinearLR, start_factor=0.01, begin=0, end=warmup, by_epoch=False), fall]


def passes(config: Config, world: int) -> tuple[int, int]:
    """How a step's batch is dealt out: passes of each rank, and clips per pass.

    ``sub_batch`` in a recipe is the number of clips per pass: batch norm's statistics are over them and gradients are
    accumulated over the passes, so neither depends on the number of ranks. Without it, a rank takes its part at once.

    Raises:
        ValueError: the batch cannot be dealt out evenly.
    """
    clips = config.get("sub_batch") or max(1, config.batch // world)
    if config.batch % (world * clips):
        raise ValueError(
            f"batch {config.batch} is no multiple of {world} ranks × {clips} clips; choose another number of GPUs "
            "(GPUS=), or edit `batch` or `sub_batch` in the recipe"
        )
    return config.batch // (world * clips), clips


def optimiser(config: Config, accumulate: int) -> dict:
    """The optimiser's wrapper: its rate scaled from the batch that the recipe states it for, its precision.

    Raises:
        ValueError: an unknown precision.
    """
    wrapper = config.optim_wrapper.to_dict()
    wrapper["accumulative_counts"] = accumulate
    if wrapper.get("paramwise_cfg"):
        wrapper["paramwise_cfg"]["bypass_duplicate"] = True  # a parameter of two names is one
    wrapper["optimizer"]["lr"] *= config.batch / config.get("reference_batch", config.batch)
    if config.get("amp") not in (None, "bf16"):
        raise ValueError(f"amp={config.amp!r} is unknown; known: 'bf16', or leave it out for fp32")
    if config.get("amp"):
        wrapper["type"] = Bf16OptimWrapper
    return wrapper


def _config(spec: RunSpec) -> Config:
    if spec.source:
        define(spec.source, spec.entry)
    _ = spec.family  # what a file says is built is a family
    return spec.config


def _model(config: Config) -> VideoClassifier:
    return VideoClassifier(config.net, label_smoothing=config.get("label_smoothing", 0.0))


def _train(suite: Suite, spec: RunSpec, manifest: Manifest, folder: Path) -> None:
    config, world, alone = _config(spec), get_world_size(), get_rank() == 0
    accumulate, clips = agreed(passes(config, world) if alone else None)  # one rank complains, not all
    wrapper = optimiser(config, accumulate)
    if alone:
        _begin(folder, "train")
        rate = f"lr {wrapper['optimizer']['lr']:g}"
        if "reference_batch" in config:
            rate += f" ({config.optim_wrapper.optimizer.lr:g} per {config.reference_batch} clips)"
        dealt = f"batch {config.batch} = ranks {world} × passes {accumulate} × clips {clips}"
        print(f"  {spec.id} train: {dealt}, {rate}, {config.get('amp') or 'fp32'}", file=sys.stderr)
    p, workers = suite.protocol, config.workers
    inputs = family(spec.family).inputs
    views, clip = videos_at_once(config, p) * p.views, p.sampling.frames * sum(channels(inputs))  # a pixel, T × C bytes
    check_shared_memory(workers, 2, clips * clip * p.crops.size**2, "train")
    check_shared_memory(workers, 1, views * clip * p.crops.test_size**2, "test")
    torch.manual_seed(spec.seed)
    steps, schedulers = schedule(config, len(manifest.videos))
    dataset = TrainClips(manifest, suite.protocol, spec.seed, skipped=folder / "train" / SKIPPED, inputs=inputs)
    sampler = StreamSampler(dataset, accumulate * clips, steps, get_rank(), world)
    hook = RunHook(spec.seed, f"{spec.id} train", interval=config.checkpoint)
    ema = EMAHook(momentum=config.ema) if config.ema else None
    precise = PreciseBNHook(config.precise_bn, ema) if config.precise_bn else None
    work = folder / "train"
    runner = build_runner(
        config,
        work,
        spec.id,
        model=distribute(_model(config), config.get("sync_bn")),
        train_dataloader=DataLoader(
            dataset,
            batch_size=clips,
            sampler=sampler,
            num_workers=config.workers,
            worker_init_fn=ignore_sigterm,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        ),
        train_cfg=dict(type=StreamLoop, max_iters=steps, passes=accumulate),
        optim_wrapper=wrapper,
        param_scheduler=schedulers,
        custom_hooks=[h for h in (hook, ema, precise) if h],
        randomness=dict(seed=spec.seed),
        **resume_from(work),
    )
    runner.train()
    if not alone:
        return
    training = Training(
        steps=steps,
        epochs=config.epochs,
        batch=config.batch,
        wall_s=hook.seconds_total,
        devices=world,
        final_loss=hook.loss,
    )
    write_json(folder / "training.json", training.model_dump())
    model = ema.ema_model.module if ema else getattr(runner.model, "module", runner.model)
    save_weights(folder / "model.safetensors", model.net.state_dict())
    (work / LAST).unlink()


def trained(spec: RunSpec, folder: Path) -> VideoClassifier:
    """The model of a finished training."""
    model, path = _model(_config(spec)), folder / "model.safetensors"
    path.open("rb").close()  # of a file that may not be read safetensors says that it is not there
    try:
        model.net.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete {folder} to run it anew") from error
    return model.eval()


def for_test(spec: RunSpec, folder: Path, protocol: Protocol) -> VideoClassifier:
    """The model of a finished training as it is tested."""
    model, side = trained(spec, folder), protocol.crops.test_size
    accelerate(model.net, *example(model.inputs, protocol.sampling.frames, side, device="cpu"))
    return model


def videos_at_once(config: Config, protocol: Protocol) -> int:
    """In a test: as many views as clips in a training step, no more than ``VIEWS``, one video at least."""
    return max(1, min(config.batch, VIEWS) // protocol.views)


def _test(suite: Suite, spec: RunSpec, manifest: Manifest, folder: Path) -> None:
    config = _config(spec)
    dataset = TestVideos(manifest, suite.protocol, inputs=family(spec.family).inputs)
    weights = agreed(_weights(folder) if get_rank() == 0 else None)
    metric = Predictions(folder / "predictions.parquet", [v.id for v in manifest.videos], f"{spec.id} test", weights)
    if get_rank() == 0:
        _begin(folder, "test")
        write_json(folder / "test.json", dict(weights=weights))
    loader = DataLoader(
        dataset,
        batch_sampler=metric.batches(videos_at_once(config, suite.protocol)),
        num_workers=config.workers,
        prefetch_factor=1 if config.workers else None,  # 30 views of 16 × 224² are 72 MB of shared memory a video
        worker_init_fn=ignore_sigterm,
    )
    runner = build_runner(
        config,
        folder / "test",
        f"{spec.id}-test",
        model=for_test(spec, folder, suite.protocol),
        test_dataloader=loader,
        test_cfg=dict(type=TestLoop),
        test_evaluator=Evaluator([metric]),
    )
    runner.test()


def _measure(suite: Suite, spec: RunSpec, folder: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = trained(spec, folder).net.to(device)
    _begin(folder, "measure")
    protocol = suite.protocol
    speed = forward_throughput(net, protocol.sampling.frames, protocol.crops.test_size)
    write_json(folder / "throughput.json", speed.model_dump())


def _record(
    suite: Suite,
    entry: Entry,
    spec: RunSpec,
    train: Manifest,
    test: Manifest,
    folder: Path,
    search: Search | None,
) -> None:
    solution, protocol = suite.solution(entry), suite.protocol
    predictions = pd.read_parquet(folder / "predictions.parquet")
    top1, top5, failed = score(predictions)
    sessions = json.loads((folder / "sessions.json").read_text())
    RunRecord(
        suite=spec.suite,
        entry=spec.entry,
        variant=spec.variant,
        seed=spec.seed,
        run=spec.hash,
        spec=spec,
        note=entry.note,
        model=Model(
            family=spec.family,
            net=json.loads(json.dumps(solution.kwargs)),
            gmacs=solution.gmacs,
            params=solution.params,
            budget=suite.gmacs or solution.gmacs,
            residual=solution.residual,
            matched=solution.matched,
        ),
        data=Data(
            dataset=suite.dataset,
            train_manifest=spec.train_manifest,
            test_manifest=spec.test_manifest,
            train_videos=len(train.videos),
            train_absent=train.absent,
            train_skipped=skipped_videos(folder / "train" / SKIPPED),
            partial=train.partial or test.partial,
            frames=protocol.sampling.frames,
            crop=protocol.crops.test_size,
            clips=protocol.sampling.clips,
            crops=protocol.crops.crops,
            protocol=spec.protocol,
        ),
        result=Result(
            n=len(predictions),
            top1=top1,
            top5=top5,
            failed=failed,
            predictions=f"{spec.id}.parquet",
            predictions_sha256=sha256(folder / "predictions.parquet"),
        ),
        training=Training(**json.loads((folder / "training.json").read_text())),
        search=search,
        throughput=Throughput(**json.loads((folder / "throughput.json").read_text())),
        provenance=Provenance(**sessions | dict(measure=sessions["measure"][-1])),
    ).save(folder / "record.json")
