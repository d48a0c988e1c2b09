"""The report: all tables and pictures of the results on one page that needs no network.

The page is ``report.html`` of this package with two blocks of data put in: the tables, with where each row comes from,
and the pictures. Nothing in it depends on when or where it is made.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path

import pandas as pd

from reproduce import charts, tables
from reproduce.charts import Point, family_of
from reproduce.data import kinetics, ssv2, synthetic
from reproduce.files import write_atomic
from reproduce.measure.throughput import Mode
from reproduce.natives import NATIVES, printed
from reproduce.records import RunRecord, load_all, predictions
from reproduce.suites import SUITES, Suite
from reproduce.suites import suite as suite_named

TEMPLATE = Path(__file__).with_name("report.html")
PAGE = "report.html"
KINDS = ("gmacs", "throughput", "confusion", "temporal", "temporal-classes")  # of pictures, as the page shows them


def report(results: Path, runs: Path) -> Path:
    """Draw the pictures of all suites and write the page.

    Tables of suites with records are rendered anew. Those of real data sets without records hold costs and literature
    only; they are rendered where they are missing.

    Args:
        results: folder of records and tables; ``pictures/`` and ``report.html`` are written there.
        runs: folder of run folders; pictures of searches are taken from there, where it has any.

    Returns:
        The page.
    """
    named = [*SUITES, *sorted(path.name for path in results.glob("records/*"))]  # those of other budgets too
    for suite in map(suite_named, dict.fromkeys(named)):
        records = load_all(results / "records" / suite.name)
        if records or (suite.root and not (results / "tables" / f"{suite.name}.md").exists()):
            tables.render(suite, results)
        _draw(suite, records, results, runs)
    found = sections(results)
    pictures = {s["name"]: [_picture(p) for p in _pictures(results, s["name"])] for s in found}
    page = TEMPLATE.read_text().replace("TABLES_JSON", _json(found)).replace("PICTURES_JSON", _json(pictures))
    write_atomic(results / PAGE, lambda path: path.write_text(page))
    return results / PAGE


def sections(results: Path) -> list[dict]:
    """The tables of the page, those with records first: ``name``, ``title``, ``notes``, ``columns`` and ``rows``.

    Each row has its ``family``, its ``cells`` and its ``provenance``.
    """
    order = list(SUITES)
    found = []

    def place(path: Path) -> tuple:
        name = path.stem
        return not (results / "records" / name).is_dir(), order.index(name) if name in order else len(order), name

    for path in sorted((results / "tables").glob("*.md"), key=place):
        found += _parts(path.stem, path, results)
    for path in sorted(results.glob("throughput/*.md")):
        found += _parts(f"throughput-{path.stem}", path, results)
    return found


def disagreement(results: Path) -> str | None:
    """What is wrong with a page whose tables are not those of the results; None if they are, or there is no page."""
    path = results / PAGE
    if not path.exists() or _json(sections(results)) in path.read_text():
        return None
    return f"{path} does not show the tables beside it; write it anew: python -m reproduce report"


def _parts(name: str, path: Path, results: Path) -> Iterator[dict]:
    """The tables of a Markdown file, each below its heading, above its notes."""
    records = load_all(results / "records" / name)
    runs_of = tables.runs_of(suite_named(name), records) if records else {}
    source = _source(path.with_suffix(".json"))
    for i, text in enumerate(re.split(r"(?m)^##+ ", path.read_text())[1:]):
        head, _, *lines = [_cells(line) for line in text.splitlines() if line.startswith("|")]
        rows = []
        for cells in lines:
            mine = runs_of.get(cells[0].split()[0])
            made = _provenance(mine, name) if mine else source
            rows.append({"family": family_of(cells[0]), "cells": cells, "provenance": made})
        notes = [" ".join(note.split()) for note in re.split(r"(?m)^- ", text)[1:]]
        part = f"{name}-{i + 1}" if i else name
        yield {"name": part, "title": text.splitlines()[0], "notes": notes, "columns": head, "rows": rows}


def _source(path: Path) -> str:
    """Where a table without records is from: the file of data beside it, if there is one."""
    if not path.exists():
        return "no record: nothing in this row was trained here"
    made = json.loads(path.read_text())["provenance"]
    return (
        f"{path.parent.name}/{path.name}\ncommit: {made['commit'][:12]}\ndevice: {made['device']}\nmade: {made['time']}"
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _provenance(records: list[RunRecord], suite: str) -> str:
    def listed(values) -> str:
        return "; ".join(sorted({str(v) for v in values}))

    files = ", ".join(Path(r.result.predictions).with_suffix(".json").name for r in records)
    times = sorted(r.provenance.time for r in records)
    dirty = " (with uncommitted changes)" if any(r.provenance.dirty for r in records) else ""
    return "\n".join(
        (
            f"records/{suite}/: {files}",
            f"commit: {listed(r.provenance.commit[:12] for r in records)}{dirty}",
            f"trained on: {listed(r.provenance.device for r in records)}",
            f"timed on: {listed(f'{r.throughput.device}, {r.throughput.precision}' for r in records)}",
            f"seeds: {listed(r.seed for r in records)}",
            f"manifests: train {listed(r.data.train_manifest for r in records)}, "
            f"test {listed(r.data.test_manifest for r in records)}",
            f"torch: {listed(r.provenance.versions['torch'] for r in records)}",
            f"made: {times[0]}" + (f" to {times[-1]}" if times[-1] != times[0] else ""),
        )
    )


# --------------------------------------------------------------------------------------------------------- pictures


def _draw(suite: Suite, records: list[RunRecord], results: Path, runs: Path) -> None:
    """All pictures of a suite, as PNG and SVG."""
    runs_of = tables.runs_of(suite, records)
    runs_of = {name: mine for name, mine in runs_of.items() if mine}
    folder = results / "records" / suite.name
    literature, heading = _literature(suite)
    top1 = {name: tables.accuracy(mine, folder) for name, mine in runs_of.items()}
    cost = [*_measured_costs(runs_of, top1), *literature]
    speeds = _measured_speeds(runs_of, top1) | ({} if suite.gmacs else _native_speeds(suite, results))
    diagnosed = {path.stem: json.loads(path.read_text()) for path in temporal_files(results, suite.name)}
    for path in (results / "pictures" / f"{suite.name}-{{}}.{s}" for s in ("png", "svg")):

        def at(what: str, path=path) -> Path:
            return path.with_name(path.name.format(what))

        if cost:
            charts.draw_accuracy(
                {heading: cost},
                at("gmacs"),
                "cost of a view (GMACs)",
                low_is_better=True,
                budget=suite.gmacs,
                title=f"{suite.dataset}: accuracy and cost",
            )
        if speeds:
            charts.draw_accuracy(
                speeds,
                at("throughput"),
                "forward passes (clips/s), bar: interquartile range",
                low_is_better=False,
                title=f"{suite.dataset}: accuracy and measured speed",
            )
        if runs_of:
            confused = {n: pd.concat([predictions(r, folder) for r in mine]) for n, mine in runs_of.items()}
            charts.draw_confusion(confused, class_names(suite), at("confusion"), f"{suite.dataset}: what is confused")
        if diagnosed:
            charts.draw_orders(diagnosed, at("temporal"), f"{suite.dataset}: which models use time, most first")
            charts.draw_temporal_classes(
                diagnosed, at("temporal-classes"), f"{suite.dataset}: for which classes order matters, most first"
            )
        for source in sorted(runs.glob(f"{suite.name}/search-*/search{path.suffix}")):
            target = at(source.parent.name)
            write_atomic(target, lambda p, source=source: shutil.copyfile(source, p))


def temporal_files(results: Path, suite: str) -> list[Path]:
    """What ``python -m reproduce temporal`` found, a file per run."""
    return sorted((results / "temporal" / suite).glob("*.json"))


def class_names(suite: Suite) -> list[str]:
    """By label; those of the data set's official list."""
    if suite.size:
        names = synthetic.classes(f"synthetic-{suite.layout}", suite.size)
        return sorted(names) if suite.layout == "kinetics" else names
    return list({"kinetics": kinetics, "ssv2": ssv2}[suite.layout].CLASSES)


def _measured_costs(runs_of: dict[str, list[RunRecord]], top1: dict[str, tuple]) -> Iterator[Point]:
    for name, records in runs_of.items():
        gmacs = sum(r.model.gmacs for r in records) / len(records)
        yield Point(name, family_of(name), gmacs, *top1[name])


def _measured_speeds(runs_of: dict[str, list[RunRecord]], top1: dict[str, tuple]) -> dict[str, list[Point]]:
    """Points by device."""
    panels: dict[str, list[Point]] = {}
    for name, records in runs_of.items():
        for device in sorted({r.throughput.device for r in records}):
            speed = tables.median_speed(records, device)
            heading = f"{device}, {speed.precision}, batch {speed.batch}"
            point = Point(name, family_of(name), speed.clips_per_s, *top1[name], spread=speed.spread)
            panels.setdefault(heading, []).append(point)
    return dict(sorted(panels.items()))


def _native_speeds(suite: Suite, results: Path) -> dict[str, list[Point]]:
    """Literature accuracy at the speed that ``make bench`` measured of the same variant at the same size, by device."""
    panels: dict[str, list[Point]] = {}
    for path in sorted(results.glob("throughput/*.json")):
        data, points = json.loads(path.read_text()), {}
        speeds = {
            (row["variant"], row["frames"], row["crop"]): row
            for row in data["rows"]
            if (row["source"], row["mode"]) == ("ours", str(Mode())) and "error" not in row
        }
        for native in NATIVES:
            speed = speeds.get((native.name, native.arguments["frames"], native.crop))
            top1 = float(printed(native).top1) if native.source else nan
            if speed and native.arguments["num_classes"] == suite.classes and not isnan(top1):
                point = Point(native.name, family_of(native.name), speed["clips_per_s"], top1, spread=speed["spread"])
                points.setdefault(native.name, point)
        if points:
            panels[f"{data['device']}, fp32, best batch"] = list(points.values())
    return panels


def _literature(suite: Suite) -> tuple[list[Point], str]:
    """What the table prints beside the entries, at the stated cost or, where none is stated, at the native variant's.

    Returns:
        Points, and a line that names those whose cost is not known.
    """
    points, without = [], []
    for entry in suite.entries:
        row = tables.published_row(suite, entry)
        if row is None:
            continue
        gmacs = _native_gmacs(suite, entry.published) if pd.isna(row.gflops_per_view) else row.gflops_per_view
        model = row.model.split(" (")[0]
        name = row.variant if row.variant[:3] == model[:3] else f"{model} {row.variant}"
        if gmacs:
            points.append(Point(name if suite.gmacs else entry.name, family_of(entry.name), gmacs, row.top1))
        else:
            without.append(f"{name} {row.top1:.1f} %")
    return points, f"literature without a stated cost, not drawn: {', '.join(without)}" if without else ""


def _native_gmacs(suite: Suite, published: tuple[str, str]) -> float | None:
    """Our count of the variant, if it is an entry of the data set's native suite."""
    native = SUITES[f"{suite.layout}-native"]
    entry = next((e for e in native.entries if e.published == published), None)
    return native.of(entry).solution(entry).gmacs if entry else None


def _pictures(results: Path, suite: str) -> list[Path]:
    """Pictures of a suite."""
    paths = [results / "pictures" / f"{suite}-{kind}.svg" for kind in KINDS]
    return [p for p in paths if p.exists()] + sorted((results / "pictures").glob(f"{suite}-search-*.svg"))


def _picture(path: Path) -> dict[str, str]:
    """A picture as HTML; an SVG's ids are made its own, since all share one page."""
    html = path.read_text()
    html = html[html.index("<svg") :]
    return {"name": path.stem, "html": re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", html)}


def _json(data: object) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
