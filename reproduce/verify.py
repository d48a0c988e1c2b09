"""Do the results agree with themselves? Every number that can be recomputed from what lies beside it is recomputed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from reproduce import report, tables
from reproduce.records import RecordError, RunRecord, predictions, score
from reproduce.suites import SUITES, run_id, suite


class VerifyError(ValueError):
    """Results disagree with themselves; one line each, naming the file."""


def verify(results: Path) -> str:
    """Check all records and tables of a folder.

    Returns:
        What was checked, in one line.

    Raises:
        VerifyError: something disagrees, or there is nothing to check; all findings, one a line.
    """
    paths = sorted(results.glob("records/*/*"))
    if not paths:
        raise VerifyError(f"{results} has no records/; name the folder of results")
    found = [line for folder in sorted({p.parent for p in paths}) for line in _records(folder)]
    found += [line for path in sorted(results.glob("throughput/*.json")) for line in _throughput(path)]
    # A table of unreadable records cannot be rendered; the records are the news then.
    found = found or [line for path in sorted(results.glob("temporal/*/*.json")) for line in _temporal(path, results)]
    found = found or [line for name in _suites(results) for line in _table(name, results)]
    stale = None if found else report.disagreement(results)
    found += [stale] if stale else []
    if found:
        raise VerifyError("\n".join(found))
    records = sum(p.suffix == ".json" for p in paths)
    return f"{results}: {records} records and the tables of {len(_suites(results))} suites agree"


def _suites(results: Path) -> list[str]:
    """Those that have records or a table."""
    named = {p.stem for p in results.glob("tables/*")} | {p.name for p in results.glob("records/*")}
    return sorted(named - {"natives"})  # a table of sizes and costs, of no suite and no records


def _records(folder: Path) -> Iterator[str]:
    used, videos = set(), {}
    for path in sorted(folder.glob("*.json")):
        used |= {path.name, path.with_suffix(".parquet").name}
        try:
            record = RunRecord.load(path)
            table = predictions(record, folder)
        except RecordError as error:
            yield str(error)
            continue
        yield from (f"{path}: {line}" for line in _disagreements(record, path, table))
        listed = table.set_index("id").label.sort_index()
        first, name = videos.setdefault(record.data.test_manifest, (listed, path.name))
        if not listed.equals(first):
            yield f"{path}: its videos or labels are not those of {name}, on the same manifest"
    for path in sorted(folder.iterdir()):
        if path.name not in used:
            yield f"{path}: belongs to no record; remove it, or restore its record"


def _disagreements(record: RunRecord, path: Path, table: pd.DataFrame) -> Iterator[str]:
    model, result, source = record.model, record.result, record.provenance
    name = run_id(record.entry, record.variant, record.seed)
    top1, top5, failed = score(table)
    for what, said, is_ in (
        ("suite", record.suite, path.parent.name),
        ("entry, variant and seed", name, path.stem),
        ("result.predictions", result.predictions, path.with_suffix(".parquet").name),
        ("result.n", result.n, len(table)),
        ("result.top1", result.top1, top1),
        ("result.top5", result.top5, top5),
        ("result.failed", result.failed, failed),
        ("model.residual", model.residual, model.gmacs / model.budget - 1),
        ("model.matched", model.matched, abs(model.residual) <= 0.02),
        ("provenance.config_hash", source.config_hash, hashlib.sha256(source.config.encode()).hexdigest()[:12]),
    ):
        if said != is_:
            yield f"{what} is {said}, recomputed it is {is_}"


def _throughput(path: Path) -> Iterator[str]:
    from reproduce import bench  # the peers' packages take seconds to import

    table = path.with_suffix(".md")
    if not table.exists() or table.read_text() != bench.rendered(json.loads(path.read_text())):
        yield f"{table} is not what {path.name} says; render it: make bench"


def _temporal(path: Path, results: Path) -> Iterator[str]:
    """A diagnosis against the record of its run and against itself."""
    beside = results / "records" / path.parent.name / path.name
    if not beside.exists():
        yield f"{path}: belongs to no record; remove it, or restore {beside}"
        return
    found, record = json.loads(path.read_text()), RunRecord.load(beside)
    if found["run"] != record.run:
        yield f"{path}: run {found['run']} is not the record's {record.run}; diagnose the run of the record"
        return
    pairs = [("n", found["n"], record.result.n), ("top1.natural", found["top1"]["natural"], record.result.top1)]
    pairs += [(f"top1.{o}", top1, sum(row[o] for row in found["classes"])) for o, top1 in found["top1"].items()]
    if found["to_partner"] is not None:
        pairs.append(("to_partner", found["to_partner"], sum(row["to_partner"] for row in found["classes"])))
    points = 100 * (found["top1"]["natural"] - found["top1"]["shuffled"]) / found["n"]
    pairs.append(("order_matters.points", round(found["order_matters"]["points"], 9), round(points, 9)))
    pairs.append(("n of all classes", sum(row["n"] for row in found["classes"]), found["n"]))
    for what, said, is_ in pairs:
        if said != is_:
            yield f"{path}: {what} is {said}, recomputed it is {is_}"


def _table(name: str, results: Path) -> Iterator[str]:
    try:
        mine = suite(name)
    except ValueError:
        yield f"{results}: {name} has records or a table, and is no suite; known: {', '.join(SUITES)}"
        return
    try:
        rendered = tables.rendered(mine, results)
    except ValueError as error:
        yield f"{results / 'records' / name}: {error}"
        return
    for suffix, text in rendered.items():
        path = results / "tables" / f"{name}{suffix}"
        there = path.read_text() if path.exists() else None
        if there is None:
            yield f"{path} is missing; render it: python -m reproduce table {name}"
        elif there != text:
            pairs = zip(there.splitlines(), text.splitlines(), strict=False)
            line = next((i for i, (old, new) in enumerate(pairs, 1) if old != new), "the last")
            yield f"{path}: line {line} is not what its records say; render it: python -m reproduce table {name}"
