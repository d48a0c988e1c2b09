"""The gate: do the recipes still yield the expected values?

The expected values and their tolerances stand beside the recipes, in ``configs/<size>/<entry>.json``; each entry of the
tiny suite also has a tiny checkpoint there. There are four tiers, the cheapest first:

- ``instant``: GMACs, parameters, and the losses of the first steps on real clips;
- ``inference``: logits and accuracy of the tiny checkpoint on the tiny videos;
- ``speed``: the time of a forward pass ÷ that of a reference network, in several fresh processes, judged by a
  Mann-Whitney test; no other program should run;
- ``training``: the mean accuracy over seeds of each entry of the quick suites, within its recorded interval. Records
  that exist are used; with other folders (``RESULTS=fresh RUNS=fresh/runs``) everything is trained anew, in hours. If
  the interval would be wider than 10 points, nothing is expected, and the tier names the entry.

A quantity that is expected and no longer measured fails, too.

Only ``accept`` moves an expectation. It adds a line with the file's hash to ``results/CHANGES.md``: a file that was
edited in any other way fails ``check`` and ``verify``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu
from tabulate import tabulate

from reproduce.engine.runner import threads_of
from reproduce.evidence import quantities
from reproduce.evidence.quantities import GateError, Measured, platform
from reproduce.evidence.reference import REFERENCE, note
from reproduce.progress import Progress
from reproduce.records import git_commit
from reproduce.suites import CONFIGS, SUITES
from reproduce.whole_files import write_json

CHANGES = REFERENCE / "CHANGES.md"
TIERS = ("instant", "inference", "speed", "training")
QUICK = ("kinetics-quick", "ssv2-quick")  # suites of the tier of training; of the last the costs, too
ALPHA = 1e-3  # of the Mann-Whitney test: one false alarm in a thousand networks that are as slow as tolerated
WIDEST = 10.0  # points: an interval wider than that gates nothing
GONE = Measured("–")  # stands for a quantity that is expected and no longer measured


@dataclass(frozen=True)
class Row:
    """One line of the table of differences."""

    path: Path  # file of the expectation
    case: str
    quantity: str
    measured: Measured
    expected: dict | None  # as in the file
    verdict: str  # empty if as expected


def teach_missing(cache: Path, only: Sequence[str] = (), configs: Path = CONFIGS) -> None:
    """Train the tiny checkpoints that are not there."""
    for entry in quantities.ready(quantities.GATE, only):
        if not quantities.checkpoint(entry, configs).exists():
            quantities.teach(quantities.GATE, entry, cache, configs)


def measure(
    tiers: Sequence[str], cache: Path, runs: Path, results: Path, configs: Path = CONFIGS, only: Sequence[str] = ()
) -> Iterator[tuple[Path, str, dict[str, Measured]]]:
    """Measure all quantities of some tiers: the file of the expectations, the case, and the values by quantity.

    The last ones are ``GONE``: what the files expect of these tiers, or of entries that do not exist any more, and
    nothing measures.

    Raises:
        ValueError: unknown tier or entry.
    """
    unknown = sorted(set(tiers) - set(TIERS))
    if unknown:
        raise ValueError(f"unknown tier {unknown[0]!r}; known: {', '.join(TIERS)}")

    todo = []
    if {"instant", "inference", "speed"} & set(tiers):
        todo += [(quantities.GATE, "gate", e) for e in quantities.ready(quantities.GATE, only)]
    if "instant" in tiers:
        todo += [(SUITES[QUICK[-1]], QUICK[-1], e) for e in quantities.ready(SUITES[QUICK[-1]], only)]
    if "training" in tiers:
        todo += [(SUITES[name], f"{name} trained", e) for name in QUICK for e in SUITES[name].entries]
    todo = [(suite, case, e) for suite, case, e in todo if not only or e.name in only]
    unknown = sorted(set(only) - {e.name for _, _, e in todo})
    if unknown:
        raise ValueError(f"these tiers check nothing of {unknown[0]!r}; without --only they say what they check")
    gated = [e for _, case, e in todo if case == "gate"]
    ratios = quantities.speeds(quantities.GATE, gated) if "speed" in tiers and gated else {}
    seen = set()
    with Progress("gate", len(todo)) as progress:
        for suite, case, entry in todo:
            path, out = configs / suite.size / f"{entry.name}.json", {}
            if case.endswith("trained"):
                seeds = _expectations(path).get(case, {}).get("top-1 %", {}).get("seeds", ())
                out |= quantities.training(suite, entry, cache, runs, results, seeds)
            elif "instant" in tiers:
                out |= quantities.cost(suite, entry)
            if case == "gate":
                with threads_of(dict(threads=1)):
                    if "instant" in tiers:
                        out |= quantities.first_losses(suite, entry, cache)
                    if "inference" in tiers:
                        out |= quantities.inference(suite, entry, cache, configs)
                if "speed" in tiers:
                    out[quantities.SPEED] = ratios[entry.name]
            seen |= {(path, case, name) for name in out}
            if "checkpoint" in out:  # it says why its tier measured nothing
                seen |= {(path, case, name) for name in quantities.INFERENCE}
            yield path, case, out
            progress.step(note=f"{case} {entry.name}")
    for path in sorted(configs.glob("*/*.json")):
        if only and path.stem not in only:
            continue
        known = (path.parent.name, path.stem) in _gated()
        for case, expected in _expectations(path).items():
            asked = (name for name in expected if not known or tier(case, name) in tiers)
            gone = {name: GONE for name in asked if (path, case, name) not in seen}
            if gone:
                yield path, case, gone


def tier(case: str, quantity: str) -> str:
    """The tier that measures a quantity of a case."""
    if case.endswith("trained"):
        return "training"
    return "inference" if quantity in quantities.INFERENCE else "speed" if quantity == quantities.SPEED else "instant"


def _gated() -> set[tuple[str, str]]:
    """Folder and name of the files of expectations that there may be."""
    suites = quantities.GATE, *(SUITES[name] for name in QUICK)
    return {(suite.size, entry.name) for suite in suites for entry in suite.entries}


def _expectations(path: Path) -> dict[str, dict[str, dict]]:
    """The expectations in a file, by case and quantity; empty if there is no file.

    Raises:
        GateError: ``accept`` cannot have written the file.
    """
    if not path.exists():
        return {}
    try:
        file = json.loads(path.read_text())
        for case in file.values():
            for expected in case.values():
                np.shape(expected["expected"]), np.asarray(expected["tolerance"], float)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"{path} is no file of expectations ({error!r}); restore it: git checkout {path}") from error
    return file


def judge(measured: Measured, expected: dict | None, here: str) -> str:
    """Why a value is not as expected; empty if it is as expected.

    Args:
        measured: the value of now.
        expected: ``expected``, ``tolerance`` and, where it matters, ``platform``; None: there is no expectation.
        here: this platform.
    """
    if measured is GONE:
        return "no longer measured"
    if expected is None:
        return "" if ungated(measured) else "no expectation"
    old, new, tolerance = expected["expected"], measured.value, expected["tolerance"]
    if measured.ratios:
        if expected.get("platform") != here or not _slower(new, old, tolerance):
            return ""  # how fast one network is against another depends on the processor
        return f"slower by {100 * (np.median(new) / np.median(old) - 1):.0f} %"
    if isinstance(tolerance, list):
        if tolerance[1] - tolerance[0] > WIDEST:
            return f"an interval of {tolerance[1] - tolerance[0]:.1f} points gates nothing"
        return "" if tolerance[0] <= new <= tolerance[1] else "outside its interval"
    if isinstance(old, str) or isinstance(new, str):
        return "" if old == new else "differs"
    if np.shape(old) != np.shape(new):
        return f"shape {np.shape(new)}, expected {np.shape(old)}"
    if expected.get("platform") == here:
        tolerance = 0.0
    worst = float(np.max(np.abs(np.subtract(new, old))))
    return "" if worst <= tolerance else f"off by {worst:.2g}"  # not a number compares as off


def ungated(measured: Measured) -> str:
    """Why a value can have no expectation; empty if it can."""
    if not isinstance(measured.tolerance, list):
        return ""
    width = measured.tolerance[1] - measured.tolerance[0]
    if np.isinf(width):
        return "not gated: too few runs to know their spread by"
    return f"not gated: interval would be {width:.1f} points" if width > WIDEST else ""


def _slower(new: list[float], old: list[float], tolerance: float) -> bool:
    return mannwhitneyu(new, (1 + tolerance) * np.array(old), alternative="greater").pvalue < ALPHA


def _moves(row: Row) -> bool:
    """Whether ``accept`` takes a value: it is not as expected, or of other seeds.

    Ratios are also taken where the platform is another one or the network has become faster.
    """
    old, m = row.expected, row.measured
    if old is not None and list(m.seeds) != old.get("seeds", []):
        return True
    if row.verdict or not m.ratios or old is None:
        return bool(row.verdict)
    return old.get("platform") != platform() or _slower(old["expected"], m.value, old["tolerance"])


def compare(measured: Iterator[tuple[Path, str, dict[str, Measured]]]) -> list[Row]:
    """Judge everything that was measured, a row for each value."""
    here, rows = platform(), []
    for path, case, values in measured:
        file = _expectations(path)
        for quantity, value in values.items():
            expected = file.get(case, {}).get(quantity)
            rows.append(Row(path, case, quantity, value, expected, judge(value, expected, here)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: old and new value, tolerance, verdict."""
    lines = []
    for row in rows:
        old = "–" if row.expected is None else _short(row.expected["expected"])
        tolerance = row.measured.tolerance if row.expected is None else row.expected["tolerance"]
        exact = row.expected is not None and row.expected.get("platform") == platform() and not row.measured.ratios
        lines.append(
            {
                "model": row.path.stem,
                "case": row.case,
                "quantity": row.quantity,
                "old": old,
                "new": _short(row.measured.value),
                "tolerance": "0, same platform" if exact else _short(tolerance),
                "verdict": row.verdict or "as expected",
            }
        )
    return tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{value[0]:.6g} … {value[-1]:.6g} (mean {np.mean(value):.6g})"
    if isinstance(value, list):
        return " … ".join(f"{v:.6g}" for v in value)
    return value if isinstance(value, str) else f"{value:.8g}"


def edited(paths: Sequence[Path], changes: Path) -> list[str]:
    """A line for each file of expectations that is not as ``accept`` last wrote it.

    Args:
        paths: the files.
        changes: the file in which ``accept`` notes their hashes.
    """
    out = []
    for path in paths:
        known, now = _noted(path, changes), _digest(path)
        if now != known:
            was = f"left it as {known}" if known else "never wrote it"
            out.append(
                f"{path}: its content is {now}, `accept` {was}; restore it, or: make accept-results REASON='why'"
            )
    return out


def _noted(path: Path, changes: Path) -> str:
    """The hash that ``accept`` last noted of a file; empty if none."""
    text = changes.read_text() if changes.exists() else ""
    return (re.findall(rf"`{_name(path)}` = (\w+)", text) or [""])[-1]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def check(rows: Sequence[Row], changes: Path) -> str:
    """The number of values that are as expected, in one line, after a line for each value without expectation.

    Args:
        rows: the judged values.
        changes: see ``edited``.

    Raises:
        GateError: a value is not as expected (the message is the table of those), or a file was edited by hand.
    """
    wrong = [row for row in rows if row.verdict]
    found = edited(sorted({row.path for row in rows if row.path.exists()}), changes)
    if wrong:
        found.insert(
            0,
            f"{len(wrong)} of {len(rows)} checks fail\n\n{table(wrong)}\n\n"
            "Where this is meant: make accept-results REASON='why' (with the same TIERS)",
        )
    if found:
        raise GateError("\n".join(found))
    elsewhere = sum(row.measured.ratios and row.expected.get("platform") != platform() for row in rows)
    free = [row for row in rows if row.expected is None]
    lines = [f"{row.case} {row.path.stem}, {row.quantity}: {ungated(row.measured)}" for row in free]
    known = f"{len(rows) - elsewhere - len(free)} checks are as expected"
    known += f"; {elsewhere} timings are expected on another platform only" if elsewhere else ""
    return "\n".join([*lines, known])


def needs_reason(reason: str) -> None:
    """Raise a ValueError if no reason is given."""
    if not reason.strip():
        raise ValueError("an expectation moves for a reason; give one: make accept-results REASON='why'")


def accept(rows: Sequence[Row], reason: str, changes: Path) -> list[str]:
    """Make measured values the expectations where they are not as expected; the lines added to ``changes``.

    The tolerance in a file is kept, also if it was edited by hand; an interval is replaced by that of the new value, or
    removed if that is wider than ``WIDEST``. A quantity that is no longer measured is removed; a file that is empty
    then is removed with its checkpoint.

    Raises:
        ValueError: no reason is given.
        GateError: a tiny checkpoint is missing or does not fit, or a value is not finite.
    """
    needs_reason(reason)
    unfit = next((row for row in rows if row.quantity == "checkpoint"), None)
    if unfit:
        raise GateError(str(unfit.measured.value))
    for row in rows:
        if not isinstance(row.measured.value, str) and not np.isfinite(row.measured.value).all():
            raise GateError(
                f"{row.case} {row.path.stem}, {row.quantity}: {_short(row.measured.value)} is not to expect"
            )
    lines = []
    for path in sorted({row.path for row in rows}):
        file, moved = _expectations(path), []
        if file and _noted(path, changes) != _digest(path):
            moved.append(f"{'edited by hand to' if _noted(path, changes) else 'not noted before,'} {_digest(path)}")
        for row in (r for r in rows if r.path == path and _moves(r)):
            m, old = row.measured, row.expected
            before = "none" if old is None else _short(old["expected"])
            if m is GONE or ungated(m):
                del file[row.case][row.quantity]
                if not file[row.case]:
                    del file[row.case]
                moved.append(f"{row.case} {row.quantity} {before} → {row.verdict if m is GONE else ungated(m)}")
                continue
            keep = old is not None and not isinstance(m.tolerance, list)
            new = {"expected": m.value, "tolerance": old["tolerance"] if keep else m.tolerance}
            new |= {"platform": platform()} if m.exact or m.ratios else {}
            new |= {"seeds": list(m.seeds)} if m.seeds else {}
            file.setdefault(row.case, {})[row.quantity] = new
            moved.append(f"{row.case} {row.quantity} {before} → {_short(m.value)}")
        if not moved:
            continue
        if file:
            write_json(path, file)
        else:
            path.unlink()
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        made = f"{date.today().isoformat()}, {git_commit()[:8]}, `{_name(path)}` = {_digest(path) if file else 'gone'}"
        lines.append(f"- {made}, {reason.strip()}: " + "; ".join(moved))
        note(changes, lines[-1])
    return lines
