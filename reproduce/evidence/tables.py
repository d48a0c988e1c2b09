"""Tables from records: one per suite, never mixing data sets; what was not run says so."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from reproduce.budget import BudgetError
from reproduce.evidence.reference import REFERENCE
from reproduce.evidence.statistics import (
    LEVEL,
    Difference,
    Spread,
    accuracy_interval,
    between,
    chance_level,
    holm,
    labels,
    learned,
    of_family,
    outcomes,
    per_architecture,
    spreads_of,
)
from reproduce.records import UNPROVEN, Kind, RunRecord, Throughput, kind, load_all
from reproduce.suites import Entry, Suite, difference
from reproduce.whole_files import write_atomic

WIDTH = 100  # columns of a terminal
NOT_RUN = "not run"
OUT_OF_REACH = "out of reach"
ONE_RUN = "one run"
NOT_SHOWN = "not shown"
DID_NOT_LEARN = "did not learn"
CONTROL = "control"
FLIPPED = {"better": "worse", "worse": "better"}
TITLES = {
    "slowfast": "SlowFast",
    "slow": "Slow",
    "x3d": "X3D",
    "tsm": "TSM",
    "mvit": "MViT",
    "movinet": "MoViNet",
    "auto_tsnet_uniform": "Auto-TSNet (uniform)",
    "auto_tsnet_random": "Auto-TSNet (random)",
    "auto_tsnet": "Auto-TSNet (searched)",
    "assemblenet": "AssembleNet",
    "assemblenet_random": "AssembleNet (random)",
    "assemblenet_searched": "AssembleNet-style (searched)",
    "pvnas_random": "PV-NAS-style (random)",
    "pvnas": "PV-NAS-style (searched)",
    "tiny_video_net": "Tiny Video Network",
    "tiny_video_net_random": "Tiny Video Network (random)",
    "tiny_video_net_searched": "Tiny Video Network (searched)",
    "e3d": "E3D",
    "e3d_random": "E3D (random)",
    "e3d_searched": "E3D (searched)",
    "auto_x3d_random": "Auto-X3D-style (random)",
    "auto_x3d": "Auto-X3D-style (searched)",
    "evanet_a": "EvaNet (A)",
    "evanet_b": "EvaNet (B)",
    "evanet_random": "EvaNet-style (random)",
    "evanet_searched": "EvaNet-style (searched)",
}
RANDOM = "random architectures, of the space that a model was searched in, else of Auto-TSNet's"
INTERVALS = (
    "Intervals of accuracies: over videos (Wilson) and over runs (Student's t). How runs that differ in the seed only "
    "spread is pooled over the suite: a family's variance is moderated by those of all, and serves for one run too. Of "
    "several architectures, their own spread counts."
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
    """Accuracy of the nearest native variant in a paper or model zoo, and its source; two dashes if there is none."""
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


def title_of(name: str) -> str:
    """An entry's name for a reader."""
    return TITLES.get(name, name)


def accuracy(
    records: list[RunRecord], folder: Path, k: int = 1, known: dict[str, Spread] | None = None
) -> tuple[float, tuple[float, float]]:
    """Mean top-k of a model's runs and its interval over videos and runs, in percent.

    Args:
        records: of one model.
        folder: of their predictions.
        k: 1 or 5.
        known: spreads of runs by family, of the same ``k``.
    """
    right = per_architecture(outcomes([(r, folder) for r in records], k=k), records)
    return float(100 * right.sum() / right.size), accuracy_interval(right, of_family(known or {}, records))


@dataclass(frozen=True)
class Row:
    """One line of a suite's table: the runs of one kind of an entry, which differ in seed and architecture only.

    Attributes:
        name: of the entry.
        title: of the entry, for a reader.
        kind: how these runs differ from the suite as it is now, or from the entry's other lines; mostly empty.
        note: of the entry.
        records: its runs; empty: not run.
        dots: top-1 of each run, percent.
        top1: mean over runs, or over the means of several architectures, percent.
        low: end of its 95 % interval over videos and runs.
        high: the other end.
        top5: like ``top1``.
        top5_low: end of its interval.
        top5_high: the other end.
        n: test videos.
        chance: top-1 of a model that knows nothing, percent.
        learned: the accuracy is shown to be above chance, see ``statistics.learned``.
        control: name of the entry that it is compared with; empty: none.
        difference: top-1 minus the control's; None where one of them was not run.
        p: of the difference, after Holm's correction over all differences of the table that allow a claim.
        verdict: ``better`` or ``worse`` than the control; ``not shown``; ``one run``: the spread of runs is not known;
            ``did not learn``, ``budget missed``, ``another recipe``: of it or its control, without a claim;
            ``control``; ``not run``; ``out of reach``: no member of the family meets the budget.
        rank: by top-1, those that did not learn last; None without records.
        gmacs: per view; None: not known before a search.
        params: number of parameters.
        residual: of GMACs against the budget, the largest of its runs.
        matched: the residual is within the tolerance.
        speed: of the median run on the device that most were timed on.
        cost: of the search, as text.
        tuning: what the recipe's values took, as text.
        on_sets: top-1 and the ends of its interval on classes that need time and on those that do not, by name; of
            real data, where such sets are known.
    """

    name: str
    title: str
    kind: str = ""
    note: str = ""
    records: tuple[RunRecord, ...] = ()
    dots: tuple[float, ...] = ()
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    top5: float | None = None
    top5_low: float | None = None
    top5_high: float | None = None
    n: int = 0
    chance: float | None = None
    learned: bool = True
    control: str = ""
    difference: Difference | None = None
    p: float | None = None
    verdict: str = NOT_RUN
    rank: int | None = None
    gmacs: float | None = None
    params: float | None = None
    residual: float | None = None
    matched: bool = True
    speed: Throughput | None = None
    cost: str = NOT_RUN
    tuning: str = NOT_RUN
    on_sets: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The entry with its note and kind, for a reader."""
        known = "; ".join(text for text in (self.note, self.kind) if text)
        return self.name + (f" ({known})" if known else "")

    @property
    def mark(self) -> str:
        """▲ better than the control, ▼ worse; else empty."""
        return {"better": "▲", "worse": "▼"}.get(self.verdict, "")

    @property
    def verdict_cell(self) -> str:
        """The verdict, its mark first."""
        return f"{self.mark} {self.verdict}".strip()

    @property
    def sure(self) -> str:
        """How sure the verdict is."""
        if self.p is None:
            return self.verdict if self.verdict == ONE_RUN else "–"
        return "p < 0.001" if self.p < 0.001 else f"p = {self.p:.{3 if self.p < 0.1 else 2}f}"


def rows(suite: Suite, results: Path, against: str = "") -> list[Row]:
    """The lines of a suite's table, in the suite's order.

    Args:
        suite: whose entries are the lines.
        results: folder of records.
        against: the entry that all others are compared with; empty: random architectures, see ``Suite.control``.

    Raises:
        ValueError: see ``table``.
    """
    folder = results / "records" / suite.name
    return rows_of(suite, load_all(folder), folder, against)


def rows_of(suite: Suite, records: list[RunRecord], folder: Path, against: str | None) -> list[Row]:
    """See ``rows`` and ``table``."""
    runs = runs_of(suite, records)
    suite = with_own(suite, records)
    if against and not runs[suite.entry(against).name]:
        raise ValueError(f"{against} has no records in suite {suite.name!r} to set the others against")
    _check(suite, [r for of in runs.values() for r in of])
    if suite.size:
        runs = {name: of for name, of in runs.items() if of or not suite.entry(name).optional}
    mine = [r for of in runs.values() for r in of]
    known, known5 = known_spreads(suite, mine, folder), known_spreads(suite, mine, folder, k=5)
    level = chance(suite, mine, folder)
    found = []
    for name, of in runs.items():
        entry = suite.entry(name)
        for what, same in kinds(suite, entry, of) or [("", [])]:
            found.append(_row(suite, entry, what, same, folder, level, (known, known5)))
    found = _set_against(suite, found, folder, known, against)
    order = sorted((r for r in found if r.records), key=lambda r: (not r.learned, -r.top1))
    places = {id(r): i for i, r in enumerate(order, 1)}
    return [replace(r, rank=places.get(id(r))) for r in found]


def _check(suite: Suite, records: list[RunRecord]) -> None:
    """Refuse records of another budget or protocol than the suite's, or of several manifests."""
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


def kinds(suite: Suite, entry: Entry, records: list[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    """An entry's records by kind, see ``records.kind``, each kind with its differences; the suite's own first."""
    groups: dict[Kind, list[RunRecord]] = {}
    for r in records:
        groups.setdefault(kind(r), []).append(r)
    differs = {k: _differs(suite, entry, of[0]) for k, of in groups.items()}
    found = []
    for k, of in groups.items():
        like = [other for other in groups if differs[other] == differs[k]]
        texts = dict(
            network=f"network {k.network}",
            recipe=f"recipe {k.recipe.removeprefix('old ')}",
            numerics=f"arithmetic {k.numerics or 'unknown'}",
            device=_short(k.device),
            threads=f"{k.threads or 'unknown'} thread{'s' * (k.threads != 1)}",
            ranks=f"{k.ranks} ranks",
        )
        fields = [f for f in Kind._fields if len({getattr(other, f) for other in like}) > 1]
        what = ", ".join(text for text in (differs[k], *(texts[f] for f in fields)) if text)
        found.append((bool(differs[k]), -len(of), what, of))
    return [(what, of) for *_, what, of in sorted(found, key=lambda x: x[:3])]


def _differs(suite: Suite, entry: Entry, record: RunRecord) -> str:
    """How a record's recipe differs from the suite's; empty if it does not."""
    if record.spec is None:
        return "old record"
    if entry.config is None:  # a user's model: its recipe is its own
        return ""
    try:
        what = difference(record, suite, entry)
    except BudgetError:
        what = "another network"
    return f"{what} than the suite's" if what else ""


def _short(device: str) -> str:
    """A processor's name without what all of them have."""
    return re.sub(r"\((R|TM)\)|,? \d+ cores| Processor", "", device).strip()


def _row(
    suite: Suite,
    entry: Entry,
    what: str,
    records: list[RunRecord],
    folder: Path,
    level: float | None,
    known: tuple[dict[str, Spread], dict[str, Spread]],
) -> Row:
    effort = dict(cost=_search_cost(entry, records), tuning=_tuning_cost(suite, records))
    row = Row(entry.name, title_of(entry.name), what, entry.note, tuple(records), **effort)
    as_run, costs = suite.of(entry), [r.model for r in records]
    if not costs and not entry.search:
        try:
            costs = [as_run.solution(entry)]
        except BudgetError:
            return replace(row, verdict=OUT_OF_REACH)
    if costs:
        row = replace(
            row,
            gmacs=sum(c.gmacs for c in costs) / len(costs),
            params=sum(c.params for c in costs) / len(costs),
            residual=max((c.residual for c in costs), key=abs),
            matched=all(c.matched for c in costs),
        )
    if not records:
        return row
    top1, (low, high) = accuracy(records, folder, 1, known[0])
    top5, (low5, high5) = accuracy(records, folder, 5, known[1])
    n = records[0].result.n
    device, _ = Counter(r.throughput.device for r in records).most_common(1)[0]
    return replace(
        row,
        dots=tuple(100 * r.result.top1 / r.result.n for r in records),
        top1=top1,
        low=low,
        high=high,
        top5=top5,
        top5_low=low5,
        top5_high=high5,
        n=n,
        chance=level,
        learned=learned(top1 / 100, n, level / 100),
        speed=median_speed(records, device),
        on_sets=_on_sets(suite, records, folder, known[0]) if suite.root else {},
    )


def _on_sets(
    suite: Suite, records: list[RunRecord], folder: Path, known: dict[str, Spread]
) -> dict[str, tuple[float, float, float]]:
    right, found = per_architecture(outcomes([(r, folder) for r in records]), records), {}
    for name, of in suite.class_sets.items():
        mine = right[:, np.isin(labels(records[0], folder), of)]
        if mine.size:
            found[name] = (float(100 * mine.mean()), *accuracy_interval(mine, of_family(known, records)))
    return found


def _set_against(
    suite: Suite, found: list[Row], folder: Path, known: dict[str, Spread], against: str | None
) -> list[Row]:
    """The rows with the control, the difference and the verdict."""
    controls = dict.fromkeys((r.name for r in found), "")
    if against:
        controls = {name: "" if name == against else against for name in controls}
    elif against is not None:
        controls = {name: (c.name if (c := suite.control(suite.entry(name))) else "") for name in controls}
    rivals = [_rival(row, [r for r in found if r.name == controls[row.name] and r.records]) for row in found]
    out = [_judged(row, controls[row.name], rival, folder, known) for row, rival in zip(found, rivals, strict=True)]
    return _after_holm(out)


def _rival(row: Row, candidates: list[Row]) -> Row | None:
    """The control's row whose kind has most in common with this row's."""
    if not row.records or not candidates:
        return None
    mine = kind(row.records[0])
    return max(candidates, key=lambda c: sum(a == b for a, b in zip(mine, kind(c.records[0]), strict=True)))


def _judged(row: Row, control: str, rival: Row | None, folder: Path, known: dict[str, Spread]) -> Row:
    """The row with its difference, before Holm's correction; whether it is shown stays open."""
    row = replace(row, control=control)
    if not row.records:
        return row
    if rival is None:
        verdict = DID_NOT_LEARN if not row.learned else NOT_RUN if control else CONTROL
        return replace(row, verdict=verdict)
    found = between([(r, folder) for r in row.records], [(r, folder) for r in rival.records], known)
    pair = row, rival
    if not all(r.learned for r in pair):
        verdict = DID_NOT_LEARN
    elif not all(r.matched for r in pair):
        verdict = "budget missed"
    elif any(r.kind.startswith("another") and not r.kind.startswith("another numerics") for r in pair):
        verdict = "another recipe"
    else:
        verdict = NOT_SHOWN if found.known else ONE_RUN
    return replace(row, difference=found, verdict=verdict)


def _after_holm(found: list[Row]) -> list[Row]:
    """Rows whose difference may be claimed get their adjusted p-value, and the verdict where it holds."""
    claims = [r for r in found if r.verdict == NOT_SHOWN]
    adjusted = dict(zip(map(id, claims), holm([r.difference.p for r in claims]), strict=True))
    out = []
    for r in found:
        if id(r) in adjusted:
            p = float(adjusted[id(r)])
            holds = ("better" if r.difference.points > 0 else "worse") if p < LEVEL else NOT_SHOWN
            r = replace(r, p=p, verdict=holds)
        out.append(r)
    return out


def known_spreads(suite: Suite, records: list[RunRecord], folder: Path, k: int = 1) -> dict[str, Spread]:
    """The spread of runs by family, see ``statistics.spreads``: of these records and the ``borrowed`` ones."""
    reference = REFERENCE / "records" / suite.name
    runs = [(r, folder) for r in _repeated(records)]
    return spreads_of(runs + [(r, reference) for r in borrowed(suite, records, folder)], k)


def borrowed(suite: Suite, records: list[RunRecord], folder: Path) -> list[RunRecord]:
    """Runs of the reference, of the same videos and budget, where these records have no second run."""
    reference = REFERENCE / "records" / suite.name
    if not records or folder.resolve() == reference.resolve():
        return []
    first, there = records[0], {(r.entry, r.variant) for r in _repeated(records)}
    return _repeated(
        r
        for r in load_all(reference)
        if (r.entry, r.variant) not in there
        and (r.data.train_manifest, r.data.test_manifest) == (first.data.train_manifest, first.data.test_manifest)
        and r.model.budget == first.model.budget
    )


def _repeated(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Those that differ from another in the seed only."""
    keys = [(r, (r.entry, r.variant, kind(r))) for r in records]
    counts = Counter(key for _, key in keys)
    return [r for r, key in keys if counts[key] > 1]


def chance(suite: Suite, records: list[RunRecord], folder: Path) -> float | None:
    """Top-1 of a model that knows nothing, percent: one class of all, or the most frequent among the test videos."""
    return 100 * chance_level(labels(records[0], folder), suite.classes) if records else None


def _cells(suite: Suite, row: Row, several: bool) -> dict[str, object]:
    """A row as text, by column."""
    entry = suite.entry(row.name)
    as_run = suite.of(entry)
    protocol, sampling, crops = as_run.protocol, as_run.protocol.sampling, as_run.protocol.crops
    value, source = literature(suite, entry)
    cells: dict[str, object] = {
        "model": row.label,
        "rank": row.rank or "–",
        "frames×crop": f"{sampling.frames}×{crops.test_size}²",
        "views": protocol.view_text,
    }
    if not suite.protocol:
        how = f"dense, stride {sampling.stride}" if sampling.kind == "dense" else "one frame per segment"
        cells["native protocol"] = f"{how}; trained at {crops.size}²"
    if row.gmacs is not None:
        cells |= {
            "GMACs/view": f"{row.gmacs:.4g}",
            "GMACs/video": f"{row.gmacs * protocol.views:.4g}",
            "GFLOPs/view": f"{2 * row.gmacs:.4g}",
            "params M": f"{row.params / 1e6:.3g}",
            "residual %": (f"{100 * row.residual:+.2f}" + ("" if row.matched else " **missed**"))
            if suite.gmacs
            else "not matched",
        }
    else:
        absent = OUT_OF_REACH if row.verdict == OUT_OF_REACH else NOT_RUN
        cells |= dict.fromkeys(("GMACs/view", "GMACs/video", "GFLOPs/view", "params M", "residual %"), absent)
    if row.records:
        architectures = len({r.variant for r in row.records})
        failed = max(len(r.result.failed) for r in row.records)
        speed = row.speed
        cells |= {
            "top-1 % [95 %]": f"{row.top1:.1f} [{row.low:.1f}, {row.high:.1f}]",
            "top-5 % [95 %]": f"{row.top5:.1f} [{row.top5_low:.1f}, {row.top5_high:.1f}]",
            "n": f"{row.n}" + (f" ({failed} failed, counted wrong)" if failed else ""),
            "seeds": f"{len({r.seed for r in row.records})}"
            + (f" × {architectures} architectures" if architectures > 1 else ""),
            "clips/s": f"{speed.clips_per_s:.3g} ±{100 * speed.spread:.0f} %"
            + (f" on {speed.device}" if several else ""),
            "train": f"{sum(r.training.wall_s for r in row.records) / len(row.records) / 60:.1f} min",
        }
    else:
        cells |= dict.fromkeys(("top-1 % [95 %]", "top-5 % [95 %]", "n", "seeds", "clips/s", "train"), NOT_RUN)
    return cells | {"search cost": row.cost, "literature top-1 %": value, "literature source": source}


def difference_cell(row: Row, first: str) -> str:
    """The cell of a row's difference; ``first`` is the control that the column's title names."""
    if row.difference is None:
        return "–" if row.records and not row.control else NOT_RUN
    d = row.difference
    return f"{d.points:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" + (
        "" if row.control == first else f" against {row.control}"
    )


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


def _tuning_cost(suite: Suite, records: list[RunRecord]) -> str:
    if not records:
        return NOT_RUN
    found = next((r.tuning for r in records if r.tuning), None)
    if found is None:
        return "none" if suite.gmacs else "authors'"
    return f"{found.trials} trials, {found.seconds / 60:.1f} {found.unit}-min"


def with_own(suite: Suite, records: list[RunRecord]) -> Suite:
    """The suite with an entry for each user's model in its records."""
    known = {e.name for e in suite.entries}
    own = {r.entry: Entry(r.entry, None, r.note) for r in records if r.suite == suite.name and r.entry not in known}
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
        against: the entry that all others are compared with; empty: random architectures; None: nothing.

    Raises:
        ValueError: records disagree on videos, or were made under another budget or protocol than the suite's; or
            ``against`` is no entry, or has no records.
    """
    return frame_of(suite, rows_of(suite, records, folder, against), against)


def frame_of(suite: Suite, found: list[Row], against: str | None) -> pd.DataFrame:
    """Rows as text; see ``table``."""
    mine = [r for row in found for r in row.records]
    suite = with_own(suite, mine)
    several = len({r.throughput.device for r in mine} | {r.provenance.device for r in mine}) > 1
    frame = pd.DataFrame([_cells(suite, row, several) for row in found])
    for name in suite.class_sets if any(row.on_sets for row in found) else ():
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*row.on_sets[name]) if name in row.on_sets else "–" for row in found]
        frame.insert(frame.columns.get_loc("n"), f"{name} classes, top-1 %", cells)
    if any(r.tuning for r in mine):
        frame.insert(frame.columns.get_loc("search cost"), "tuning", [row.tuning for row in found])
    if against or (against is not None and any(e.variants > 1 for e in suite.entries)):
        first = against or _first_control(suite)
        columns = {
            f"− {against or 'random'}, points [95 %]": [difference_cell(row, first) for row in found],
            "how sure": [row.sure for row in found],
            "verdict": [row.verdict_cell for row in found],
        }
        for i, (name, cells) in enumerate(columns.items(), frame.columns.get_loc("top-5 % [95 %]")):
            frame.insert(i, name, cells)
    return frame


def title(suite: Suite, records: list[RunRecord]) -> str:
    """Name of the data, the budget, and the devices of the measurement."""
    mine = [r for r in records if r.suite == suite.name]
    text = f"{suite.dataset} " + (f"at {suite.gmacs:g} GMACs/view" if suite.gmacs else "by the authors' own recipes")
    if mine:
        devices = sorted({r.provenance.device for r in mine})
        partial = "; a **partial copy** of the data set" if any(r.data.partial for r in mine) else ""
        anew = "".join(f"; videos **encoded anew** ({how})" for how in sorted({r.data.resized for r in mine} - {""}))
        absent, skipped = (
            max(map(n, mine)) for n in (lambda r: r.data.train_absent, lambda r: len(r.data.train_skipped))
        )
        lost = f"; trained without {absent} missing and {skipped} undecodable videos" if absent or skipped else ""
        text += f" (test manifest {mine[0].data.test_manifest}; {'; '.join(devices)}{partial}{anew}{lost})"
    return text


def rendered(suite: Suite, results: Path, against: str = "") -> dict[str, str]:
    """A suite's table as it should stand in ``results/tables``: Markdown and CSV, by suffix; see ``table``."""
    folder = results / "records" / suite.name
    records = load_all(folder)
    found = rows_of(suite, records, folder, against)
    frame = frame_of(suite, found, against)
    if suite.published is None:  # a literature value has no place beside embedded videos
        frame = frame.drop(columns=["literature top-1 %", "literature source"])
    parts = (
        f"## {title(suite, records)}",
        frame.to_markdown(index=False, disable_numparse=True),
        _notes(suite, found, against, bool(borrowed(suite, [r for row in found for r in row.records], folder))),
    )
    markdown = "\n\n".join(parts) + "\n"
    return {".md": markdown, ".csv": frame.to_csv(index=False)}


def render(suite: Suite, results: Path) -> str:
    """Make a suite's table, write it as Markdown and CSV to ``results/tables``, and return the Markdown."""
    texts = rendered(suite, results)
    for suffix, text in texts.items():
        write_atomic(results / "tables" / f"{suite.name}{suffix}", lambda p, text=text: p.write_text(text))
    return texts[".md"]


def verdict_sentence(suite: Suite, found: list[Row]) -> str:
    """A suite's rows in a sentence: Auto-TSNet's space against the best other model, its search against its space.

    Args:
        suite: the suite of the rows.
        found: from ``rows``; compared with another entry than the random architectures, they are counted by verdict.
    """
    suite = with_own(suite, [r for row in found for r in row.records])
    ran = list({r.name: r for r in reversed(found) if r.records}.values())[::-1]  # of several kinds the first
    if not ran:
        return "Nothing was run yet."
    if not any(r.learned for r in ran):
        return f"No model is shown to have learned: none is above chance ({ran[0].chance:.1f} %)."
    control = next((r for r in ran if r.name == _first_control(suite)), None)
    against = {r.control for r in ran if r.control}
    if control is None or control.control:  # random architectures were not run, or are set against another
        named = f"Against {title_of(against.pop())}: " if len(against) == 1 and control else ""
        groups: dict[str, list[str]] = {}
        for r in ran:
            groups.setdefault(r.verdict, []).append(r.title)
        groups.pop(CONTROL, None)
        if not named:
            best = min(ran, key=lambda r: r.rank)
            return (
                f"Best is {best.title}, {best.top1:.1f} % [{best.low:.1f}, {best.high:.1f}]; nothing is set against it."
            )
        return named + "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items()) + "."
    others = [r for r in ran if not suite.entry(r.name).search and not r.name.startswith("auto_tsnet") and r.learned]
    parts = []
    if others and control.learned:
        best = max(others, key=lambda r: r.top1)
        verdict = FLIPPED.get(best.verdict, best.verdict)
        parts.append(_claim("Auto-TSNet's space", best.title, -best.difference, verdict) + " at equal GMACs")
    searched = next((r for r in ran if r.name == "auto_tsnet" and r.control == control.name), None)
    if searched and searched.difference:
        subject = "its search" if parts else "Auto-TSNet's search"
        parts.append(_claim(subject, "random architectures of its space", searched.difference, searched.verdict))
    if not parts:
        parts = [f"{control.title}: {control.top1:.1f} % [{control.low:.1f}, {control.high:.1f}]; nothing to compare"]
    idle = [r.title for r in ran if not r.learned]
    lost = f" {', '.join(idle)} did not learn." if idle else ""
    return "; ".join(parts) + "." + lost


def _claim(a: str, b: str, d: Difference, verdict: str) -> str:
    """A difference a − b in words."""
    if verdict == "better":
        return f"{a} beats {b} by {d.points:.1f} points [{d.low:.1f}, {d.high:.1f}]"
    if verdict == "worse":
        return f"{a} loses to {b} by {-d.points:.1f} points [{-d.high:.1f}, {-d.low:.1f}]"
    reason = {NOT_SHOWN: "", ONE_RUN: "one run each, "}.get(verdict, f"{verdict}, ")
    return f"{a} is not shown to beat {b} ({reason}{d.points:+.1f} points [{d.low:+.1f}, {d.high:+.1f}])"


def terminal(suite: Suite, results: Path, against: str = "") -> str:
    """The verdicts of a suite in at most 100 columns, best first; then what they mean, and where the files are."""
    found = rows(suite, results, against)
    suite = with_own(suite, [r for row in found for r in row.records])
    first = against or _first_control(suite)
    own = "" if results.resolve() == REFERENCE.resolve() else f" RESULTS={shlex.quote(str(results))}"
    table, records = results / "tables" / f"{suite.name}.md", results / "records" / suite.name
    files = (
        *((f"Whole table: {table} and .csv",) if table.exists() else ()),
        *((f"Records and predictions: {records}",) if records.exists() else ()),
        *((f"A page with pictures: make report{own}",) if own else ()),
        f"Every number recomputed: make verify{own}"
        if records.exists()
        else f"To run it: python -m reproduce run {suite.ref}",
    )
    text = narrow(suite, found, "− " + brief(first, 19) if first else "", first, [verdict_sentence(suite, found)])
    return "\n".join((text, "", *files))


def narrow(suite: Suite, found: list[Row], column: str, first: str, notes: list[str]) -> str:
    """Rows in at most 100 columns, best first, and notes on them.

    Args:
        suite: whose rows.
        found: from ``rows``.
        column: title of the differences.
        first: name of the entry that they are to; rows with another control are marked.
        notes: that come first.
    """
    apart = {what: f"[{i}]" for i, what in enumerate(dict.fromkeys(r.kind for r in found if r.kind), 1)}
    lines = [
        suite.dataset + (f" at {suite.gmacs:g} GMACs/view" if suite.gmacs else ""),
        f"{'#':>2}  {'model':<24}  {'top-1 % [95 %]':<18}  {column:<21}  {'sure':<9}    verdict",
        "─" * WIDTH,
    ]
    for r in sorted(found, key=lambda r: (r.rank is None, r.rank or 0)):
        top1 = f"{r.top1:.1f} [{r.low:.1f}, {r.high:.1f}]" if r.records else "–"
        d = r.difference
        cell = f"{d.points:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" + "*" * (r.control != first) if d else "–"
        model = f"{brief(r.name, 20)} {apart.get(r.kind, '')}"
        lines.append(
            f"{r.rank or '–':>2}  {model:<24}  {top1:<18}  {cell:<21}  {r.sure:<9}  {r.mark or ' '} {r.verdict}"
        )
    notes = notes + [f"Chance: {r.chance:.1f} %." for r in found if r.records][:1]
    if any(r.difference and r.control != first for r in found):
        notes.append("*: minus random architectures of its own space.")
    if any(r.verdict == ONE_RUN for r in found):
        notes.append("One run: how runs spread is not known; with SEEDS=0,1,2 it is.")
    notes += [f"{sign}: {what}." for what, sign in apart.items()]
    return "\n".join((*lines, "", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)))


def _first_control(suite: Suite) -> str:
    """Name of the random architectures that all but the searched baselines are compared with; empty: none."""
    return next((e.name for e in suite.entries if e.variants > 1), "")


def brief(text: str, width: int) -> str:
    """A text, cut to so many columns."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _notes(suite: Suite, found: list[Row], against: str, borrows: bool) -> str:
    ran = [r for r in found if r.records]
    precision = " and ".join(sorted({r.speed.precision for r in ran})) or "as it was measured"
    notes = [
        "GMACs: multiply-accumulates of convolutions, linear layers and attention products at the test crop; "
        f"GFLOPs = 2 × GMACs. Residual: against the budget. {INTERVALS} "
        f"clips/s: forward passes of one view, {precision}, spread = interquartile range / median.",
    ]
    if borrows:
        notes.append("Models without two runs here are in that pool by the reference's, of the same videos and budget.")
    if ran:
        notes.append(
            f"Chance: {ran[0].chance:.1f} %, one class of all or the most frequent one. A model whose accuracy is not "
            "shown to be above it (at 5 %, over the videos of one run) did not learn: it is last, and not judged."
        )
    if suite.gmacs or against:
        notes.append(
            f"− {against or 'random'}: top-1 minus that of {against or RANDOM}; interval bootstrapped over videos in "
            "common, the spread over runs by Student's t. How sure: p after Holm's correction over the table; ▲ better "
            "and ▼ worse: below 5 %. One run: how runs spread is not known, so nothing is claimed."
        )
    if any(r.tuning for row in ran for r in row.records):
        notes.append(
            "Tuning: values of the recipe chosen by so many trials, on training videos and judged on others that are "
            "no test videos, and the time of all trials × the threads of each. None: the recipe as it stands."
        )
    if any(r.spec is None for row in ran for r in row.records):
        notes.append(f"Old record: it cannot prove {UNPROVEN}.")
    if not suite.gmacs:
        notes.append(
            "Each model is trained and tested as its authors do, as far as its recipe in configs/native says: rows "
            "differ in far more than the model."
        )
    if any(row.on_sets for row in ran):
        notes.append(
            "Temporal classes need time, static ones do not, random ones are for comparison: those of Only Time Can "
            "Tell; of Something-Something-V2 by our mapping from V1, without a class that its lists have in both."
        )
    if suite.published:
        notes.append(
            "Literature values are the papers' or model zoos' own, at their own settings and budgets; they are not "
            "measurements of this suite and not matched to its budget."
        )
    else:
        notes.append("The embedded synthetic videos: numbers here say nothing about Kinetics or Something-Something.")
    return "\n".join(f"- {n}" for n in notes)
