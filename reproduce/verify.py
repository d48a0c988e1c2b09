"""Do the results agree with themselves? Every number that can be recomputed from what lies beside it is recomputed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from math import isclose
from pathlib import Path

import pandas as pd

from reproduce import natives, report, tables
from reproduce.measure.temporal import diagnose, partners
from reproduce.records import RecordError, RunRecord, predictions, ranks, score
from reproduce.suites import CONFIGS, SUITES, run_id, suite


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
    found += [line for path in sorted(results.glob("throughput/*.json")) for line in _whole(_throughput, path)]
    found += _natives(results) if (results / "tables" / "natives.md").exists() else []
    found += _expectations() if results.resolve() == CONFIGS.parent / "results" else []
    # A table of unreadable records cannot be rendered; the records are the news then.
    found = found or [line for path in sorted(results.glob("temporal/*/*")) for line in _whole(_temporal, path)]
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

    data, table = json.loads(path.read_text()), path.with_suffix(".md")
    for row in data["rows"]:
        if "error" in row:
            continue
        gmacs_per_s = row["clips_per_s"] * row["gmacs"]
        for what, is_ in (
            ("clips_per_s", max(row["sweep"].values())),
            ("clips_per_s", row["sweep"][str(row["batch"])]),
            ("latency_ms", 1000 / row["sweep"]["1"]),
            ("gmacs_per_s", gmacs_per_s),
            ("share_of_matmul", gmacs_per_s / row["matmul_gmacs_per_s"]),
        ):
            if not isclose(row[what], is_):
                yield (
                    f"{path}: {row['variant']} of {row['source']}, {row['mode']}: {what} is {row[what]}, "
                    f"recomputed it is {is_}"
                )
    if not table.exists() or table.read_text() != bench.rendered(data):
        yield f"{table} is not what {path.name} says; render it: make bench"


def _natives(results: Path) -> Iterator[str]:
    table = results / "tables" / "natives.md"
    if not table.with_suffix(".csv").exists() or table.read_text() != natives.rendered(results):
        yield f"{table} is not what natives.csv says; render it: make table-natives"


def _expectations() -> list[str]:
    """Files beside the recipes that `accept` did not write; of this checkout's own results only."""
    from reproduce import gate  # its trainer takes seconds to import

    return gate.edited(sorted(CONFIGS.glob("*/*.json")), gate.CHANGES)


def _whole(check: Callable[[Path], Iterator[str]], path: Path) -> Iterator[str]:
    """What a check says of a file; or that the file is not what the check reads."""
    try:
        yield from check(path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{path} is not whole ({type(error).__name__}: {error}); make it anew"


def _temporal(path: Path) -> Iterator[str]:
    """A diagnosis against the record of its run and its own predictions."""
    if path.suffix != ".json":
        if not path.with_suffix(".json").exists():
            yield f"{path}: belongs to no diagnosis; remove it"
        return
    beside = path.parents[2] / "records" / path.parent.name / path.name
    if not beside.exists():
        yield f"{path}: belongs to no record; remove it, or restore {beside}"
        return
    found, record = json.loads(path.read_text()), RunRecord.load(beside)
    if found["run"] != record.run:
        yield f"{path}: run {found['run']} is not the record's {record.run}; diagnose the run of the record"
        return
    if not path.with_suffix(".parquet").exists():
        yield f"{path.with_suffix('.parquet')} is missing; diagnose the run of the record"
        return
    table = pd.read_parquet(path.with_suffix(".parquet"))
    tested = predictions(record, beside.parent).sort_values("id", ignore_index=True)
    same = table.id.equals(tested.id) and ((table.natural == table.label) == (ranks(tested) == 0)).all()
    if not same or not table.label.equals(tested.label):
        yield f"{path.with_suffix('.parquet')}: labels, or what is right in natural order, are not the record's"
        return
    mine = suite(record.suite)
    again = _flat(diagnose(table, report.class_names(mine), partners(mine)))
    known = _flat({key: found[key] for key in ("n", "top1", "order_matters", "to_partner", "classes")})
    for what in sorted(known.keys() | again.keys()):
        said, is_ = known.get(what), again.get(what)
        near = isinstance(said, float) and isinstance(is_, float) and isclose(said, is_, rel_tol=1e-6)
        if said != is_ and not near:
            yield f"{path}: {what} is {said}, recomputed it is {is_}"


def _flat(data: object, name: str = "") -> dict[str, object]:
    """Leaves of nested data by their path: ``classes.0.n``."""
    if not isinstance(data, dict | list):
        return {name: data}
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}


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
