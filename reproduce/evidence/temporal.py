"""Does a model use time? Its accuracy when the frames of every clip are shuffled, reversed, or frozen to one of them.

After "Only Time Can Tell: Discovering Temporal Data for Temporal Modeling" (Sevilla-Lara et al., arXiv 1907.08340),
which finds temporal classes by the loss from shuffling. Nothing is trained again: the tested model sees other clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from reproduce.evidence.atemporal import probe
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
SHUFFLES = 3  # draws; further ones are called shuffled_2, …
PROBE = "probe"  # the answers of ``atemporal.probe``, beside those of orders


def orders(frames: int, every_frame: bool = False) -> dict[str, Callable[[int, np.random.Generator], np.ndarray]]:
    """``ORDERS``, the further draws of shuffled frames and, if asked for, every other frame over and over: frame_0, …

    Args:
        frames: T.
        every_frame: so that the best of them is known.
    """
    found = dict(ORDERS)
    for k in range(2, SHUFFLES + 1):
        found[f"shuffled_{k}"] = lambda frames, rng, k=k: [rng.permutation(frames) for _ in range(k)][-1]
    for t in range(frames) if every_frame else ():
        if t != frames // 2:  # that is frozen
            found[f"frame_{t}"] = lambda frames, rng, t=t: np.full(frames, t)
    return found


def reordered(
    model: VideoClassifier,
    manifest: Manifest,
    protocol: Protocol,
    label: str = "temporal",
    batch_size: int = 8,
    every_frame: bool = False,
) -> dict[str, pd.DataFrame]:
    """Predictions of a model under every order: ``id``, ``label``, ``error``, ``scores``.

    All views of a video are shuffled by the same permutation, drawn from the video's place in the manifest, for all
    models alike. Inputs that are made from several frames are made after that.

    Args:
        model: in evaluation mode.
        manifest: the videos.
        protocol: sampling and crops.
        label: for the progress line.
        batch_size: videos at once.
        every_frame: see ``orders``.
    """
    known = orders(protocol.sampling.frames, every_frame)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, rows = model.to(device), {name: [] for name in known}
    loader = DataLoader(TestVideos(manifest, protocol), batch_size)
    with torch.inference_mode(), Progress(label, len(manifest.videos)) as progress:
        for batch in loader:
            clips, done = batch.pop("clips").numpy(), len(rows["natural"])
            for name, order in known.items():
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


def diagnose(
    table: pd.DataFrame,
    classes: Sequence[str],
    partners: tuple[int, ...] | None,
    sets: Mapping[str, Sequence[int]] | None = None,
) -> dict:
    """The accuracy under each order, as plain data.

    Args:
        table: see ``predicted``; with several draws of shuffled frames, their mean is taken.
        classes: names, by label.
        partners: label -> label of the class that is this one played backwards, if the data set has such pairs.
        sets: labels by name, see ``Suite.class_sets``.

    Returns:
        ``n``; ``top1`` by order, correct videos; ``order_matters``, top-1 minus that of shuffled frames;
        ``to_partner``, videos classified as their partner when reversed; ``classes``, the same per class with the
        class that most of its reversed videos are taken for, first the classes for which order matters most. Of tables
        with several draws also: ``changed``, the share of videos whose answer shuffling changes; ``gaps``, top-1 minus
        that of shuffled, reversed and frozen frames, of the best single frame (a video counts as right if any frame
        is; ``best_frame`` has their number) and of the probe. With sets, ``sets``: the same of their videos.
    """
    label = table.label.to_numpy()
    right = {name: (table[name].to_numpy() == label).astype(float) for name in table.columns.drop(["id", "label"])}
    draws = [name for name in right if name.startswith("shuffled")]
    right["shuffled"] = np.mean([right[name] for name in draws], 0)
    backwards = table.reversed.to_numpy()
    rows = []
    for c, name in enumerate(classes):
        mine = label == c
        if not mine.any():
            continue
        taken = np.bincount(backwards[mine & (backwards >= 0)], minlength=len(classes))
        row = {"class": name, "n": int(mine.sum())} | {o: _count(right[o][mine]) for o in ORDERS}
        row |= {"reversed_taken_for": classes[taken.argmax()], "reversed_taken": int(taken.max())}
        if partners:
            row |= {"partner": classes[partners[c]], "to_partner": int(taken[partners[c]])}
        rows.append(row)
    rows.sort(key=lambda row: (row["shuffled"] - row["natural"]) / row["n"])
    found = {
        "n": len(label),
        "top1": {name: _count(right[name]) for name in ORDERS},
        "order_matters": _gap(right["natural"], right["shuffled"]),
        "to_partner": sum(row["to_partner"] for row in rows) if partners else None,
        "classes": rows,
    }
    if len(draws) > 1:
        less = {name: right[name] for name in ("shuffled", "reversed", "frozen")}
        if singles := [right[name] for name in right if name.startswith("frame_")]:
            less["best_frame"] = np.max([right["frozen"], *singles], 0)
            found["best_frame"] = _count(less["best_frame"])
        if PROBE in right:
            less[PROBE] = right[PROBE]
            found[PROBE] = _count(right[PROBE])
        found["changed"] = float(100 * np.mean([table[name] != table.natural for name in draws]))
        found["gaps"] = {name: _gap(right["natural"], r) for name, r in less.items()}
    if sets:
        found["sets"] = {name: _of_set(right, np.isin(label, labels)) for name, labels in sets.items()}
    return found


def _of_set(right: Mapping[str, np.ndarray], mine: np.ndarray) -> dict:
    """Videos of a set of classes, how many are right by order, and what order is worth; only their number if none."""
    if not mine.any():
        return {"n": 0}
    natural, shuffled = right["natural"][mine], right["shuffled"][mine]
    top1 = {name: _count(right[name][mine]) for name in ORDERS}
    return {"n": int(mine.sum()), "top1": top1, "order_matters": _gap(natural, shuffled)}


def _gap(natural: np.ndarray, other: np.ndarray) -> dict[str, float]:
    d = paired_difference(natural[None], other[None])
    return {"points": d.points, "low": d.low, "high": d.high, "p": d.p}


def _count(right: np.ndarray) -> int | float:
    """How many are right: of a mean over draws, not always a whole number."""
    total = float(right.sum())
    return round(total) if abs(total - round(total)) < 1e-6 else total


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


def temporal(folder: Path, cache: Path, results: Path, trust: bool = False, every_frame: bool = False) -> dict:
    """Diagnose a tested run; writes ``temporal/<suite>/<run>.json`` into the results, its predictions beside it.

    Args:
        folder: see ``is_run``.
        cache: folder of the embedded videos.
        results: folder of records and tables.
        trust: run the text of a user's model in the folder.
        every_frame: also test every single frame, and train ``atemporal.probe`` on those of the training videos.

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
        model = for_test(spec, folder, protocol)
        tables = reordered(model, manifest, protocol, f"{spec.id} temporal", batch, every_frame)
        table = predicted(tables)
        if every_frame:
            train = s.manifest("train", manifest.root)
            answers = probe(model, train, manifest, protocol, s.classes, spec.seed, batch)
            table[PROBE] = table.id.map(answers).fillna(-1).astype(int)
    found = dict(suite=s.name, dataset=s.dataset, run=spec.hash, id=spec.id, test_manifest=manifest.hash)
    path = results / "temporal" / s.name / f"{spec.id}.json"
    found |= diagnose(table, manifest.classes, partners(s), s.class_sets)
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
        row["natural − shuffled"] = _said(order)
        row["uses time"] = "yes" if uses and order["points"] > 0 else "not shown"
        rows.append(row)
    text.append(_markdown(rows))
    text.append("Top-1 % with 95 % intervals; uses time: the difference holds at 5 % after Holm's correction.")
    if any("gaps" in f for f in found):
        text.append(_gaps([f for f in found if "gaps" in f]))
    if any(f.get("sets") for f in found):
        text.append(_sets([f for f in found if f.get("sets")]))
    for dataset in sorted({f["dataset"] for f in found}):
        classes = pd.DataFrame([row for f in found if f["dataset"] == dataset for row in f["classes"]])
        sums = classes.groupby("class").sum(numeric_only=True)
        share = (100 * sums.div(sums.n, axis=0)).drop(columns=["n", "reversed_taken"])
        share["natural − shuffled"] = share.natural - share.shuffled
        share = share.sort_values("natural − shuffled", ascending=False).round(1)
        text.append(f"{dataset}, % of each class over {len(classes) // len(sums)} models:")
        text.append(_markdown(share.reset_index().to_dict("records")))
    return "\n\n".join(text)


def _gaps(found: list[dict]) -> str:
    """What shuffling, reversal and single frames take from each model."""
    titles = dict(best_frame="best single frame", probe="atemporal probe")
    rows = []
    for f in found:
        row = {"model": f["id"], "data": f["dataset"], "answers changed": f"{f['changed']:.1f}"}
        for name, gap in f["gaps"].items():
            row[f"natural − {titles.get(name, name)}"] = _said(gap)
        rows.append(row)
    notes = (
        f"Points with 95 % intervals; shuffled: mean of {SHUFFLES} draws; answers changed: % of videos by shuffling."
    )
    if any("best_frame" in f for f in found):
        notes += (
            " Best single frame: right if the model is right on any frame over and over, which only an oracle knows."
            " Atemporal probe: it picks a frame from the model's features of single frames, without their order."
        )
    return f"{_markdown(rows)}\n\n{notes}"


def _sets(found: list[dict]) -> str:
    """Accuracy on classes that need time, and on those that do not."""
    rows = []
    for f in found:
        row = {"model": f["id"], "data": f["dataset"]}
        for name, of in f["sets"].items():
            n = of["n"]
            row[f"{name}, n"] = n
            for order in ("natural", "shuffled") if n else ():
                k = of["top1"][order]
                row[f"{name}, {order}"] = "{:.1f} [{:.1f}, {:.1f}]".format(100 * k / n, *wilson(k, n))
            row[f"{name}, natural − shuffled"] = _said(of["order_matters"]) if n else "–"
        rows.append(row)
    return f"{_markdown(rows)}\n\n{SETS}"


SETS = (
    "Temporal, static and random classes of Kinetics are those of Only Time Can Tell; of Something-Something-V2 they "
    "are our mapping of its classes of V1, without one that the public lists have as temporal and static (17 static "
    "ones). Of embedded videos: temporal classes are no longer themselves when played backwards, static ones are."
)


def _said(gap: dict[str, float]) -> str:
    return f"{gap['points']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}]"


def _markdown(rows: list[dict]) -> str:
    return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f")
