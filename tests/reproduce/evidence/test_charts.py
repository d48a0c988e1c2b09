"""Charts: nothing covers anything, every axis has its unit, and what is drawn is what was measured."""

import functools
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from reproduce.evidence import charts, temporal
from reproduce.evidence.charts import Point
from reproduce.evidence.report import class_names
from reproduce.evidence.temporal import ORDERS, diagnose, partners
from reproduce.suites import SUITES


def texts(figure):
    """Label and extent in pixels of everything written in a figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    for axes in figure.axes:  # ticks beyond the limits, and those of a shared axis, are not drawn
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            every = {t for tick in axis.majorTicks + axis.minorTicks for t in (tick.label1, tick.label2)}
            found = [t for t in found if t not in every - drawn]
    # of an annotation the text alone, without the line that leads to it
    return [(t.get_text(), Text.get_window_extent(t, renderer)) for t in found]


def legible(figure):
    """No text covers another or leaves the picture."""
    found = texts(figure)
    assert len(found) > 5
    assert [(a, b) for (a, x), (b, y) in combinations(found, 2) if x.overlaps(y)] == []
    edge = figure.bbox
    assert [t for t, b in found if b.x0 < 0 or b.y0 < 0 or b.x1 > edge.x1 or b.y1 > edge.y1] == []


def entries(count: int, x, top1) -> list[Point]:
    """Points with the names of a suite's entries."""
    names = [e.name for e in SUITES["kinetics"].entries]
    return [
        Point(names[i % len(names)], charts.family_of(names[i % len(names)]), x(i), top1(i), (top1(i) - 3, top1(i) + 3))
        for i in range(count)
    ]


CLOUDS = {
    "one budget": entries(12, lambda i: 4.7 * (1 + 0.002 * i), lambda i: 70 + 0.3 * i),
    "all the same": entries(20, lambda i: 4.7, lambda i: 75.0),
    "wide": entries(14, lambda i: 0.5 * 1.6**i, lambda i: 60 + 25 * np.sin(i)),
    "at the edges": entries(6, lambda i: 1 + 99 * (i % 2), lambda i: 100 * (i % 2)),
    "alone": entries(1, lambda i: 4.7, lambda i: 75.0),
    "literature": [Point(f"X3D-{s}", "x3d", g, t) for s, g, t in (("S", 2, 73), ("M", 6, 76), ("L", 25, 77))],
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("panels", [1, 2])
def test_labels_cover_nothing(cloud, panels):
    points = CLOUDS[cloud]
    figure = charts.accuracy_figure(
        {f"device {i}": points for i in range(panels)},
        "cost of a view (GMACs)",
        low_is_better=True,
        title="a chart",
    )
    legible(figure)
    for axes in figure.axes[:panels]:
        assert sorted(t.get_text() for t in axes.texts) == sorted(p.name for p in points)
        assert axes.get_xlabel() == "cost of a view (GMACs)"
        marks = axes.transData.transform([(p.x, p.top1) for p in points])
        boxes = [Text.get_window_extent(t) for t in axes.texts]
        assert not any(box.contains(*m) for box in boxes for m in marks)
    assert figure.axes[0].get_ylabel() == "top-1 accuracy (%)"


CROWD = {  # where "slowfast" stood at the mark of tsm, and "tsm" at slowfast's
    "slowfast": (514, 52.2, 8.4),
    "x3d": (500, 43.0, 6.6),
    "tsm": (527, 54.1, 4.5),
    "auto_tsnet_uniform": (372, 69.2, 4.0),
    "auto_tsnet_random": (390, 69.7, 3.6),
    "auto_tsnet": (383, 69.5, 3.6),
    "pvnas_random": (569, 55.2, 5.0),
    "pvnas": (651, 57.3, 17.0),
}


def strays(figure, points) -> list[str]:
    """Names whose nearest mark is not their own, and to which no line leads from it."""
    (axes,) = figure.axes
    figure.canvas.draw()
    marks = axes.transData.transform([(p.x, p.top1) for p in points])
    found = []
    for text in axes.texts:
        box = Text.get_window_extent(text)
        own = marks[[p.name for p in points].index(text.get_text())]
        away = np.hypot(*(marks - np.clip(marks, box.p0, box.p1)).T)
        near = np.hypot(*(own - np.clip(own, box.p0, box.p1))) <= away.min()
        lines = [line for line in axes.lines if line.get_gid() == f"leader of {text.get_text()}"]
        ends = [axes.transData.transform(line.get_xydata()) for line in lines]
        led = any(np.allclose(a, own) and box.padded(4).contains(*b) for a, b in ends)
        if not near and not led:
            found.append(text.get_text())
    return found


def test_a_name_stands_at_its_own_mark_or_a_line_leads_to_it():
    points = [Point(n, charts.family_of(n), x, y, (y - h, y + h), 0.08) for n, (x, y, h) in CROWD.items()]
    for cloud in (points, CLOUDS["wide"][:12], CLOUDS["one budget"]):
        figure = charts.accuracy_figure({"": cloud}, "clips/s", low_is_better=False)
        assert strays(figure, cloud) == []
    figure = charts.accuracy_figure({"": points}, "clips/s", low_is_better=False)
    first, second = (t for t in figure.axes[0].texts if t.get_text() in ("x3d", "pvnas"))
    at, other = first.get_position(), second.get_position()
    first.xy, second.xy = second.xy, first.xy  # what the check is there to find
    first.set_position(at), second.set_position(other)
    assert sorted(strays(figure, points)) == ["pvnas", "x3d"]


def test_searched_random_and_uniform_differ_in_mark():
    kinds = ("searched", "random", "uniform", "")
    points = [Point(k or "by hand", "auto_tsnet", 1 + i, 50 + i, (40, 60), kind=k) for i, k in enumerate(kinds)]
    (axes,) = charts.accuracy_figure({"": points}, "clips/s", low_is_better=False).axes
    marks = {line.get_marker() for line in axes.lines if line.get_marker() not in ("None", None, "")}
    assert len(marks) == len(kinds)
    assert {p.style[0] for p in points} == {charts.FAMILIES["auto_tsnet"][0]}


def test_literature_is_hollow_and_no_part_of_the_front():
    measured = [Point("x3d", "x3d", 2.0, 70.0, (68, 72)), Point("tsm", "tsm", 4.0, 75.0, (73, 77))]
    figure = charts.accuracy_figure({"": [*measured, Point("X3D-M", "x3d", 1.0, 90.0)]}, "GMACs", low_is_better=True)
    (axes,) = figure.axes
    faces = {tuple(line.get_xydata()[0]): line.get_mfc() for line in axes.lines if line.get_marker() in "os^"}
    assert faces[(1.0, 90.0)] == "white"
    assert faces[(2.0, 70.0)] == charts.FAMILIES["x3d"][0]
    (front,) = (line for line in axes.lines if line.get_linestyle() == "--")
    assert front.get_xydata().tolist() == [[2, 70], [4, 70], [4, 75]]
    bars = [tuple(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2]
    assert {(68, 72), (73, 77)} <= set(bars)


@pytest.mark.parametrize(("low_is_better", "front"), [(True, "ac"), (False, "dc")])
def test_the_front_is_what_none_beats(low_is_better, front):
    values = {"a": (1, 50), "b": (2, 40), "c": (3, 80), "d": (9, 70), "e": (9, 60)}
    points = [Point(name, "x3d", *xy, (0, 1)) for name, xy in values.items()]
    assert "".join(p.name for p in charts.pareto(points, low_is_better)) == front


def test_families_are_told_by_the_beginning_of_a_name():
    names = {"slowfast_8x8_r50": "slowfast", "slow_8x8_r50": "slow", "auto_tsnet_uniform, space s": "auto_tsnet"}
    assert {n: charts.family_of(n) for n in names} == names
    assert charts.family_of("my_model") == "other"
    assert {charts.family_of(e.name) for s in SUITES.values() for e in s.entries} == set(charts.FAMILIES) - {"other"}


def predicted(classes: int, labels, taken, error="") -> pd.DataFrame:
    """Predictions of one class each."""
    scores = list(np.eye(classes)[np.asarray(taken)])
    return pd.DataFrame(dict(id=range(len(labels)), label=labels, error=error, scores=scores))


def test_confusion_is_in_percent_of_a_class_and_failed_videos_are_taken_for_none():
    table = predicted(3, [0, 0, 0, 0, 1, 1], [0, 0, 2, 0, 1, 1], error=["", "", "", "gone", "", ""])
    assert charts.confusion(table, 3).tolist() == [[50, 0, 25], [0, 100, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", ["kinetics-tiny", "ssv2-tiny"])
def test_classes_are_named_by_their_label(cache, name):
    suite = SUITES[name]
    assert tuple(class_names(suite)) == suite.manifest("val", suite.data_root(cache)).classes


@functools.cache
def diagnosed(name: str, seed: int) -> dict:
    """A diagnosis of made-up predictions: the better the order, the more are right."""
    suite, rng = SUITES[name], np.random.default_rng(seed)
    classes = tuple(class_names(suite))
    labels = rng.integers(0, len(classes), 300)
    right = {order: rng.random(300) < share for order, share in zip(ORDERS, (0.9, 0.5, 0.1, 0.4), strict=True)}
    tables = {
        order: predicted(len(classes), labels, np.where(r, labels, (labels + 1) % len(classes)))
        for order, r in right.items()
    }
    return diagnose(temporal.predicted(tables), classes, partners(suite))


@pytest.mark.parametrize("name", ["ssv2-quick", "ssv2"])
def test_other_charts_are_legible(name):
    suite, rng = SUITES[name], np.random.default_rng(0)
    classes = class_names(suite)
    assert len(classes) == suite.classes
    labels = rng.integers(0, len(classes), 200)
    tables = {e.name: predicted(len(classes), labels, rng.permutation(labels)) for e in suite.entries}
    figure = charts.confusion_figure(tables, classes, "what is confused")
    legible(figure)
    assert {"slowfast", "class that the model takes it for", "share of the class's videos (%)"} <= {
        t for t, _ in texts(figure)
    }
    found = {f"{e.name}-s0": diagnosed(name, i % 3) for i, e in enumerate(suite.entries)}
    for make in (charts.orders_figure, charts.temporal_classes_figure):
        figure = make(found, "what time is worth")
        legible(figure)
        assert "(%)" in figure.axes[0].get_xlabel()


def test_classes_are_ranked_by_what_order_is_worth():
    figure = charts.temporal_classes_figure({"a": diagnosed("kinetics-full", 0), "b": diagnosed("kinetics-full", 1)})
    shuffled, natural = (line.get_xdata() for line in figure.axes[0].lines)
    worth = np.asarray(natural) - np.asarray(shuffled)
    assert (np.diff(worth) <= 1e-9).all()
    assert worth[0] > worth[-1]


def test_equal_charts_are_equal_files(tmp_path):
    for name in ("a.svg", "b.svg", "a.png"):
        charts.draw_accuracy({"": CLOUDS["wide"]}, tmp_path / name, "GMACs", low_is_better=True)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < 100_000
