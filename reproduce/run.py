"""A run is a list of stages: train, test, measure, record. Each is skipped when its artefact is whole.

spec.json → train/last.pth → model.safetensors + training.json → predictions.parquet → throughput.json → record.json

A recipe may list others between them in ``stages``, names in ``STAGES``. ``sessions.json`` says by which code, where
and when each stage was done.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmengine.dist import get_rank

from reproduce.data.datasets import skipped_videos
from reproduce.data.decode import DEFAULT
from reproduce.data.longtail import of_classifiers
from reproduce.data.manifest import Manifest
from reproduce.engine.distributed import agreed
from reproduce.engine.rebuild import trained
from reproduce.engine.retune import Retuning, retune
from reproduce.engine.runner import threads_of
from reproduce.engine.test import test, weights_of
from reproduce.engine.train import SKIPPED, train
from reproduce.lease import held
from reproduce.measure.throughput import forward_throughput
from reproduce.records import (
    Data,
    Model,
    Provenance,
    Result,
    Retuned,
    RunRecord,
    Search,
    Throughput,
    Training,
    score,
    session,
    sha256,
    with_joint,
)
from reproduce.search.stage import resolved
from reproduce.spec import RunSpec
from reproduce.suites import Entry, Suite
from reproduce.whole_files import write_atomic, write_json


@dataclass(frozen=True)
class Run:
    """What the stages of a run are given.

    Attributes:
        suite: with the entry's protocol.
        entry: its architecture known.
        spec: the run.
        train: training videos.
        test: test videos.
        folder: of the run's artefacts.
        search: what finding the architecture took.
    """

    suite: Suite
    entry: Entry
    spec: RunSpec
    train: Manifest
    test: Manifest
    folder: Path
    search: Search | None = None


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: in recipes and ``sessions.json``.
        artefact: the file in the run's folder that it leaves last; the stage is done when the file is there.
        do: the work.
        ranks: all ranks do it together; else the first alone, while the others wait.
        alone: with the machine to itself, after all runs beside it.
        noted: its sessions are in ``sessions.json``.
        check: raises a ValueError for a recipe that it cannot follow, before the first run.
    """

    name: str
    artefact: str
    do: Callable[[Run], None]
    ranks: bool = True
    alone: bool = False
    noted: bool = True
    check: Callable[[Mapping[str, Any]], object] = lambda recipe: None

    def __call__(self, run: Run) -> None:
        """Do what is missing."""
        if agreed((run.folder / self.artefact).exists()):
            return
        first = get_rank() == 0
        # What is timed has the whole machine; answers must not depend on how large it is.
        with nullcontext() if self.alone else threads_of(run.spec.recipe):
            if first and self.noted:
                _note(run.folder, self.name)
            if self.ranks or first:
                self.do(run)


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
        timed: False: stop before the first stage that wants the machine to itself, and return None.

    Raises:
        OutputError: a folder cannot be written.
        DataError: the data cannot be trained on.
        CheckpointError: a checkpoint is damaged or unsafe.
        DivergedError: the loss is not finite.
    """
    folder, alone, listed = spec.folder(runs), get_rank() == 0, stages(spec.entry, spec.recipe)
    whole = agreed(_whole(folder, entry) if alone else None)  # then it is only read
    with held(folder) if alone and not whole else nullcontext():
        if alone:
            if not whole:
                (folder / "record.json").unlink(missing_ok=True)
            _begin(spec, folder, listed)
        for stage in listed:
            if stage.alone and not timed:
                return None
            stage(Run(suite, entry, spec, train, test, folder, search))
        record = agreed(RunRecord.load(folder / "record.json") if alone else None)
        target = results / "records" / suite.name
        files = [(f"{spec.id}.parquet", "predictions.parquet"), (f"{spec.id}.json", "record.json")]
        if record.retuned:
            files.insert(0, (record.retuned.predictions, "retuned.parquet"))
        for name, source in files:
            if alone and (not (target / name).exists() or sha256(target / name) != sha256(folder / source)):
                write_atomic(target / name, lambda path, source=source: shutil.copyfile(folder / source, path))
        return record


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


def stages(entry: str, recipe: Mapping[str, Any]) -> list[Stage]:
    """The stages that an entry's recipe lists.

    Raises:
        ValueError: an unknown one, one that is there twice, or one of ours is not there or not in its place.
    """
    names = list(recipe.get("stages", OURS))
    if unknown := [name for name in names if name not in STAGES]:
        raise ValueError(f"{entry}: unknown stage {unknown[0]!r} in `stages`; known: {', '.join(STAGES)}")
    if [name for name in names if name in OURS] != list(OURS) or names[-1] != OURS[-1] or len(set(names)) < len(names):
        raise ValueError(f"{entry}: `stages` are {', '.join(names)}; others may stand between {', '.join(OURS)}")
    for name in names:
        STAGES[name].check(recipe)
    return [STAGES[name] for name in names]


def _whole(folder: Path, entry: Entry) -> bool:
    """Whether a run has its record. One that trials have confirmed since is recorded again, with what they took."""
    path = folder / "record.json"
    return path.exists() and RunRecord.load(path).tuning == entry.tuning


def _begin(spec: RunSpec, folder: Path, listed: list[Stage]) -> None:
    """Write the specification, and delete what was made from other weights."""
    if not (folder / "spec.json").exists():
        write_json(folder / "spec.json", spec.model_dump())
    tested = folder / "test.json"
    weights = json.loads(tested.read_text())["weights"] if tested.exists() else None
    if (folder / "predictions.parquet").exists() and weights != weights_of(folder):
        print(f"  {folder}: predictions.parquet is of other weights; tested anew", file=sys.stderr)
        for stage in listed[1:]:
            (folder / stage.artefact).unlink(missing_ok=True)


def _note(folder: Path, stage: str) -> None:
    """Note a session of a stage."""
    path = folder / "sessions.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(stage, []).append(session(DEFAULT).model_dump())
    write_json(path, known)


def _measure(of: Run) -> None:
    net = trained(of.spec, of.folder).net.to("cuda" if torch.cuda.is_available() else "cpu")
    protocol = of.suite.protocol
    speed = forward_throughput(net, protocol.sampling.frames, protocol.crops.test_size)
    write_json(of.folder / "throughput.json", speed.model_dump())


def _record(of: Run) -> None:
    suite, spec, train, test = of.suite, of.spec, of.train, of.test
    solution, protocol = suite.solution(of.entry), suite.protocol
    predictions = pd.read_parquet(of.folder / "predictions.parquet")
    top1, top5, failed = score(predictions)
    sessions = json.loads((of.folder / "sessions.json").read_text())
    engine = " ".join(json.loads((of.folder / "test.json").read_text()).get("engine", ()))
    RunRecord(
        suite=spec.suite,
        entry=spec.entry,
        variant=spec.variant,
        seed=spec.seed,
        run=spec.hash,
        spec=spec,
        note=of.entry.note,
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
            train_skipped=skipped_videos(of.folder / SKIPPED),
            partial=train.partial or test.partial,
            resized=test.resized,
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
            predictions_sha256=sha256(of.folder / "predictions.parquet"),
        ),
        training=Training(**json.loads((of.folder / "training.json").read_text())),
        search=of.search,
        tuning=of.entry.tuning,
        throughput=Throughput(**json.loads((of.folder / "throughput.json").read_text())),
        retuned=_retuned(of, predictions),
        provenance=Provenance(
            train=sessions["train"],
            test=[{**s, "engine": engine} for s in sessions["test"]],
            measure=sessions["measure"][-1],
        ),
    ).save(of.folder / "record.json")


def _retuned(of: Run, predictions: pd.DataFrame) -> Retuned | None:
    """What the stage ``retune`` has left, with the accuracies of its classifiers; None without it."""
    path = of.folder / "retuned.parquet"
    if not path.exists():
        return None
    found = json.loads((of.folder / "retuned.json").read_text())
    table = with_joint(pd.read_parquet(path), predictions)
    return Retuned(
        **found,
        classifiers=of_classifiers(table, found["train_counts"]),
        predictions=f"{of.spec.id}.retuned.parquet",
        predictions_sha256=sha256(path),
    )


OURS = ("train", "test", "measure", "record")  # in this order in every run
STAGES = {
    stage.name: stage
    for stage in (
        Stage("train", "model.safetensors", lambda of: train(of.spec, of.suite.protocol, of.train, of.folder)),
        Stage(
            "retune",
            "retuned.parquet",
            lambda of: retune(of.spec, of.suite, of.train, of.test, of.folder),
            ranks=False,
            check=Retuning.of,
        ),
        Stage("test", "predictions.parquet", lambda of: test(of.spec, of.suite.protocol, of.test, of.folder)),
        Stage("measure", "throughput.json", _measure, ranks=False, alone=True),
        Stage("record", "record.json", _record, ranks=False, noted=False),
    )
}
