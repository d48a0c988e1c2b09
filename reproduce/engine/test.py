"""Testing: scores of every test video, and nothing else; whoever asks counts them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import TestLoop
from torch.utils.data import DataLoader

from autotsnet.registry import family
from reproduce.data.datasets import TestVideos
from reproduce.data.manifest import Manifest
from reproduce.engine.distributed import agreed
from reproduce.engine.engines import ENGINES, available
from reproduce.engine.rebuild import config_of, engine_for, for_test
from reproduce.engine.recipe import precision_of, videos_at_once
from reproduce.engine.runner import build_runner, ignore_sigterm
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import score, sha256
from reproduce.spec import RunSpec
from reproduce.whole_files import write_atomic, write_json


class Predictions(BaseMetric):
    """One row per video, part by part; the accuracy is computed from the rows, later, by whoever asks.

    The videos are cut into parts of ``PART``, whatever the number of ranks. A part is tested by one rank and leaves a
    file; an interrupted test goes on with the parts that have none. So every video is scored once, and its scores do
    not depend on how many ranks there are or were.

    Args:
        path: of the table of all videos.
        ids: of the videos, in the data set's order.
        label: for the progress line.
        weights: hash of the tested weights, and what runs them; parts of others are deleted, with a line.
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


def weights_of(folder: Path) -> str:
    """Hash of a run's weights; empty without any."""
    path = folder / "model.safetensors"
    return sha256(path)[:12] if path.exists() else ""


def _engine(spec: RunSpec, folder: Path, protocol: Protocol, videos: int, weights: str) -> list[str]:
    """Engine and precision of a test: those that it began with, where they can be had, or the best now."""
    path, config = folder / "test.json", config_of(spec)
    begun, precision = json.loads(path.read_text()) if path.exists() else {}, available(precision_of(config))
    name, before = begun.get("engine", ("", ""))
    if begun.get("weights") != weights or before != precision or not name or ENGINES[name].missing():
        name = engine_for(spec, folder, protocol, videos, videos_at_once(config, protocol), precision)
        write_json(path, dict(weights=weights, engine=[name, precision]))
    return [name, precision]


def test(spec: RunSpec, protocol: Protocol, manifest: Manifest, folder: Path) -> None:
    """Test a trained run, or go on; leave ``predictions.parquet``; ``test.json`` has the weights' hash and the engine.

    All ranks call it; arguments as of ``train``, but for the videos.
    """
    config = config_of(spec)
    dataset = TestVideos(manifest, protocol, inputs=family(spec.family).inputs)
    weights = agreed(weights_of(folder) if get_rank() == 0 else None)
    at_once, videos = videos_at_once(config, protocol), len(manifest.videos) // get_world_size()
    how = agreed(_engine(spec, folder, protocol, videos, weights) if get_rank() == 0 else None)
    made_by = " ".join(part for part in (weights, *how) if part not in ("torch", "fp32"))
    metric = Predictions(folder / "predictions.parquet", [v.id for v in manifest.videos], f"{spec.id} test", made_by)
    loader = DataLoader(
        dataset,
        batch_sampler=metric.batches(at_once),
        num_workers=config.workers,
        prefetch_factor=1 if config.workers else None,  # 30 views of 16 × 224² are 72 MB of shared memory a video
        worker_init_fn=ignore_sigterm,
    )
    runner = build_runner(
        config,
        folder / "test",
        f"{spec.id}-test",
        model=for_test(spec, folder, protocol, *how),
        test_dataloader=loader,
        test_cfg=dict(type=TestLoop),
        test_evaluator=Evaluator([metric]),
    )
    runner.test()
