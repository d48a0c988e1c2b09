"""The report: what the results say, on one page that needs no network.

The page begins with a verdict per suite and the plot that shows it; then come tables, pictures and what was held equal.
It is the template ``report.html`` of this package, filled from records, tables and pictures. Nothing in it depends on
when or where it is made.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, isnan, nan
from pathlib import Path

import pandas as pd

from autotsnet.architecture import TwoStreamArchitecture
from reproduce.data import kinetics, ssv2, synthetic
from reproduce.evidence import charts, tables
from reproduce.evidence.charts import FAMILIES, Point, family_of
from reproduce.evidence.natives import NATIVES, printed
from reproduce.evidence.tables import Row
from reproduce.measure.throughput import Mode
from reproduce.pictures.architecture import draw_architecture
from reproduce.records import RunRecord, predictions
from reproduce.suites import SUITES, Suite, named
from reproduce.whole_files import write_atomic

TEMPLATE = Path(__file__).with_name("report.html")
PAGE = "report.html"
KINDS = {
    "gmacs": (
        "Accuracy and cost",
        "Top-1 that the literature states against GMACs per view, ours where it states none; up and to the left is "
        "better.",
    ),
    "throughput": (
        "Accuracy and measured speed",
        "Top-1 against forward passes per second; up and to the right is better, and no model beats those on the "
        "dashed stairs in both.",
    ),
    "confusion": (
        "What is confused",
        "For each model, which class (columns) it takes the videos of a class (rows) for; a perfect model has a dark "
        "diagonal and nothing else.",
    ),
    "temporal": (
        "Which models use time",
        "Top-1 on clips in natural order, reversed, shuffled and frozen to one frame; a model that does not see time "
        "has all its marks in one place.",
    ),
    "temporal-classes": (
        "For which classes order matters",
        "Share of each class's videos that is right in natural order and shuffled; the longer the line, the more order "
        "is worth.",
    ),
    "network": (
        "The network that the search found",
        "The architecture of the first seed, scaled to the budget as it was trained: a bar is a block, its colour the "
        "temporal kernel, its width the spatial one, its height the expansion.",
    ),
}
"""Title and caption of the pictures of a suite, in the page's order."""
SEARCHES = {
    "connections": "The learned weight of every connection of the graph; those that were kept are filled.",
    "": "How sure the search is of its choice (entropy, it falls), how many networks it judges a step, what they cost "
    "and how well they do on videos held out of training.",
}
"""Caption of the picture of a search, by its strategy."""
DARK = {
    "#000000": "#ece9e4",
    "#222222": "#ece9e4",
    "#4d4d4d": "#b9b6b0",
    "#666666": "#aaa7a1",
    "#9a9a9a": "#7c7f84",
    "#dddddd": "#353a40",
    "#f3f3f1": "#282c31",
    "#ffffff": "#1c1f23",
    "#d55e00": "#ff8b42",
    "#0072b2": "#4f9fe3",
    "#6a3d7c": "#c39ad6",
    "#009e73": "#30c598",
    "#e69f00": "#f4bb3a",
    "#cc79a7": "#e79ec6",
    "#56b4e9": "#9adcf7",
    "#8a3b73": "#cf8dba",
    "#0a4a86": "#2f74b8",
    "#8c564b": "#c58b7f",
    "#7f9a2f": "#b5d05c",
}
"""The colours on a dark page, by the colours of the pictures."""
MARKS = {
    "searched": "M0-7.5 1.8-2.3 7.2-2.3 2.8 1 4.4 6.2 0 3 -4.4 6.2 -2.8 1 -7.2-2.3 -1.8-2.3Z",
    "random": "M-1.9-5.6H1.9V-1.9H5.6V1.9H1.9V5.6H-1.9V1.9H-5.6V-1.9H-1.9Z",
    "uniform": "M0-6.5 4.5 0 0 6.5-4.5 0Z",
    "": "M0-5A5 5 0 1 1 0 5 5 5 0 1 1 0-5Z",
}
"""SVG paths of the marks, as in the pictures' ``charts.KINDS``."""
MOST_CONFUSIONS = 18  # panels of a picture; each takes half a second
NOT_RUN = "–"


def report(results: Path, runs: Path) -> Path:
    """Draw the pictures of all suites and write the page.

    Tables of suites with records are rendered again. Those of real data sets without records hold costs and literature
    only; they are rendered where they are missing.

    Args:
        results: folder of records and tables; ``pictures/`` and ``report.html`` are written there.
        runs: folder of run folders; pictures of searches are copied from there, if it has any.

    Returns:
        The page.
    """
    names = [*SUITES, *sorted(path.name for path in results.glob("records/*"))]  # those of other budgets too
    found = {suite: _rows(suite, results) for suite in map(named, dict.fromkeys(names))}
    for suite, rows in found.items():
        if rows or (suite.root and not (results / "tables" / f"{suite.name}.csv").exists()):
            tables.render(suite, results)
        _draw(suite, rows, results, runs)
    text = page(results, found)
    write_atomic(results / PAGE, lambda path: path.write_text(text))
    return results / PAGE


def disagreement(results: Path) -> str | None:
    """An error message if the page is not the one of these results; None if it is, or if there is no page."""
    path = results / PAGE
    if not path.exists() or page(results) == path.read_text():
        return None
    return f"{path} is not the page of what lies beside it; write it anew: python -m reproduce report"


def human(suite: Suite) -> str:
    """A suite's title: ``Synthetic Kinetics (quick)``."""
    text = suite.dataset
    if suite.size:
        text = f"Synthetic {dict(kinetics='Kinetics', ssv2='Something-Something')[suite.layout]} ({suite.size})"
        text += ", long tail" * (suite.tail is not None)
    elif suite.gmacs is None:
        text += ", the authors' own variants"
    return text + (f" at {suite.gmacs:g} GMACs" if "@" in suite.name else "")


# ------------------------------------------------------------------------------------------------------------- page


class Html(str):
    """Text that is HTML already. All other text is escaped."""


def tag(name: str, *inside: str, **attributes: object) -> Html:
    """An element; an attribute that is None or False is left out, ``class_`` is ``class``, ``data_v`` ``data-v``."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape("" if value is True else str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{said}>{_join(inside)}</{name}>")


def _join(parts: Iterable[str], between: str = "") -> Html:
    return Html(between.join(part if isinstance(part, Html) else escape(part) for part in parts))


def page(results: Path, known: Mapping[Suite, list[Row]] | None = None) -> str:
    """The page of the results; ``known`` has the rows of suites that are computed already."""
    names = {path.name for path in results.glob("records/*")} | {path.stem for path in results.glob("tables/*.csv")}
    suites = [named(name) for name in sorted(names - {"natives"}, key=_place)]
    found = {s: known[s] if known and s in known else _rows(s, results) for s in suites}
    shown = [s for s in suites if found[s] and s.size != "tiny"]
    verdicts = [
        tag(
            "article",
            tag("h2", tag("a", human(s), href=f"#{s.name}")),
            tag("p", tables.verdict_sentence(s, found[s]), class_="verdict"),
        )
        for s in shown
    ]
    body = [
        tag("div", *verdicts, class_="verdicts"),
        tag("div", *(_forest(s, found[s]) for s in shown), class_="forests"),
        *(tag("section", tag("h2", human(s), id=s.name), *_numbers(s, found[s], results)) for s in shown),
        *(_folded(s, found[s], results) for s in suites if s not in shown),
        *_natives(results),
    ]
    return TEMPLATE.read_text().replace("<!-- BODY -->", _join(body, "\n"))


def _place(name: str) -> tuple:
    base = name.partition("@")[0]
    return list(SUITES).index(base) if base in SUITES else len(SUITES), name


def _rows(suite: Suite, results: Path) -> list[Row]:
    """The rows of a suite with records."""
    return tables.rows(suite, results) if any((results / "records" / suite.name).glob("*.json")) else []


# ---------------------------------------------------------------------------------------------------------- verdict


def _forest(suite: Suite, rows: Sequence[Row]) -> Html:
    """A line per model, the best first: its runs, their mean with its interval, and how far it is from its control."""
    ran = sorted((r for r in rows if r.top1 is not None), key=lambda r: (r.rank is None, r.rank or 0, -r.top1))
    chance = next((r.chance for r in ran if r.chance is not None), None)
    first = _first_control(ran)
    values = [v for r in ran for v in (r.low, r.high, *r.dots)] + [v for v in (chance,) if v is not None]
    low, high = 10 * floor(min(values) / 10), 10 * ceil(max(values) / 10)

    def at(value: float) -> str:
        return f"{100 * (value - low) / max(high - low, 10):.2f}%"

    def upright(value: float | None, kind: str) -> Html:
        return Html() if value is None else tag("line", class_=kind, x1=at(value), x2=at(value), y1=-8, y2=37)

    ticks = range(low, high + 1, 10 if high - low <= 50 else 20)
    behind = [*(upright(t, "grid") for t in ticks), upright(chance, "chance"), upright(first and first.top1, "control")]
    lines = []
    for r in ran:
        track = [
            tag("line", class_="interval", x1=at(r.low), x2=at(r.high), y1="50%", y2="50%"),
            *(tag("circle", class_="run", cx=at(dot), cy="50%", r=2.6) for dot in r.dots),
            tag("svg", tag("path", d=MARKS[_kind(r)], class_="mean"), x=at(r.top1), y="50%"),
        ]
        lines.append(
            tag(
                "li",
                tag("span", r.title, tag("small", _label(r, rows).removeprefix(r.title)), class_="who"),
                tag("svg", *behind, *track, class_="track", aria_hidden="true"),
                tag("span", f"{r.top1:.1f}", class_="top1"),
                tag("span", _difference(r), class_="difference"),
                _verdict(r),
                style=f"--mark:{_colour(FAMILIES[family_of(r.name)][0])}",
            )
        )
    axis = [tag("text", str(t), x=at(t), y="1em", text_anchor="middle") for t in ticks]
    lines.append(
        tag(
            "li",
            tag("span", "top-1 %", class_="who"),
            tag("svg", *axis, class_="track"),
            class_="axis",
            aria_hidden="true",
        )
    )
    told = ["Large mark: mean of a model's runs, bar: its 95 % interval, dots: single runs."]
    told += [f"Solid line: {first.title}, {first.top1:.1f} %."] if first else []
    told += [f"Dashed: chance, {chance:.3g} %."] if chance is not None else []
    told += ["Right: difference to the random architectures of equal compute, in points [95 %]."] if first else []
    return tag(
        "figure",
        tag("h3", f"{human(suite)}: top-1 at {suite.gmacs:g} GMACs" if suite.gmacs else human(suite)),
        tag("ol", *lines),
        tag("figcaption", " ".join(told)),
        class_="forest",
    )


def _kind(row: Row) -> str:
    """A key of ``MARKS``."""
    if any(r.search for r in row.records):
        return "searched"
    return next((kind for kind in charts.KINDS if row.name.endswith(f"_{kind}")), "")


def _colour(light: str) -> str:
    """A colour of the pictures, light or dark as the page is."""
    return f"light-dark({light.lower()},{DARK.get(light.lower(), light)})"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _difference(row: Row) -> str:
    d = row.difference
    return f"{_signed(d.points)} [{_signed(d.low)}, {_signed(d.high)}]" if d else NOT_RUN


def _verdict(row: Row) -> Html:
    mark = {"▲": "up", "▼": "down"}.get(row.mark)
    return tag("span", f"{row.verdict} {row.mark}".strip(), class_=f"verdict-{mark}" if mark else "verdict-none")


# ---------------------------------------------------------------------------------------------------------- numbers


def _numbers(suite: Suite, rows: Sequence[Row], results: Path) -> Iterator[Html]:
    """The table of a suite, its pictures, then what was held equal and all the rest."""
    ranked = sorted(rows, key=lambda r: r.rank or len(rows) + 1)
    first = _first_control(ranked)
    heads = ["rank", "model", "top-1 % [95 %]", "difference, points [95 %]", "how sure", "clips/s", "search cost"]
    yield _table(heads, [_line(r, first) for r in ranked])
    if first:
        told = f"Differences are to {first.title}, where nothing else is said; ▲ and ▼ hold after Holm's correction."
        yield tag("p", told, class_="told")
    yield from _pictures(suite, results)
    yield _details("What was held equal", tag("dl", *_equal(suite, rows)))
    yield from _rest(suite, results)
    yield _details(
        "Where each row comes from",
        tag(
            "dl",
            *(
                part
                for r in rows
                if r.records
                for part in (tag("dt", r.label), tag("dd", *_provenance(r.records, suite)))
            ),
        ),
    )


def _first_control(rows: Sequence[Row]) -> Row | None:
    """The random architectures that most models are compared with."""
    counted = Counter(r.control for r in rows if r.control).most_common(1)
    return next((r for r in rows if counted and r.name == counted[0][0] and r.records), None)


def _line(row: Row, first: Row | None) -> list[Html]:
    """The cells of a model; a cell holds its sort value, unless it begins with that number."""
    speed = row.speed
    other = row.difference and not (first and row.control == first.name)
    against = f" to {tables.title_of(row.control)}" if other else ""
    sure = tag("td", _verdict(row), Html(" "), row.sure if row.p is not None else "", data_v=row.p)
    return [
        tag("td", str(row.rank or NOT_RUN)),
        tag("th", row.title, tag("small", f" {row.kind}"), scope="row"),
        tag("td", NOT_RUN if row.top1 is None else f"{row.top1:.1f} [{row.low:.1f}, {row.high:.1f}]"),
        tag("td", _difference(row), tag("small", against)),
        sure,
        tag("td", f"{speed.clips_per_s:.3g} ±{100 * speed.spread:.0f} %" if speed else NOT_RUN),
        tag("td", row.cost, class_="long"),
    ]


def _table(head: Sequence[str], lines: Sequence[Sequence[Html]]) -> Html:
    heads = (tag("th", tag("button", name, type="button"), scope="col") for name in head)
    body = (tag("tr", *cells) for cells in lines)
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", _join(body, "\n")))
    return tag("div", table, class_="wide", tabindex=0, role="region", aria_label="table")


def _frame(frame: pd.DataFrame) -> Html:
    """A table without changes."""
    lines = [
        [
            tag("td", text, class_="long" if len(text) > 40 else None)
            for text in (str(cell).replace("**", "") for cell in row)
        ]
        for row in frame.itertuples(index=False)
    ]
    return _table(list(frame.columns), lines)


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _details(summary: str, *inside: Html, **attributes: object) -> Html:
    return tag("details", tag("summary", summary), *inside, **attributes)


def _equal(suite: Suite, rows: Sequence[Row]) -> Iterator[Html]:
    records = [r for row in rows for r in row.records]

    def listed(values: Iterable[object]) -> str:
        return ", ".join(map(str, sorted(set(values))))

    worst = max((abs(r.model.residual) for r in records), default=0)
    chance = next((row.chance for row in rows if row.chance is not None), None)
    said = {
        "videos": f"{suite.dataset}: the same {listed(r.data.train_videos for r in records)} for training and "
        f"{listed(r.result.n for r in records)} for the test, {suite.classes} classes"
        + (f"; chance is {chance:.3g} %" if chance is not None else ""),
        "compute": f"{suite.gmacs:g} GMACs per view; the farthest model is {100 * worst:.1f} % from it"
        if suite.gmacs
        else "",
        "clips": listed(
            f"{r.data.frames} frames of {r.data.crop}² pixels, {r.data.clips} × {r.data.crops} views" for r in records
        ),
        "training": listed(f"{r.training.epochs} epochs, batch {r.training.batch}, from scratch" for r in records)
        if suite.gmacs
        else "each as its authors do",
        "seeds": listed(len({r.seed for r in row.records}) for row in rows if row.records) + " of each architecture",
        "speed": listed(
            f"{r.throughput.device}: {r.throughput.precision}, batch {r.throughput.batch}" for r in records
        ),
    }
    for name, text in said.items():
        if text:
            yield tag("dt", name)
            yield tag("dd", text)


def _rest(suite: Suite, results: Path) -> Iterator[Html]:
    """All columns of the suite's table; what the literature says about its models is apart."""
    path = results / "tables" / f"{suite.name}.csv"
    if path.exists():
        frame = _csv(path)
        literature = [column for column in frame.columns if column.startswith("literature")]
        yield _details("All columns", _frame(frame.drop(columns=literature)))
    stated = [(e, row) for e in suite.entries if (row := tables.published_row(suite, e)) is not None]
    if stated:
        yield _details(
            "What the literature states, at its own settings: not measured here, not matched",
            _frame(pd.DataFrame([_stated(e.name, row) for e, row in stated])),
        )


def _stated(entry: str, row: pd.Series) -> dict[str, str]:
    def known(text: str, *values: object) -> str:
        return text if all(pd.notna(v) for v in values) else NOT_RUN

    return {
        "beside": entry,
        "model": f"{row.model}, {row.variant}",
        "top-1 %": f"{row.top1:.1f}",
        "frames×crop": known(f"{row.frames:g}×{row.crop:g}²", row.frames, row.crop),
        "views": known(f"{row.views}", row.views),
        "GFLOPs/view": known(f"{row.gflops_per_view:g}", row.gflops_per_view),
        "pretrained on": known(f"{row.pretrain}", row.pretrain),
        "source": str(row.source),
    }


def _folded(suite: Suite, rows: Sequence[Row], results: Path) -> Html:
    """A suite that was not run, or is there for tests."""
    if rows:
        summary, inside = "for tests only", _numbers(suite, rows, results)
    else:
        command = (
            f"{suite.root}=/path python -m reproduce run {suite.ref}"
            if suite.root
            else f"python -m reproduce run {suite.ref}"
        )
        how = tag("p", "Nothing of it was trained here. To run it: ", tag("code", command))
        summary, inside = "not run yet", [how, *_rest(suite, results), *_pictures(suite, results)]
    return _details(f"{human(suite)}: {summary}", *inside, id=suite.name, class_="suite")


def _natives(results: Path) -> Iterator[Html]:
    """Size, cost and speed of the authors' own variants."""
    path = results / "tables" / "natives.csv"
    if path.exists():
        yield _details(
            "The authors' own variants: size and cost beside the printed digits",
            _frame(_csv(path)),
            class_="suite",
            id="natives",
        )
    for path in sorted(results.glob("throughput/*.json")):
        data = json.loads(path.read_text())
        made, rows = data["provenance"], [r for r in data["rows"] if "error" not in r]
        frame = pd.DataFrame(
            {
                "variant": r["variant"],
                "network": r["source"],
                "mode": _mode(r["mode"], data["tf32"]),
                "frames×crop": f"{r['frames']}×{r['crop']}²",
                "GMACs": f"{r['gmacs']:.2f}",
                "batch": r["batch"],
                "clips/s": f"{r['clips_per_s']:.4g} ±{100 * r['spread']:.0f} %",
                "% of matmul": f"{100 * r['share_of_matmul']:.1f}",
            }
            for r in rows
        )
        source = f"{path.parent.name}/{path.name}, commit {made['commit'][:12]}, {made['time']}"
        yield _details(
            f"The authors' own variants: speed on {data['device']}",
            _frame(frame),
            tag("p", source),
            class_="suite",
            id=path.stem,
        )


def _mode(mode: str, tf32: bool) -> str:
    return mode.replace("fp32", "fp32 (TF32 convolutions)") if tf32 else mode


def _provenance(records: Sequence[RunRecord], suite: Suite) -> list[Html]:
    def listed(values: Iterable[object]) -> str:
        return "; ".join(sorted({str(v) for v in values}))

    made = [r.provenance for r in records]
    times = sorted(p.time for p in made)
    threads = listed(p.threads or "unknown" for p in made)
    said = (
        f"records/{suite.name}: " + ", ".join(Path(r.result.predictions).with_suffix(".json").name for r in records),
        f"commit {listed(p.commit[:12] for p in made)}"
        + (" with uncommitted changes" if any(p.dirty for p in made) else ""),
        f"trained on {listed(p.device for p in made)}, threads: {threads}",
        f"timed on {listed(f'{r.throughput.device}, {r.throughput.precision}' for r in records)}",
        f"seeds {listed(r.seed for r in records)}",
        f"manifest of the training {listed(r.data.train_manifest for r in records)}, "
        f"of the test {listed(r.data.test_manifest for r in records)}",
        f"torch {listed(s.versions['torch'] for p in made for s in p.sessions)}",
        f"made {times[0]}" + (f" to {times[-1]}" if times[-1] != times[0] else ""),
        *sorted({r.note for r in records} - {""}),
    )
    return [tag("div", line) for line in said]


# --------------------------------------------------------------------------------------------------------- pictures


def _draw(suite: Suite, rows: Sequence[Row], results: Path, runs: Path) -> None:
    """All pictures of a suite, as PNG and SVG; those that are no longer drawn are removed."""
    folder, name = results / "records" / suite.name, human(suite)
    ran = {_label(r, rows): r for r in rows if r.records}
    # Models of one budget differ in cost by the solver's residual only: there is nothing to see.
    cost = [] if suite.gmacs else [*(_point(n, r, r.gmacs) for n, r in ran.items()), *_literature(suite)]
    speeds = _measured_speeds(ran) | ({} if suite.gmacs else _native_speeds(suite, results))
    names = {Path(r.result.predictions).stem: _run(r, row) for row in rows for r in row.records}
    diagnosed = {
        names.get(path.stem, path.stem): json.loads(path.read_text()) for path in temporal_files(results, suite.name)
    }
    found = [r for row in rows for r in row.records if r.search and r.model.family == "auto_tsnet"]
    shown = list(ran.items())[:MOST_CONFUSIONS]  # the best
    confused = {n: pd.concat([predictions(r, folder) for r in row.records]) for n, row in shown}
    for suffix in ("png", "svg"):
        drawn = set()

        def at(what: str, suffix=suffix, drawn=drawn) -> Path:
            drawn.add(what)
            return results / "pictures" / f"{suite.name}-{what}.{suffix}"

        if cost:
            charts.draw_accuracy(
                {"": cost},
                at("gmacs"),
                "cost of a view (GMACs)",
                low_is_better=True,
                title=f"{name}: accuracy and cost",
            )
        if speeds:
            charts.draw_accuracy(
                speeds,
                at("throughput"),
                "forward passes (clips/s), bar: interquartile range",
                low_is_better=False,
                title=f"{name}: accuracy and speed",
            )
        if ran:
            charts.draw_confusion(confused, class_names(suite), at("confusion"), f"{name}: what is confused")
        if diagnosed:
            charts.draw_orders(diagnosed, at("temporal"), f"{name}: which models use time")
            charts.draw_temporal_classes(diagnosed, at("temporal-classes"), f"{name}: where order matters")
        if found:
            _draw_network(min(found, key=lambda r: r.seed), name, at("network"))
        for source in sorted(runs.glob(f"{suite.name}/search-*/search.{suffix}")):
            write_atomic(at(source.parent.name), lambda p, source=source: shutil.copyfile(source, p))
        for kind in KINDS.keys() - drawn:
            (results / "pictures" / f"{suite.name}-{kind}.{suffix}").unlink(missing_ok=True)


def _label(row: Row, rows: Sequence[Row]) -> str:
    """A row's title, with its kind where the entry has several rows."""
    return row.title + (f" ({row.kind})" if row.kind and sum(r.name == row.name for r in rows) > 1 else "")


def _run(record: RunRecord, row: Row) -> str:
    several = len({r.variant for r in row.records}) > 1
    return row.title + (f" {record.variant + 1}" if several else "") + f", seed {record.seed}"


def _draw_network(record: RunRecord, suite: str, path: Path) -> None:
    """The network of a record, as it was trained: not as it was found, before the budget was solved for."""
    net = record.model.net
    architecture = TwoStreamArchitecture.from_dict(net["architecture"])
    architecture = architecture.scaled(net.get("width", 1.0), net.get("expansion", 1.0))
    title = f"Found on {suite}, seed {record.seed}, as trained"
    draw_architecture(architecture, path, title=title, gmacs=record.model.gmacs)


def temporal_files(results: Path, suite: str) -> list[Path]:
    """What ``python -m reproduce temporal`` found, a file per run."""
    return sorted((results / "temporal" / suite).glob("*.json"))


def class_names(suite: Suite) -> list[str]:
    """Class names by label; those of the data set's official list."""
    if suite.size:
        return synthetic.class_names(f"synthetic-{suite.layout}", suite.size)
    return list({"kinetics": kinetics, "ssv2": ssv2}[suite.layout].CLASSES)


def _point(name: str, row: Row, x: float, spread: float = 0.0) -> Point:
    return Point(name, family_of(row.name), x, row.top1, (row.low, row.high), spread, _kind(row))


def _measured_speeds(ran: dict[str, Row]) -> dict[str, list[Point]]:
    """Points by device."""
    panels: dict[str, list[Point]] = {}
    for name, row in ran.items():
        for device in sorted({r.throughput.device for r in row.records}):
            speed = tables.median_speed(row.records, device)
            heading = f"{device}, {speed.precision}, batch {speed.batch}"
            panels.setdefault(heading, []).append(_point(name, row, speed.clips_per_s, speed.spread))
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
            panels[f"{data['device']}, {_mode('fp32', data['tf32'])}, best batch"] = list(points.values())
    return panels


def _literature(suite: Suite) -> Iterator[Point]:
    """What is published of the entries, at the stated cost or, where none is stated, at ours."""
    for entry in suite.entries:
        row = tables.published_row(suite, entry)
        if row is not None:
            stated = row.gflops_per_view
            gmacs = suite.of(entry).solution(entry).gmacs if pd.isna(stated) else stated
            yield Point(entry.name, family_of(entry.name), gmacs, row.top1)


def _pictures(suite: Suite, results: Path) -> Iterator[Html]:
    """The pictures of a suite, each with its title and a sentence."""
    folder, figures = results / "pictures", []
    for kind, (title, caption) in KINDS.items():
        if (path := folder / f"{suite.name}-{kind}.svg").exists():
            figures.append(_figure(path, title, caption, kind))
    for path in sorted(folder.glob(f"{suite.name}-search-*.svg")):
        strategy, _, seed = path.stem.removeprefix(f"{suite.name}-search-").rpartition("-")[0].rpartition("-s")
        caption = SEARCHES.get(strategy, SEARCHES[""])
        figures.append(_figure(path, f"The course of a search: {strategy}, seed {seed}", caption, "search"))
    if figures:
        yield tag("div", *figures, class_="pictures")


def _figure(path: Path, title: str, caption: str, kind: str) -> Html:
    """A picture in the page, with ids of its own, since all pictures share one page, and with the page's colours."""
    svg = path.read_text()
    svg = re.sub(r"(?s)<metadata>.*?</metadata>", "", svg[svg.index("<svg") :])
    svg = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="">', svg)
    svg = svg.replace('aria-label=""', f'aria-label="{escape(title)}"', 1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", svg)
    svg = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: _colour(found[0]) if found[0].lower() in DARK else found[0], svg)
    zoom = tag("button", "enlarge", type="button", class_="zoom")
    return tag(
        "figure", tag("h4", title), zoom, tag("div", Html(svg), class_="svg"), tag("figcaption", caption), class_=kind
    )
