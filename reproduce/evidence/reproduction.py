"""Does a user's run agree with the reference? They are compared row by row, and each row gets a verdict.

The rule. A row is one architecture of an entry, with all its seeds.

- *identical*: every run has a reference run of the same seed, and all answers are the same: for each video the class
  with the highest score, and the rank of the right class.
- *reproduced*: the difference of top-1, own minus reference, is inside the interval in which two draws of the same runs
  differ. It is paired by video, and of the same seeds where the reference has them; the spread of runs is the
  reference's, pooled (``statistics.spreads``). Two runs of the same seed count as independent, which is the worst case:
  where kernels or threads differ, a seed fixes little. The intervals hold for all rows of a suite together (Bonferroni,
  over the rows that are not identical). Each is of 97.5 % before that, since the spread is an estimate: so 2 % of
  simulated rows without a fault are outside, and one or more of eight in 2 to 5 % of simulated reproductions.
- *not reproduced*: the difference is outside.
- *no reference*: there is no run of the same entry, data, protocol, budget, recipe and network; or there is
  one run only and the spread of runs is not known.

Device, threads and code may differ, and the summary says so. How often the rule raises a false alarm, and how often it
finds a loss of 5 points: ``python -m reproduce.studies.verdicts``.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from reproduce.evidence.statistics import LEVEL, Difference, answers, between, spreads_of
from reproduce.records import Kind, RunRecord, kind, load_all
from reproduce.spec import lasting, run_id
from reproduce.suites import Suite

IDENTICAL, REPRODUCED, NOT_REPRODUCED, NO_REFERENCE = "identical", "reproduced", "not reproduced", "no reference"
WIDTH = 100  # columns of a terminal
RATE = LEVEL / 2  # of the intervals, see above


@dataclass(frozen=True)
class Row:
    """One architecture of an entry.

    Attributes:
        name: entry, with the number of the architecture where there are several.
        own: the user's records.
        reference: the records that they are compared with; of the same seeds, if there are any.
        verdict: see the module.
        reason: why there is no reference.
        difference: top-1, own minus reference; None where identical or without reference.
    """

    name: str
    own: tuple[RunRecord, ...]
    reference: tuple[RunRecord, ...] = ()
    verdict: str = NO_REFERENCE
    reason: str = ""
    difference: Difference | None = None


@dataclass(frozen=True)
class Reproduction:
    """All rows of a suite."""

    suite: str
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """Rows that are not reproduced."""
        return tuple(row for row in self.rows if row.verdict == NOT_REPRODUCED)

    @property
    def doubt(self) -> str:
        """Why the reference is not reproduced, for ``--strict``; empty if it is."""
        if self.failed:
            return f"not reproduced: {', '.join(row.name for row in self.failed)}"
        if all(row.verdict == NO_REFERENCE for row in self.rows):
            return "no row was compared, since none has a reference; why is said above"
        return ""

    @property
    def summary(self) -> str:
        """One line: the number of rows of each verdict, and the machines."""
        counts = Counter(row.verdict for row in self.rows)
        order = [v for v in (IDENTICAL, REPRODUCED, NOT_REPRODUCED, NO_REFERENCE) if counts[v]]
        first, *others = (f"{counts[v]}{f' of {len(self.rows)}' * (i == 0)} {v}" for i, v in enumerate(order))
        own, reference = (
            _machines([r for row in self.rows for r in row.own]),
            _machines([r for row in self.rows for r in row.reference]),
        )
        pairs = [(kind(row.own[0]).numerics, kind(row.reference[0]).numerics) for row in self.rows if row.reference]
        code = "; the code computes otherwise than the reference's" if any(a != b for a, b in pairs) else ""
        there = f"; reference: {'the same' if own == reference else reference}" if reference else ""
        return f"{', '.join((first, *others))}; {own}{there}{code}"

    def render(self) -> str:
        """For a terminal of 100 columns."""
        lines = [f"{self.suite}: own runs beside the reference", f"{'':<28}  {'own':>5}  {'reference':>9}  difference"]
        lines[1] = f"{lines[1]:<77}verdict"
        for row in self.rows:
            d = row.difference
            points = f"{d.points:+.1f} [{d.low:+.1f}, {d.high:+.1f}] points" if d else "–"
            name = row.name if len(row.name) <= 28 else row.name[:27] + "…"
            reference = f"{_top1(row.reference):.1f}" if row.reference else "–"
            lines.append(f"{name:<28}  {_top1(row.own):>5.1f}  {reference:>9}  {points:<29} {row.verdict}")
        reasons = {row.reason: [r.name for r in self.rows if r.reason == row.reason] for row in self.rows if row.reason}
        notes = [f"No reference for {', '.join(names)}: {reason}." for reason, names in reasons.items()]
        notes.append(f"{self.summary}.")
        return "\n".join((*lines, "", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)))


def reproduction(suite: Suite, own: Path, reference: Path) -> Reproduction:
    """Compare a user's records with the reference's.

    Args:
        suite: whose records.
        own: folder of results.
        reference: the other.

    Raises:
        ValueError: the two folders are the same, or there is no record of the user.
        RecordError: a record or its predictions cannot be read, or were edited.
    """
    here, there = (folder / "records" / suite.name for folder in (own, reference))
    if here.resolve() == there.resolve():
        raise ValueError(f"{own} is the reference itself; record runs of your own elsewhere: RESULTS=")
    mine, theirs = load_all(here), load_all(there)
    if not mine:
        raise ValueError(f"{here} has no records to set beside the reference; run the suite first")
    groups: dict[tuple[str, int, Kind], list[RunRecord]] = {}
    for r in mine:
        groups.setdefault((r.entry, r.variant, kind(r)), []).append(r)
    order = {e.name: i for i, e in enumerate(suite.entries)}
    rows = [
        _row(suite, of, [r for r in theirs if (r.entry, r.variant) == key[:2]], here, there)
        for key, of in sorted(groups.items(), key=lambda x: (order.get(x[0][0], len(order)), x[0][:2]))
    ]
    videos = {(r.data.train_manifest, r.data.test_manifest) for r in mine}
    known = spreads_of([(r, there) for r in theirs if (r.data.train_manifest, r.data.test_manifest) in videos])
    open_rows = sum(row.verdict == REPRODUCED for row in rows)
    return Reproduction(suite.name, tuple(_judged(row, here, there, known, RATE / max(1, open_rows)) for row in rows))


def comparable(own: RunRecord, reference: RunRecord) -> str:
    """Why a record is no reference for another; empty if it is one. Seed, device, threads and code may differ."""
    a, b = own.spec, reference.spec
    if (own.data.train_manifest, own.data.test_manifest) != (
        reference.data.train_manifest,
        reference.data.test_manifest,
    ):
        return "the reference is of other data"
    if own.data.protocol != reference.data.protocol:
        return "the reference is of another protocol"
    if own.model.budget != reference.model.budget:
        return f"the reference is of another budget ({reference.model.budget:g} GMACs)"
    if (a is None) != (b is None):
        return f"the {'own' if a is None else 'reference'} record is old and does not hold its recipe"
    if a is None:
        return "" if kind(own).recipe == kind(reference).recipe else "the reference is of another recipe"
    old, new = lasting(b.recipe), lasting(a.recipe)
    if old != new:
        keys = sorted(k for k in {**old, **new} if old.get(k) != new.get(k))
        return f"the reference is of another recipe ({', '.join(keys)})"
    if a.source != b.source or (a.net != b.net and not own.search):  # a search may find another architecture
        return "the reference is of another network"
    return ""


def _row(suite: Suite, own: list[RunRecord], candidates: list[RunRecord], here: Path, there: Path) -> Row:
    """The row with its reference chosen: of one kind, nearest in kind, with seeds in common; not judged yet."""
    own = sorted(own, key=lambda r: r.seed)
    name = run_id(own[0].entry, own[0].variant, 0).removesuffix("-s0")
    reasons = [comparable(own[0], r) for r in candidates]
    groups: dict[Kind, list[RunRecord]] = {}
    for r, reason in zip(candidates, reasons, strict=True):
        if not reason:
            groups.setdefault(kind(r), []).append(r)
    if not groups:
        return Row(name, tuple(own), reason=reasons[0] if reasons else "there is none of this entry")
    seeds, mine = {r.seed for r in own}, kind(own[0])
    found = max(
        groups.items(),
        key=lambda x: (sum(a == b for a, b in zip(x[0], mine, strict=True)), len(seeds & {r.seed for r in x[1]})),
    )[1]
    by_seed = {r.seed: r for r in found}
    if seeds <= by_seed.keys():
        pairs = [(r, by_seed[r.seed]) for r in own]
        same = all(answers(a, here).equals(answers(b, there)) for a, b in pairs)
        return Row(name, tuple(own), tuple(b for _, b in pairs), IDENTICAL if same else REPRODUCED)
    return Row(name, tuple(own), tuple(found), REPRODUCED)


def _judged(row: Row, here: Path, there: Path, known: dict, level: float) -> Row:
    """The row with difference and verdict, if it is to be tested."""
    if row.verdict != REPRODUCED:
        return row
    d = between([(r, here) for r in row.own], [(r, there) for r in row.reference], known, level=level)
    if not d.known:
        return replace(row, verdict=NO_REFERENCE, reason="it is of one run, and how runs spread is not known")
    return replace(row, difference=d, verdict=REPRODUCED if d.low <= 0 <= d.high else NOT_REPRODUCED)


def _top1(records: tuple[RunRecord, ...]) -> float:
    return 100 * sum(r.result.top1 / r.result.n for r in records) / len(records)


def _machines(records: list[RunRecord]) -> str:
    made = sorted({(r.provenance.device, r.provenance.threads) for r in records}, key=str)
    return "; ".join(
        f"{device}, {'unknown' if threads is None else threads} thread{'s' * (threads != 1)}"
        for device, threads in made
    )
