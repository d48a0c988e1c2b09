"""Tables from records: one per suite, never mixing data sets; what was not run says so."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pandas as pd

from reproduce.files import write_atomic
from reproduce.records import RunRecord, Throughput, load_all
from reproduce.statistics import LEVEL, accuracy_interval, holm, outcomes, paired_difference, per_architecture
from reproduce.suites import Entry, Suite

NOT_RUN = "not run"
RANDOM = "random architectures, of the space that a model was searched in, else of Auto-TSNet's"
INTERVALS = (
    "Intervals of accuracies: over videos (Wilson) and, of several runs, over runs (Student's t: wide where few runs "
    "differ much)."
)
PUBLISHED = Path(__file__).with_name("published.csv")


@cache
def _published() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED)


def published_row(suite: Suite, entry: Entry) -> pd.Series | None:
    """The row of ``published.csv`` that belongs beside an entry: the nearest native variant; None if there is none."""
    if not (suite.published and entry.published):
        return None
    table = _published()
    rows = table[
        (table.dataset == suite.published)
        & (table.model == entry.published[0])
        & (table.variant == entry.published[1])
        & table.top1.notna()
    ]
    if rows.empty:
        raise ValueError(f"published.csv has no row {entry.published} for {suite.published}")
    same = rows[rows.frames == suite.of(entry).protocol.sampling.frames]
    rows = rows if same.empty else same
    return rows.sort_values("top1").iloc[-1]


def literature(suite: Suite, entry: Entry) -> tuple[str, str]:
    """Accuracy that a paper or model zoo states for the nearest native variant, and where; two dashes if none does."""
    row = published_row(suite, entry)
    if row is None:
        return "–", "–"
    setting = ", ".join(
        str(text)
        for text in (
            row.variant,
            f"{row.frames:g}×{row.crop:g}²" if pd.notna(row.frames) and pd.notna(row.crop) else None,
            f"{row.views} views" if pd.notna(row.views) else None,
            f"{row.gflops_per_view:g} G/view" if pd.notna(row.gflops_per_view) else None,
            f"pretrained on {row.pretrain}" if pd.notna(row.pretrain) and row.pretrain != "none" else None,
        )
        if text
    )
    return f"{row.top1:.1f} ({setting})", row.source


def accuracy(records: list[RunRecord], folder: Path, k: int = 1) -> tuple[float, tuple[float, float]]:
    """Mean top-k of a model's runs and its interval over videos and runs, in percent.

    Args:
        records: of one model.
        folder: of their predictions.
        k: 1 or 5.
    """
    right = per_architecture(outcomes([(r, folder) for r in records], k=k), records)
    return float(100 * right.sum() / right.size), accuracy_interval(right)


def _accuracy(records: list[RunRecord], folder: Path, k: int) -> str:
    mean, (low, high) = accuracy(records, folder, k)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _row(suite: Suite, entry: Entry, records: list[RunRecord], folder: Path, several: bool) -> dict[str, object]:
    as_run = suite.of(entry)
    protocol, sampling, crops = as_run.protocol, as_run.protocol.sampling, as_run.protocol.crops
    value, source = literature(suite, entry)
    row: dict[str, object] = {
        "model": entry.name + (f" ({entry.note})" if entry.note else ""),
        "frames×crop": f"{sampling.frames}×{crops.test_size}²",
        "views": protocol.view_text,
    }
    if not suite.protocol:
        how = f"dense, stride {sampling.stride}" if sampling.kind == "dense" else "one frame per segment"
        row["native protocol"] = f"{how}; trained at {crops.size}²"
    costs = [r.model for r in records] or ([] if entry.search else [as_run.solution(entry)])
    if costs:
        gmacs = sum(c.gmacs for c in costs) / len(costs)
        worst = max((c.residual for c in costs), key=abs)
        row |= {
            "GMACs/view": f"{gmacs:.4g}",
            "GMACs/video": f"{gmacs * protocol.views:.4g}",
            "GFLOPs/view": f"{2 * gmacs:.4g}",
            "params M": f"{sum(c.params for c in costs) / len(costs) / 1e6:.3g}",
            "residual %": (f"{100 * worst:+.2f}" + ("" if all(c.matched for c in costs) else " **missed**"))
            if suite.gmacs
            else "not matched",
        }
    else:
        row |= dict.fromkeys(("GMACs/view", "GMACs/video", "GFLOPs/view", "params M", "residual %"), NOT_RUN)
    if records:
        n = records[0].result.n
        device, _ = Counter(r.throughput.device for r in records).most_common(1)[0]
        speed = median_speed(records, device)
        architectures = len({r.variant for r in records})
        failed = max(len(r.result.failed) for r in records)
        row |= {
            "top-1 % [95 %]": _accuracy(records, folder, 1),
            "top-5 % [95 %]": _accuracy(records, folder, 5),
            "n": f"{n}" + (f" ({failed} failed, counted wrong)" if failed else ""),
            "seeds": f"{len({r.seed for r in records})}"
            + (f" × {architectures} architectures" if architectures > 1 else ""),
            "clips/s": f"{speed.clips_per_s:.3g} ±{100 * speed.spread:.0f} %" + (f" on {device}" if several else ""),
            "train": f"{sum(r.training.wall_s for r in records) / len(records) / 60:.1f} min",
        }
    else:
        row |= dict.fromkeys(("top-1 % [95 %]", "top-5 % [95 %]", "n", "seeds", "clips/s", "train"), NOT_RUN)
    return row | {"search cost": _search_cost(entry, records), "literature top-1 %": value, "literature source": source}


def median_speed(records: list[RunRecord], device: str) -> Throughput:
    """The throughput of the median run of those timed on a device."""
    there = sorted((r.throughput for r in records if r.throughput.device == device), key=lambda t: t.clips_per_s)
    return there[len(there) // 2]


def _search_cost(entry: Entry, records: list[RunRecord]) -> str:
    if entry.search is None or entry.variants > 1:
        return "none"
    costs = [r.search for r in records if r.search]
    if not costs:
        return NOT_RUN
    minutes = sum(c.wall_s * c.devices for c in costs) / len(costs) / 60
    judged = sum(c.architectures for c in costs) / len(costs)
    clips = sum(c.clips for c in costs) / len(costs)
    return f"{minutes:.1f} device-min, {judged:.0f} architectures, {clips / 1000:.0f}k clips"


def _against(suite: Suite, runs: dict[str, list[RunRecord]], folder: Path, baseline: str) -> list[str]:
    """Per entry, its top-1 minus that of the baseline or, without one, of its own control, see ``Suite.control``."""
    if baseline:
        first = suite.entry(baseline)
        if not runs.get(baseline):
            raise ValueError(f"{baseline} has no records in suite {suite.name!r} to set the others against")
        controls = {name: None if name == baseline else first for name in runs}
    else:
        first = next(e for e in suite.entries if e.variants > 1)
        controls = {name: suite.control(suite.entry(name)) for name in runs}
    pairs, cells = {}, {}
    for name, control in controls.items():
        if runs[name] and control and runs.get(control.name):
            pairs[name] = runs[name], runs[control.name]
        cells[name] = "–" if runs[name] and control is None else NOT_RUN
    for name, cell in differences(pairs, folder).items():
        cells[name] = cell if controls[name] == first else f"{cell} against {controls[name].name}"
    return list(cells.values())


def differences(pairs: dict[str, tuple[list[RunRecord], list[RunRecord]]], folder: Path) -> dict[str, str]:
    """Of pairs of models, by name: the first one's top-1 minus the second one's, paired by video.

    ▲ and ▼ mark the differences that hold after Holm's correction over all pairs.
    """
    found = {}
    for name, (first, second) in pairs.items():
        right = outcomes([(r, folder) for r in [*first, *second]])
        a, b = right[: len(first)], right[len(first) :]
        found[name] = paired_difference(per_architecture(a, first), per_architecture(b, second))
    cells = {}
    for (name, d), p in zip(found.items(), holm([d.p for d in found.values()]), strict=True):
        sign = "" if p >= LEVEL else " ▲" if d.points > 0 else " ▼"
        cells[name] = f"{d.points:+.1f} [{d.low:+.1f}, {d.high:+.1f}]{sign}"
    return cells


def with_own(suite: Suite, records: list[RunRecord]) -> Suite:
    """The suite with an entry for each user's model that its records are of."""
    known = {e.name for e in suite.entries}
    own = {r.entry: Entry(r.entry, "", r.note) for r in records if r.suite == suite.name and r.entry not in known}
    return replace(suite, entries=(*suite.entries, *own.values()))


def runs_of(suite: Suite, records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """The suite's records by entry, users' models behind its own; of random architectures, those that it compares."""
    suite = with_own(suite, records)
    mine = [r for r in records if r.suite == suite.name]
    return {e.name: [r for r in mine if r.entry == e.name and r.variant < e.variants] for e in suite.entries}


def table(suite: Suite, records: list[RunRecord], folder: Path, against: str | None = "") -> pd.DataFrame:
    """One row per entry; of the optional ones of an embedded suite, only what was run. Of records, only this suite's.

    Args:
        suite: whose entries are the rows.
        records: what was run of them.
        folder: of the records' predictions.
        against: the entry that all others are set against; empty: random architectures; None: nothing.

    Raises:
        ValueError: records disagree on videos, or were made under another budget or protocol than the suite's; or
            ``against`` is no entry, or has no records.
    """
    runs = runs_of(suite, records)
    suite, records = with_own(suite, records), [r for mine in runs.values() for r in mine]
    for r in records:
        protocol = json.loads(json.dumps(asdict(suite.of(suite.entry(r.entry)).protocol)))
        if r.model.budget != (suite.gmacs or r.model.gmacs) or r.data.protocol != protocol:
            raise ValueError(
                f"record {r.entry} seed {r.seed} was made under another budget ({r.model.budget:g}) or protocol than "
                f"suite {suite.name!r} has now; remove its records and run the suite again"
            )
    manifests = {(r.data.train_manifest, r.data.test_manifest) for r in records}
    if len(manifests) > 1:
        raise ValueError(
            f"records of suite {suite.name!r} are of {len(manifests)} different manifests "
            f"({', '.join(sorted(test for _, test in manifests))}); run the suite again on one copy of {suite.dataset}"
        )
    if suite.size:
        runs = {name: of for name, of in runs.items() if of or not suite.entry(name).optional}
    several = len({r.throughput.device for r in records} | {r.provenance.device for r in records}) > 1
    frame = pd.DataFrame([_row(suite, suite.entry(name), of, folder, several) for name, of in runs.items()])
    if against or (against is not None and any(e.variants > 1 for e in suite.entries)):
        place = frame.columns.get_loc("top-5 % [95 %]")
        frame.insert(place, f"− {against or 'random'}, points [95 %]", _against(suite, runs, folder, against))
    return frame


def title(suite: Suite, records: list[RunRecord]) -> str:
    """Name of the data, the budget, and on what it was measured."""
    mine = [r for r in records if r.suite == suite.name]
    text = f"{suite.dataset} " + (f"at {suite.gmacs:g} GMACs/view" if suite.gmacs else "by the authors' own recipes")
    if mine:
        devices = sorted({r.provenance.device for r in mine})
        partial = "; a **partial copy** of the data set" if any(r.data.partial for r in mine) else ""
        absent, skipped = (
            max(map(n, mine)) for n in (lambda r: r.data.train_absent, lambda r: len(r.data.train_skipped))
        )
        lost = f"; trained without {absent} missing and {skipped} undecodable videos" if absent or skipped else ""
        text += f" (test manifest {mine[0].data.test_manifest}; {'; '.join(devices)}{partial}{lost})"
    return text


def rendered(suite: Suite, results: Path, against: str = "") -> dict[str, str]:
    """A suite's table as it should stand in ``results/tables``: Markdown and CSV, by suffix; see ``table``."""
    folder = results / "records" / suite.name
    records = load_all(folder)
    frame = table(suite, records, folder, against)
    if suite.published is None:  # a literature value has no place beside embedded videos
        frame = frame.drop(columns=["literature top-1 %", "literature source"])
    parts = f"## {title(suite, records)}", frame.to_markdown(index=False, disable_numparse=True), _notes(suite, against)
    markdown = "\n\n".join(parts) + "\n"
    return {".md": markdown, ".csv": frame.to_csv(index=False)}


def render(suite: Suite, results: Path) -> str:
    """Make a suite's table, write it as Markdown and CSV to ``results/tables``, and return the Markdown."""
    texts = rendered(suite, results)
    for suffix, text in texts.items():
        write_atomic(results / "tables" / f"{suite.name}{suffix}", lambda p, text=text: p.write_text(text))
    return texts[".md"]


def _notes(suite: Suite, against: str) -> str:
    notes = [
        "GMACs: multiply-accumulates of convolutions, linear layers and attention products at the test crop; "
        f"GFLOPs = 2 × GMACs. Residual: against the budget. {INTERVALS} "
        "clips/s: forward passes of one view, fp32, spread = interquartile range / median.",
    ]
    if suite.gmacs or against:
        notes.append(
            f"− {against or 'random'}: top-1 minus that of {against or RANDOM}; interval bootstrapped over videos in "
            "common, the spread over runs by Student's t; a model of one run has no spread over runs in it. ▲ better, "
            "▼ worse: holds at 5 % after Holm's correction over the table."
        )
    if not suite.gmacs:
        notes.append(
            "Each model is trained and tested as its authors do, as far as its recipe in configs/native says: rows "
            "differ in far more than the model."
        )
    if suite.published:
        notes.append(
            "Literature values are the papers' or model zoos' own, at their own settings and budgets; they are not "
            "measurements of this suite and not matched to its budget."
        )
    else:
        notes.append("The embedded synthetic videos: numbers here say nothing about Kinetics or Something-Something.")
    return "\n".join(f"- {n}" for n in notes)
