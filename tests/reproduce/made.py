"""Records for tests: of today's recipes and schema, whole, with answers that are drawn rather than trained for."""

import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from mmengine.config import Config

from reproduce.records import (
    Data,
    Model,
    Provenance,
    Result,
    RunRecord,
    Search,
    Session,
    Throughput,
    Training,
    score,
    sha256,
)
from reproduce.search import stage
from reproduce.spec import RunSpec, lasting, plain, run_id
from reproduce.suites import SUITES, Entry, Suite

RIGHT = dict(slowfast=0.5, x3d=0.45, tsm=0.6, mvit=0.125)  # share of the answers; of all others 0.8
SEARCHES = dict(  # steps, architectures and clips, as the quick recipes make them
    auto_tsnet=(1460, 1042, 52672),
    assemblenet_searched=(450, 1, 7200),
    pvnas=(950, 1400, 22400),
    e3d_searched=(0, 50_000, 0),
    tiny_video_net_searched=(552, 24, 11904),
)
TIME = "2026-01-01T00:00:00+00:00"
SESSION = Session(
    commit="0" * 40,
    dirty=False,
    versions={"torch": "2.11.0"},
    python="3.11.0",
    platform="Linux",
    device="Intel Xeon, 2 cores",
    threads=1,
    decoder="pyav",
    time=TIME,
)


def make(
    results: Path,
    *runs: str,
    suite: Suite = SUITES["kinetics-quick"],
    right: float | None = None,
    old: bool = False,
    to: str = "",
    wrong: float = 0.0,
    other: float = 0.0,
    recipe: dict | None = None,
    net: dict | None = None,
    device: str = SESSION.device,
    **changes,
) -> RunRecord:
    """Write records, ``make(results, "x3d-s0", "auto_tsnet_random-a1-s0")``.

    Args:
        results: folder of results.
        runs: entry, architecture and seed.
        suite: whose entries they are.
        right: share of the 400 videos that are answered right; default: ``RIGHT``. Seeds answer alike but for a
            twentieth of the videos.
        old: without a specification, as records before schema 3.
        to: file name, where it is not the run's.
        wrong: share of the videos whose right answers are taken away.
        other: added to all scores.
        recipe: what is another than in the suite's.
        net: the same of the network's arguments.
        device: that trained and tested.
        changes: fields of the record.

    Returns:
        The last one.
    """
    folder = results / "records" / suite.name
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        name, variant, seed = re.fullmatch(r"(\w+?)(?:-a(\d+))?-s(\d+)", run).groups(default="0")
        record = _record(suite, suite.entry(name), int(variant), int(seed), recipe or {}, net or {}, device)
        answers = _answers(record, RIGHT.get(name, 0.8) if right is None else right, wrong, other)
        path = folder / f"{to or run}.parquet"
        answers.to_parquet(path, index=False)
        top1, top5, failed = score(answers)
        result = dict(n=len(answers), top1=top1, top5=top5, failed=failed)
        result |= dict(predictions=path.name, predictions_sha256=sha256(path))
        record = record.model_copy(update=dict(result=Result(**result)))
        if old:
            text = Config({**record.spec.recipe, "net": dict(record.spec.net)}).pretty_text
            record = record.model_copy(update=dict(spec=None, recipe_text=text))
        record = record.model_copy(update=changes)
        record.save(path.with_suffix(".json"))
    return record


def _record(suite: Suite, entry: Entry, variant: int, seed: int, recipe: dict, net: dict, device: str) -> RunRecord:
    search = None
    if entry.search:
        config = stage.search_config(entry)
        drawn = stage.method(suite, config).draw(variant if entry.variants > 1 else 9 + seed)
        if entry.variants == 1:
            steps, architectures, clips = SEARCHES[entry.name]
            spaces = dict(assemblenet_searched="AssembleNet graphs", pvnas="PV-NAS-style", e3d_searched="e3d")
            spaces |= dict(tiny_video_net_searched="tiny_video_net")
            search = Search(
                strategy=config.strategy,
                space=spaces.get(entry.name) or config.space,
                seed=seed,
                steps=steps,
                architectures=architectures,
                clips=clips,
                wall_s=60,
                devices=1,
                recipe=lasting(plain(config)),
            )
        entry = replace(entry, architecture=drawn)
    spec = RunSpec.of(suite, entry, seed, "a" * 12, "b" * 12, variant)
    recipe = spec.recipe | recipe
    spec = spec.model_copy(update=dict(recipe=recipe, net=spec.net | net))
    session = SESSION.model_copy(update=dict(device=device))
    solution, protocol = suite.solution(entry), suite.protocol
    return RunRecord(
        suite=suite.name,
        entry=entry.name,
        seed=seed,
        variant=variant,
        run=spec.hash,
        spec=spec,
        note=entry.note,
        model=Model(
            family=spec.family,
            net=solution.kwargs | net,
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
            train_videos=2400,
            frames=protocol.sampling.frames,
            crop=protocol.crops.test_size,
            clips=protocol.sampling.clips,
            crops=protocol.crops.crops,
            protocol=spec.protocol,
        ),
        result=Result(n=0, top1=0, top5=0, failed=[], predictions="", predictions_sha256=""),
        training=Training(
            steps=round(recipe["epochs"] * 2400 / recipe["batch"]),
            epochs=recipe["epochs"],
            batch=recipe["batch"],
            wall_s=60,
            devices=1,
            final_loss=1.0,
        ),
        search=search,
        throughput=Throughput(
            clips_per_s=100, spread=0.01, batch=8, repeats=20, device=SESSION.device, precision="fp32", threads=1
        ),
        provenance=Provenance(train=[session], test=[session], measure=session),
    )


def _answers(record: RunRecord, right: float, wrong: float, other: float) -> pd.DataFrame:
    """400 videos of the suite's classes; a wrong answer is the next class."""
    classes, family = record.spec.net["num_classes"], np.random.default_rng(zlib.crc32(record.entry.encode()))
    own = np.random.default_rng(zlib.crc32(run_id(record.entry, record.variant, record.seed).encode()))
    label = np.arange(400) % classes
    luck = np.where(own.random(400) < 0.05, own.random(400), family.random(400))
    hit = (luck < right) & (np.random.default_rng(0).random(400) >= wrong)
    scores = np.eye(classes, dtype=np.float32)[np.where(hit, label, (label + 1) % classes)] + np.float32(other)
    ids = [f"{n:04d}" for n in range(400)]
    return pd.DataFrame(dict(id=ids, label=label, frames=30, error="", scores=list(scores)))
