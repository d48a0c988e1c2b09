"""Does decoupling pay? Classifiers on the features of one training, by how many training videos their classes have.

Every classifier of a run stands on the same trained network (see ``reproduce.engine.retune``), so its difference from
the network's own answers, ``joint``, is paired by video and by run, and its GMACs are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from reproduce.data.longtail import FEW, GROUPS, MANY, groups, weights
from reproduce.engine.retune import CLASSIFIERS
from reproduce.evidence.statistics import LEVEL, Difference, holm, paired_difference
from reproduce.evidence.tables import NOT_SHOWN, ONE_RUN, kinds, runs_of, title, title_of
from reproduce.records import RecordError, RunRecord, load_all, retuned_answers
from reproduce.suites import Suite
from reproduce.whole_files import write_atomic

FOLDER = "longtail"  # of the results
JOINT = "joint"
COLUMNS = (*GROUPS, "macro", "micro")


def frame(suite: Suite, results: Path) -> pd.DataFrame:
    """A row per model and classifier, and per classifier over all models that follow the suite's recipe.

    Args:
        suite: with a long tail.
        results: folder of records.

    Raises:
        ValueError: no record of the suite has classifiers.
        RecordError: answers are not a record's.
    """
    folder, models, plain = results / "records" / suite.name, [], []
    for name, records in runs_of(suite, load_all(folder)).items():
        mine = [r for r in records if r.retuned]
        for what, of in kinds(suite, suite.entry(name), mine) if mine else ():
            models.append((title_of(name) + (f" ({what})" if what else ""), of, _right(of, folder)))
            if not what and not suite.entry(name).changes:
                plain.append(models[-1][-1])
    if not models:
        raise ValueError(f"{folder} has no record with the stage retune; run it: python -m reproduce run {suite.ref}")
    rows, first = [], models[0][1][0].retuned
    if any(r.retuned.train_counts != first.train_counts for _, of, _ in models for r in of):
        raise RecordError(f"{folder}: runs are of other training videos; run the suite again on one copy")
    for model, of, right in models:
        label = right.pop("label")
        w = weights(label, np.array(first.train_counts))
        rows += [_row(model, name, of, found, right[JOINT], w) for name, found in right.items()]
    pooled = {name: [right[name] for right in plain if name in right] for name in (JOINT, *CLASSIFIERS)}
    if len(plain) > 1:
        joint = _means(pooled[JOINT])
        rows += [_row("all models", name, [], _means(of), joint, w) for name, of in pooled.items() if of]
    claims = [row for row in rows if row["p"] is not None]
    for row, p in zip(claims, holm([row["p"] for row in claims]), strict=True):
        points = row["difference"].points
        row["verdict"] = NOT_SHOWN if p >= LEVEL else ("▲ better" if points > 0 else "▼ worse")
        row["sure"] = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return pd.DataFrame([_cells(row) for row in rows])


def _right(records: Sequence[RunRecord], folder: Path) -> dict[str, np.ndarray]:
    """Runs × videos by classifier, 1 where right; and the ``label`` of the videos.

    Raises:
        RecordError: runs are of other videos.
    """
    tables = [retuned_answers(r, folder) for r in records]
    if not all(t.id.equals(tables[0].id) and t.label.equals(tables[0].label) for t in tables):
        raise RecordError(f"runs of {records[0].entry} are of other videos; run the suite again on one copy")
    label = tables[0].label.to_numpy()
    names = [name for name in (JOINT, *CLASSIFIERS) if all(name in t for t in tables)]
    return {"label": label} | {name: np.stack([t[name] == label for t in tables]).astype(float) for name in names}


def _means(of: list[np.ndarray]) -> np.ndarray:
    """Models × videos: models are the runs of a difference over all of them."""
    return np.stack([right.mean(0) for right in of])


def _row(
    model: str,
    name: str,
    records: Sequence[RunRecord],
    right: np.ndarray,
    joint: np.ndarray,
    w: dict[str, np.ndarray],
) -> dict:
    zero = np.zeros((1, right.shape[1]))
    row = dict(model=model, name=name, records=records, runs=len(right), p=None, difference=None, few=None)
    row["accuracy"] = {part: paired_difference(right * w[part], zero) for part in COLUMNS if part in w}
    row["verdict"], row["sure"] = ("control" if name == JOINT else ONE_RUN), "–"
    if name != JOINT:
        row["difference"] = paired_difference((right - joint) * w["macro"], zero)
        row["few"] = paired_difference((right - joint) * w["few"], zero) if "few" in w else None
        if len(right) > 1:
            row["p"] = row["difference"].p
    return row


def _cells(row: dict) -> dict[str, str]:
    found, records = row["accuracy"], row["records"]
    cells = {"model": row["model"], "classifier": CLASSIFIERS.get(row["name"], JOINT)}
    cells["GMACs/view"] = f"{np.mean([r.model.gmacs for r in records]):.4g}" if records else "–"
    for part in COLUMNS:
        of = found.get(part)
        cells[f"{part} %"] = "–" if of is None else f"{of.points:.1f}"
        if part == "macro":
            cells["macro %"] += f" [{max(0.0, of.low):.1f}, {min(100.0, of.high):.1f}]"
    cells["− joint, few"] = _points(row["few"])
    cells["− joint, macro"] = _points(row["difference"])
    cells |= {"how sure": row["sure"], "verdict": row["verdict"], "runs": str(row["runs"])}
    taus = sorted({r.retuned.tau for r in records}) if row["name"] == "tau_norm" else []
    cells["τ"] = ", ".join(f"{tau:.1f}" for tau in taus) or "–"
    return cells


def _points(d: Difference | None) -> str:
    return "–" if d is None else f"{d.points:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"


def rendered(suite: Suite, results: Path) -> str:
    """The table of a suite as it should stand in the results, Markdown; see ``frame``."""
    records = [r for r in load_all(results / "records" / suite.name) if r.retuned]
    table = frame(suite, results).to_markdown(index=False, disable_numparse=True)
    counts = records[0].retuned.train_counts
    group = groups(np.array(counts))
    sizes = ", ".join(f"{(group == name).sum()} {name}" for name in GROUPS)
    notes = [
        f"Training videos of a class: {max(counts)} to {min(counts)}, {sum(counts)} in all. Many: over {MANY}, few: "
        f"under {FEW}, medium: between or equal ({sizes} classes of {len(counts)}). Groups and macro are means of "
        "class accuracies, micro is over test videos.",
        "All classifiers of a row's model stand on the same trained networks, so differences from joint are paired by "
        "video and by run; intervals of 95 %, p after Holm's correction over the table. All models: each is one run.",
        "Batch norm while classifiers learn: " + " and ".join(sorted({_norm(r) for r in records})) + ". τ is chosen "
        f"on {' or '.join(sorted({str(r.retuned.validation_videos) for r in records}))} held-out videos, which are "
        "neither trained on nor tested on.",
        "cRT, LWS, τ-normalisation and nearest class mean are Decoupling's (arXiv 1910.09217); logit adjustment is "
        "recalled, not checked against its source.",
    ]
    if suite.tail and suite.tail.kind == "ssv2_lt":
        notes.append("SSv2-LT is a reconstruction: its counts are published, its videos are drawn anew.")
    lines = [f"## Long tail: {title(suite, records)}", table, "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(lines) + "\n"


def _norm(record: RunRecord) -> str:
    published = record.retuned.settings["batch_norm"] == "published"
    return "statistics of each batch, as published" if published else "frozen"


def render(suite: Suite, results: Path) -> str:
    """Make the table, write it to ``longtail/<suite>.md`` of the results, and return it."""
    text = rendered(suite, results)
    write_atomic(results / FOLDER / f"{suite.name}.md", lambda path: path.write_text(text))
    return text
