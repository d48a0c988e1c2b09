"""Does a model use time? Its accuracy when the frames of every clip are shuffled, reversed, or frozen to one.

After "Only Time Can Tell: Discovering Temporal Data for Temporal Modeling" (Sevilla-Lara et al., arXiv 1907.08340),
which finds temporal classes by the loss from shuffling. Nothing is trained again: the tested model sees other clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader

from autotsnet.inputs import made
from reproduce.data import synthetic
from reproduce.data.datasets import TestVideos
from reproduce.data.manifest import DataError, Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.rebuild import for_test
from reproduce.engine.recipe import videos_at_once
from reproduce.engine.runner import threads_of
from reproduce.evidence.statistics import LEVEL, holm, paired_difference, wilson
from reproduce.progress import Progress
from reproduce.protocol import Protocol
from reproduce.records import ranks
from reproduce.spec import RunSpec
from reproduce.suites import Suite, named
from reproduce.whole_files import write_atomic, write_json

ORDERS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "natural": lambda frames, rng: np.arange(frames),
    "shuffled": lambda frames, rng: rng.permutation(frames),
    "reversed": lambda frames, rng: np.arange(frames)[::-1].copy(),
    "frozen": lambda frames, rng: np.full(frames, frames // 2),  # the middle frame, over and over
}
"""Name -> index of the frame at each of T places."""


def reordered(
    model: VideoClassifier, manifest: Manifest, protocol: Protocol, label: str = "temporal", batch_size: int = 8
) -> dict[str, pd.DataFrame]:
    """Predictions of a model under every order: ``id``, ``label``, ``error``, ``scores``.

    All views of a video are shuffled by the same permutation, drawn from the video's place in the manifest.

    Args:
        model: in evaluation mode.
        manifest: the videos.
        protocol: sampling and crops.
        label: for the progress line.
        batch_size: videos at once.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, rows = model.to(device), {name: [] for name in ORDERS}
    loader = DataLoader(TestVideos(manifest, protocol), batch_size)
    with torch.inference_mode(), Progress(label, len(manifest.videos)) as progress:
        for batch in loader:
            clips, done = batch.pop("clips").numpy(), len(rows["natural"])
            for name, order in ORDERS.items():
                places = [order(clips.shape[2], np.random.default_rng((n, 4))) for n in range(done, done + len(clips))]
                moved = np.stack([made(clip[:, p], model.inputs) for clip, p in zip(clips, places, strict=True)])
                scored = model(torch.from_numpy(moved).to(device), mode="predict", **batch)
                rows[name] += [{**row, "scores": row["scores"].numpy()} for row in scored]
            progress.step(len(clips))
    return {name: pd.DataFrame(r).astype({"label": int}) for name, r in rows.items()}


def predicted(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per video, in the order of ids: ``id``, ``label`` and, for each order, the predicted class.

    -1 is no class: the video could not be read, or no class scores above all others.

    Args:
        tables: see ``reordered``.
    """
    out = tables["natural"][["id", "label"]].copy()
    for name, table in tables.items():
        taken = np.stack(table.scores.to_list()).argmax(1)
        out[name] = np.where(ranks(table.assign(label=taken)) == 0, taken, -1)
    return out.sort_values("id", ignore_index=True)


def diagnose(table: pd.DataFrame, classes: Sequence[str], partners: tuple[int, ...] | None) -> dict:
    """The accuracy under each order, as plain data.

    Args:
        table: see ``predicted``.
        classes: names, by label.
        partners: label -> label of the class that is this one played backwards, if the data set has such pairs.

    Returns:
        ``n``; ``top1`` by order, correct videos; ``order_matters``, top-1 minus that of shuffled frames;
        ``to_partner``, videos classified as their partner when reversed; ``classes``, the same per class with the
        class that most of its reversed videos are taken for, first the classes for which order matters most.
    """
    label = table.label.to_numpy()
    right = {name: (table[name].to_numpy() == label).astype(float) for name in ORDERS}
    backwards = table.reversed.to_numpy()
    rows = []
    for c, name in enumerate(classes):
        mine = label == c
        if not mine.any():
            continue
        taken = np.bincount(backwards[mine & (backwards >= 0)], minlength=len(classes))
        row = {"class": name, "n": int(mine.sum())} | {o: int(r[mine].sum()) for o, r in right.items()}
        row |= {"reversed_taken_for": classes[taken.argmax()], "reversed_taken": int(taken.max())}
        if partners:
            row |= {"partner": classes[partners[c]], "to_partner": int(taken[partners[c]])}
        rows.append(row)
    rows.sort(key=lambda row: (row["shuffled"] - row["natural"]) / row["n"])
    d = paired_difference(right["natural"][None], right["shuffled"][None])
    return {
        "n": len(label),
        "top1": {name: int(r.sum()) for name, r in right.items()},
        "order_matters": {"points": d.points, "low": d.low, "high": d.high, "p": d.p},
        "to_partner": sum(row["to_partner"] for row in rows) if partners else None,
        "classes": rows,
    }


def partners(s: Suite) -> tuple[int, ...] | None:
    """Label -> label of the class played backwards; only the embedded Something-Something is made of such pairs."""
    return tuple(map(synthetic.partner, range(s.classes))) if s.layout == "ssv2" and s.root is None else None


def is_run(folder: Path) -> bool:
    """Whether a folder is of a trained run; False: of a search.

    Raises:
        DataError: the folder is of neither.
    """
    if folder.name.startswith("search-") and folder.is_dir():
        return False
    for name in ("spec.json", "model.safetensors"):
        if not (folder / name).exists():
            raise DataError(f"{folder} has no {name}: it is no folder of a trained run; name one of runs/<suite>/")
    return True


def temporal(folder: Path, cache: Path, results: Path, trust: bool = False) -> dict:
    """Diagnose a tested run; writes ``temporal/<suite>/<run>.json`` into the results, its predictions beside it.

    Args:
        folder: see ``is_run``.
        cache: folder of the embedded videos.
        results: folder of records and tables.
        trust: run the text of a user's model in the folder.

    Raises:
        SpecError: see ``RunSpec.load``.
        DataError: the videos are not those that it was tested on.
    """
    spec = RunSpec.load(folder, trust)
    s = named(spec.suite)
    manifest = s.manifest("val", s.data_root(cache))
    if manifest.hash != spec.test_manifest:
        raise DataError(
            f"{folder} was tested on manifest {spec.test_manifest}, {manifest.root} is {manifest.hash}; "
            "name the copy of the run"
        )
    protocol = s.protocol or s.of(s.entry(spec.entry)).protocol
    batch = videos_at_once(spec.config, protocol)  # as in its test, for equal rounding
    with threads_of(spec.recipe):
        tables = reordered(for_test(spec, folder, protocol), manifest, protocol, f"{spec.id} temporal", batch)
    found = dict(suite=s.name, dataset=s.dataset, run=spec.hash, id=spec.id, test_manifest=manifest.hash)
    table, path = predicted(tables), results / "temporal" / s.name / f"{spec.id}.json"
    found |= diagnose(table, manifest.classes, partners(s))
    write_atomic(path.with_suffix(".parquet"), lambda p: table.to_parquet(p, index=False))
    write_json(path, found)
    return found


def report(found: list[dict]) -> str:
    """Tables of models, and of the classes of each data set, those for which order matters most first."""
    text = []
    holds = holm([f["order_matters"]["p"] for f in found]) < LEVEL
    rows = []
    for f, uses in zip(found, holds, strict=True):
        order = f["order_matters"]
        row = {"model": f["id"], "data": f["dataset"]}
        row |= {o: "{:.1f} [{:.1f}, {:.1f}]".format(100 * k / f["n"], *wilson(k, f["n"])) for o, k in f["top1"].items()}
        row["reversed, as partner"] = "–" if f["to_partner"] is None else f"{100 * f['to_partner'] / f['n']:.1f}"
        row["natural − shuffled"] = f"{order['points']:+.1f} [{order['low']:+.1f}, {order['high']:+.1f}]"
        row["uses time"] = "yes" if uses and order["points"] > 0 else "not shown"
        rows.append(row)
    text.append(_markdown(rows))
    text.append("Top-1 % with 95 % intervals; uses time: the difference holds at 5 % after Holm's correction.")
    for dataset in sorted({f["dataset"] for f in found}):
        classes = pd.DataFrame([row for f in found if f["dataset"] == dataset for row in f["classes"]])
        sums = classes.groupby("class").sum(numeric_only=True)
        share = (100 * sums.div(sums.n, axis=0)).drop(columns=["n", "reversed_taken"])
        share["natural − shuffled"] = share.natural - share.shuffled
        share = share.sort_values("natural − shuffled", ascending=False).round(1)
        text.append(f"{dataset}, % of each class over {len(classes) // len(sums)} models:")
        text.append(_markdown(share.reset_index().to_dict("records")))
    return "\n\n".join(text)


def _markdown(rows: list[dict]) -> str:
    return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f")
