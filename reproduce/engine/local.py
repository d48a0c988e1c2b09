"""One run on this machine: train, test, measure, record. Each stage is skipped when its artefact is whole.

spec.json → train/last.pth → model.safetensors + training.json → predictions.parquet → throughput.json → record.json
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import TestLoop
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from reproduce.data.datasets import StreamSampler, TestVideos, TrainClips, skipped_videos
from reproduce.data.decode import DEFAULT
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import LAST, CheckpointError, PreciseBNHook, RunHook, StreamLoop, build_runner, resume_from
from reproduce.engine.searching import resolved
from reproduce.files import held, write_atomic, write_json
from reproduce.measure.throughput import forward_throughput
from reproduce.progress import Progress
from reproduce.records import (
    Data,
    Model,
    Provenance,
    Result,
    RunRecord,
    Search,
    Throughput,
    Training,
    provenance,
    score,
    sha256,
)
from reproduce.suites import Entry, RunSpec, Suite

SKIPPED = "skipped.txt"  # training videos that could not be decoded


class Predictions(BaseMetric):
    """Collects one row per video; the accuracy is computed from the rows, later, by whoever asks."""

    def __init__(self, path: Path, label: str, total: int) -> None:
        super().__init__(collect_device="cpu")
        self.path, self._progress = path, Progress(label, total)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep id, label, frames, error and scores of each video."""
        for sample in data_samples:
            row = {k: sample[k].item() if torch.is_tensor(sample[k]) else sample[k] for k in ("id", "label", "frames")}
            self.results.append({**row, "error": sample["error"], "scores": sample["scores"].numpy()})
        self._progress.step(len(data_samples))

    def compute_metrics(self, results: list) -> dict:
        """Write the parquet file."""
        self._progress.__exit__()
        table = pd.DataFrame(results).sort_values("id", ignore_index=True)
        write_atomic(self.path, lambda path: table.to_parquet(path, index=False))
        return dict(top1=score(table)[0] / len(table))


def execute(
    suite: Suite,
    entry: Entry,
    spec: RunSpec,
    train: Manifest,
    test: Manifest,
    runs: Path,
    results: Path,
    search: Search | None = None,
) -> RunRecord:
    """Do what is missing of a run and return its record, also copied to ``results/records/<suite>/``.

    Args:
        suite: the suite.
        entry: the entry, its architecture known.
        spec: the run.
        train: training videos.
        test: test videos.
        runs: folder of run folders.
        results: folder of records and tables.
        search: what finding the architecture took.

    Raises:
        OutputError: a folder cannot be written.
        DataError: the data cannot be trained on.
        CheckpointError: a checkpoint is damaged or unsafe.
        DivergedError: the loss is not finite.
    """
    folder = spec.folder(runs)
    with held(folder):
        return _execute(suite, entry, spec, train, test, folder, results, search)


def _execute(suite, entry, spec, train, test, folder: Path, results: Path, search: Search | None) -> RunRecord:
    if not (folder / "spec.json").exists():
        write_json(folder / "spec.json", asdict(spec))
    stages = (
        ("model.safetensors", lambda: _train(suite, spec, train, folder)),
        ("predictions.parquet", lambda: _test(suite, spec, test, folder)),
        ("throughput.json", lambda: _measure(suite, spec, folder)),
        ("record.json", lambda: _record(suite, entry, spec, train, test, folder, search)),
    )
    for artefact, stage in stages:
        if not (folder / artefact).exists():
            stage()
    record = RunRecord.load(folder / "record.json")
    target = results / "records" / suite.name
    for name, source in ((f"{spec.id}.parquet", "predictions.parquet"), (f"{spec.id}.json", "record.json")):
        if not (target / name).exists() or sha256(target / name) != sha256(folder / source):
            write_atomic(target / name, lambda path, source=source: shutil.copyfile(folder / source, path))
    return record


def run_suite(suite: Suite, entries: list[str], seeds: list[int], cache: Path, runs: Path, results: Path) -> None:
    """Every run of a suite, seeds outermost, so that a stopped job has whole tables first."""
    root = suite.data_root(cache)
    train, test = suite.manifest("train", root), suite.manifest("val", root)
    jobs = [(seed, suite.entry(n), v) for seed in seeds for n in entries for v in range(suite.entry(n).variants)]
    for i, (seed, entry, variant) in enumerate(jobs, 1):
        label = entry.name + (f" architecture {variant}" if entry.variants > 1 else "")
        print(f"[{i}/{len(jobs)}] {suite.name}: {label}, seed {seed}", file=sys.stderr)
        known, search = resolved(suite, entry, seed, variant, train, runs)
        spec = RunSpec.of(suite, known, seed, train, test, variant)
        execute(suite, known, spec, train, test, runs, results, search)


def schedule(config: Config, videos: int) -> tuple[int, list[dict]]:
    """Steps of the training, and its learning rate: a linear rise, then half a cosine to zero, per step."""
    steps = math.ceil(config.epochs * videos / config.batch)
    warmup = max(1, round(config.warmup * steps))
    return steps, [
        dict(type=LinearLR, start_factor=0.01, begin=0, end=warmup, by_epoch=False),
        dict(type=CosineAnnealingLR, eta_min=0.0, begin=warmup, end=steps, T_max=steps - warmup, by_epoch=False),
    ]


def _config(spec: RunSpec) -> Config:
    return Config.fromstring(spec.recipe + "\n" + spec.net, file_format=".py")


def _model(config: Config) -> VideoClassifier:
    return VideoClassifier(config.net, label_smoothing=config.get("label_smoothing", 0.0))


def _train(suite: Suite, spec: RunSpec, manifest: Manifest, folder: Path) -> None:
    config = _config(spec)
    write_json(folder / "provenance.json", provenance(spec.recipe + "\n" + spec.net, DEFAULT).model_dump())
    torch.manual_seed(spec.seed)
    steps, schedulers = schedule(config, len(manifest.videos))
    dataset = TrainClips(manifest, suite.protocol, spec.seed, skipped=folder / "train" / SKIPPED)
    sampler = StreamSampler(dataset, config.batch, steps)
    hook = RunHook(spec.seed, f"{spec.id} train", interval=config.checkpoint)
    ema = EMAHook(momentum=config.ema) if config.ema else None
    precise = PreciseBNHook(config.precise_bn, ema) if config.precise_bn else None
    work = folder / "train"
    runner = build_runner(
        config,
        work,
        spec.id,
        model=_model(config),
        train_dataloader=DataLoader(
            dataset,
            batch_size=config.batch,
            sampler=sampler,
            num_workers=config.workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        ),
        train_cfg=dict(type=StreamLoop, max_iters=steps),
        optim_wrapper=config.optim_wrapper,
        param_scheduler=schedulers,
        custom_hooks=[h for h in (hook, ema, precise) if h],
        randomness=dict(seed=spec.seed),
        **resume_from(work),
    )
    runner.train()
    training = Training(
        steps=steps,
        epochs=config.epochs,
        batch=config.batch,
        wall_s=hook.seconds_total,
        devices=runner.world_size,
        final_loss=hook.loss,
    )
    write_json(folder / "training.json", training.model_dump())
    model = ema.ema_model.module if ema else runner.model
    state = {k: v.contiguous() for k, v in model.net.state_dict().items()}
    write_atomic(folder / "model.safetensors", lambda path: save_file(state, path))
    (work / LAST).unlink()


def trained(spec: RunSpec, folder: Path) -> VideoClassifier:
    """The model of a finished training."""
    model, path = _model(_config(spec)), folder / "model.safetensors"
    try:
        model.net.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete {folder} to run it anew") from error
    return model.eval()


def _test(suite: Suite, spec: RunSpec, manifest: Manifest, folder: Path) -> None:
    config = _config(spec)
    dataset = TestVideos(manifest, suite.protocol)
    loader = DataLoader(
        dataset, batch_size=max(1, config.batch // suite.protocol.views), num_workers=config.workers, shuffle=False
    )
    metric = Predictions(folder / "predictions.parquet", f"{spec.id} test", len(dataset))
    runner = build_runner(
        config,
        folder / "test",
        f"{spec.id}-test",
        model=trained(spec, folder),
        test_dataloader=loader,
        test_cfg=dict(type=TestLoop),
        test_evaluator=Evaluator([metric]),
    )
    runner.test()


def _measure(suite: Suite, spec: RunSpec, folder: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = trained(spec, folder).net.to(device)
    protocol = suite.protocol
    speed = forward_throughput(net, protocol.sampling.frames, protocol.crops.size)
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
    kind = _config(spec).net.type
    RunRecord(
        suite=spec.suite,
        entry=spec.entry,
        variant=spec.variant,
        seed=spec.seed,
        run=spec.hash,
        note=entry.note,
        model=Model(
            family=(kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1],
            net=json.loads(json.dumps(solution.kwargs)),
            gmacs=solution.gmacs,
            params=solution.params,
            budget=suite.gmacs,
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
            crop=protocol.crops.size,
            clips=protocol.sampling.clips,
            crops=protocol.crops.crops,
            protocol=json.loads(json.dumps(spec.protocol)),
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
        provenance=Provenance(**json.loads((folder / "provenance.json").read_text())),
    ).save(folder / "record.json")
