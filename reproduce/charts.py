"""Charts of results: accuracy against cost and speed, confusion of classes, what the order of frames is worth.

Slides like those of ``reproduce.plots``. A family has a colour (Okabe and Ito's palette) and a mark; bars are 95 %
intervals; labels are placed where they cover neither each other nor a mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from reproduce.plots import GREY, HEIGHT, INK, RULE, WIDTH, save
from reproduce.statistics import wilson

FAMILIES = {
    "auto_tsnet": ("#D55E00", "D"),
    "slowfast": ("#0072B2", "o"),
    "slow": ("#6A3D7C", "<"),
    "x3d": ("#009E73", "s"),
    "tsm": ("#E69F00", "^"),
    "mvit": ("#CC79A7", "v"),
    "assemblenet": ("#56B4E9", "p"),
    "pvnas": ("#000000", "X"),
    "other": (GREY, "h"),
}
"""Colour and mark of each family. An entry is of the first family that its name begins with."""

ORDERS = {
    "natural": ("#0072B2", "o", "natural order"),
    "reversed": ("#D55E00", "<", "reversed"),
    "shuffled": ("#E69F00", "^", "shuffled"),
    "frozen": ("#6A3D7C", "s", "frozen to one frame"),
}
NAMED_CLASSES = 12  # more do not fit beside a panel
RANKED_CLASSES = 24  # of more classes, as many of both ends of the ranking
LOG_SPAN = 5.0  # axes over a wider range are logarithmic
LABEL_POINTS = 12.5


@dataclass(frozen=True)
class Point:
    """One mark of a chart of accuracy.

    Attributes:
        name: its label.
        family: a key of ``FAMILIES``.
        x: GMACs per view or clips per second.
        top1: percent.
        interval: of ``top1``, percent; None: a literature value, drawn hollow.
        spread: of ``x``, interquartile range / median.
    """

    name: str
    family: str
    x: float
    top1: float
    interval: tuple[float, float] | None = None
    spread: float = 0.0


def family_of(name: str) -> str:
    """The family of an entry or variant, by its name."""
    return next((f for f in FAMILIES if name.startswith(f)), "other")


def draw_accuracy(
    panels: Mapping[str, Sequence[Point]],
    path: Path,
    x: str,
    *,
    low_is_better: bool,
    budget: float | None = None,
    title: str = "",
) -> None:
    """Draw top-1 against a cost or a speed, with the Pareto front of what was measured.

    Args:
        panels: points by the heading of their panel; panels stand side by side on one scale of accuracy.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        x: label of the quantity, with its unit.
        low_is_better: of x; decides what the front is.
        budget: x that all models were scaled to; drawn as a line.
        title: above the picture.
    """
    save(accuracy_figure, path, panels, x, low_is_better=low_is_better, budget=budget, title=title)


def draw_confusion(tables: Mapping[str, pd.DataFrame], classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw what each model takes the classes for, a panel per model.

    Args:
        tables: per-video predictions (``label``, ``error``, ``scores``) by the model's name; those of several runs
            of a model in one table.
        classes: names, by label.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        title: above the picture.
    """
    save(confusion_figure, path, tables, classes, title)


def draw_orders(found: Mapping[str, dict], path: Path, title: str = "") -> None:
    """Draw each model's top-1 on natural, reversed, shuffled and frozen clips.

    Args:
        found: what ``reproduce.measure.temporal.diagnose`` found, by the model's name.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        title: above the picture.
    """
    save(orders_figure, path, found, title)


def draw_temporal_classes(found: Mapping[str, dict], path: Path, title: str = "") -> None:
    """Draw the classes by what the order of frames is worth: mean accuracy over models, natural and shuffled.

    Arguments as those of ``draw_orders``.
    """
    save(temporal_classes_figure, path, found, title)


def _figure(title: str, **kwargs) -> Figure:
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white", **kwargs)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, ha="left", fontsize=16, weight="bold")
    return figure


def _tidy(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=12)


# --------------------------------------------------------------------------------------------------------- accuracy


def accuracy_figure(
    panels: Mapping[str, Sequence[Point]],
    x: str,
    *,
    low_is_better: bool,
    budget: float | None = None,
    title: str = "",
) -> Figure:
    """The figure that ``draw_accuracy`` writes."""
    figure = _figure(title)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.075, right=0.98, top=0.89, bottom=0.2, wspace=0.06)
    everything = [p for points in panels.values() for p in points]
    ends = [e for p in everything for e in (p.interval or (p.top1, p.top1))]
    room = 0.08 * (max(ends) - min(ends)) + 1
    row[0].set_ylim(max(0, min(ends) - room), min(100, max(ends) + room))
    row[0].set_ylabel("top-1 accuracy (%)", size=14)
    for axes, (heading, points) in zip(row, panels.items(), strict=True):
        _tidy(axes, "both")
        axes.set_title(heading, fontsize=13, loc="left")
        axes.set_xlabel(x, size=14)
        _range(axes, [p.x for p in points], budget)
        for p in points:
            colour, mark = FAMILIES[p.family]
            if p.interval:
                axes.plot([p.x, p.x], p.interval, color=colour, lw=1.8, zorder=3)
            half = p.x * p.spread / 2
            axes.plot([p.x - half, p.x + half], [p.top1, p.top1], color=colour, lw=1.8, zorder=3)
            face = colour if p.interval else "white"
            edge = "white" if p.interval else colour
            axes.plot(p.x, p.top1, mark, mfc=face, mec=edge, mew=0.7 if p.interval else 1.8, ms=11, zorder=4)
        axes.plot(*_corners(points, low_is_better).T, color=RULE, lw=1.6, ls="--", zorder=2)
        if budget:
            axes.axvline(budget, color=INK, lw=1.2, ls=":", zorder=1)
    _legend(figure, everything, budget)
    figure.canvas.draw()  # settles the scales, before labels look for room
    for axes, points in zip(row, panels.values(), strict=True):
        _label(axes, points, _corners(points, low_is_better))
    return figure


def pareto(points: Sequence[Point], low_is_better: bool) -> list[Point]:
    """Those that no other beats in both x and accuracy, from the least accurate to the most."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: ((p.x if low_is_better else -p.x), -p.top1)):
        if not front or p.top1 > front[-1].top1:
            front.append(p)
    return front


def _corners(points: Sequence[Point], low_is_better: bool) -> np.ndarray:
    """The stairs along the front of what was measured, corner by corner."""
    front = pareto([p for p in points if p.interval], low_is_better)
    corners = [(p.x, p.top1) for p in front[:1]]
    for a, b in pairwise(front):
        corners += [(b.x, a.top1) if low_is_better else (a.x, b.top1), (b.x, b.top1)]
    return np.array(corners).reshape(-1, 2)


def _range(axes: Axes, xs: Sequence[float], budget: float | None) -> None:
    """Limits with room for labels; models of one budget are not spread over the axis as if their cost differed."""
    xs = [*xs, *([budget] if budget else [])]
    low, high = min(xs), max(xs)
    if high > LOG_SPAN * low:
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.12, high * (high / low) ** 0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = max(0.15 * (high - low), 0.08 * high)
        axes.set_xlim(max(0, low - room), high + room)


def _legend(figure: Figure, points: Sequence[Point], budget: float | None) -> None:
    handles = []
    for name, (colour, mark) in FAMILIES.items():
        if any(p.family == name for p in points):
            handles.append(Line2D([], [], color=colour, marker=mark, ms=9, lw=0, label=name))
    if any(p.interval for p in points):
        handles.append(Line2D([], [], color=INK, lw=1.8, label="95 % interval"))
        handles.append(Line2D([], [], color=RULE, lw=1.6, ls="--", label="Pareto front of the measured"))
    if not all(p.interval for p in points):
        hollow = dict(color=INK, marker="o", mfc="white", mew=1.6, ms=9, lw=0)
        handles.append(Line2D([], [], **hollow, label="hollow: literature, at its own settings"))
    if budget:
        handles.append(Line2D([], [], color=INK, lw=1.2, ls=":", label="budget"))
    figure.legend(handles=handles, loc="lower center", ncol=ceil(len(handles) / 2), frameon=False, fontsize=12)


def _label(axes: Axes, points: Sequence[Point], front: np.ndarray) -> None:
    """Write each point's name at the nearest place where it covers no mark, no line and no other name."""
    figure, dots = axes.figure, axes.figure.dpi / 72
    renderer, inside = figure.canvas.get_renderer(), axes.get_window_extent()
    lines = [*pairwise(front)]
    for p in points:
        half, (low, high) = p.x * p.spread / 2, p.interval or (p.top1, p.top1)
        lines += [((p.x, low), (p.x, high)), ((p.x - half, p.top1), (p.x + half, p.top1))]
    marks = axes.transData.transform([(p.x, p.top1) for p in points])
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)  # line, end, (x, y)
    taken = [(*(m - 7 * dots), *(m + 7 * dots)) for m in marks]
    taken += [(*(e.min(0) - 2 * dots), *(e.max(0) + 2 * dots)) for e in ends]
    angles = np.deg2rad([0, 180, 45, 135, -45, -135, 20, 160, -20, -160, 70, 110, -70, -110])
    radii = dots * np.arange(12, 500, 8)
    for p in sorted(points, key=lambda p: -p.top1):
        text = axes.annotate(
            p.name,
            (p.x, p.top1),
            (0, 0),
            textcoords="offset points",
            fontsize=LABEL_POINTS,
            color=INK,
            ha="left",
            va="center",
            zorder=5,
            arrowprops=dict(arrowstyle="-", color=RULE, lw=0.8, shrinkA=0, shrinkB=4),
        )
        box = Text.get_window_extent(text, renderer)
        wide, high = box.width + 4 * dots, box.height + 2 * dots
        x, y = axes.transData.transform((p.x, p.top1))
        # The nearest corner or edge of the name stands at the offset, so that names on the left end at their mark.
        places = [
            (x + r * np.cos(a) - wide * (np.cos(a) < 0), y + r * np.sin(a) - high / 2) for r in radii for a in angles
        ]
        boxes = np.array([(x0, y0, x0 + wide, y0 + high) for x0, y0 in places])
        others = np.array(taken)
        meets = (
            (boxes[:, None, :2] < others[None, :, 2:]).all(-1) & (boxes[:, None, 2:] > others[None, :, :2]).all(-1)
        ).sum(1)
        outside = (boxes[:, :2] < (inside.x0, inside.y0)).any(1) | (boxes[:, 2:] > (inside.x1, inside.y1)).any(1)
        best = int(np.argmin(meets + 1000 * outside))  # the first of the best: the nearest
        taken.append(tuple(boxes[best]))
        text.set_position(((boxes[best, 0] + 2 * dots - x) / dots, (boxes[best, 1] + high / 2 - y) / dots))
        if best < 3 * len(angles):
            text.arrow_patch.set_visible(False)


# -------------------------------------------------------------------------------------------------------- confusion


def confusion_figure(tables: Mapping[str, pd.DataFrame], classes: Sequence[str], title: str = "") -> Figure:
    """The figure that ``draw_confusion`` writes."""
    figure = _figure(title, layout="constrained")
    columns = ceil(sqrt(len(tables)))
    rows = ceil(len(tables) / columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    named = len(classes) <= NAMED_CLASSES
    for i, (axes, (name, table)) in enumerate(zip(grid.flat, tables.items(), strict=False)):
        extent = (0.5, len(classes) + 0.5, len(classes) + 0.5, 0.5)  # classes are numbered from 1
        matrix = confusion(table, len(classes))
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100, aspect="auto", extent=extent)
        axes.set_title(name, fontsize=12)
        axes.tick_params(labelsize=10, labelbottom=i + columns >= len(tables), labelleft=i % columns == 0)
        if named:
            numbers = range(1, len(classes) + 1)
            axes.set_xticks(numbers)
            axes.set_yticks(numbers, [f"{_short(c, 34)}  {n}" for n, c in zip(numbers, classes, strict=True)])
    figure.supylabel("class of the video" + ("" if named else ", by its number in the data set's list"), fontsize=13)
    figure.supxlabel("class that the model takes it for", fontsize=13)
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.01)
    bar.set_label("share of the class's videos (%)", size=13)
    return figure


def confusion(table: pd.DataFrame, classes: int) -> np.ndarray:
    """Percent of each class's videos (rows) that are taken for each class (columns).

    A video that failed is taken for none, so that its row sums to less than 100.
    """
    counts = np.zeros((classes, classes))
    read = table[table.error == ""]
    np.add.at(counts, (read.label.to_numpy(), np.stack(read.scores.to_list()).argmax(1)), 1)
    videos = np.bincount(table.label, minlength=classes)
    return 100 * counts / np.maximum(1, videos)[:, None]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# ---------------------------------------------------------------------------------------------------------- temporal


def orders_figure(found: Mapping[str, dict], title: str = "") -> Figure:
    """The figure that ``draw_orders`` writes."""
    figure = _figure(title, layout="constrained")
    axes = figure.subplots()
    names = sorted(found, key=lambda n: found[n]["order_matters"]["points"])
    for i, name in enumerate(names):
        f = found[name]
        for k, (order, (colour, mark, _)) in enumerate(ORDERS.items()):
            at, n = i + 0.16 * (1.5 - k), f["n"]
            axes.plot(wilson(f["top1"][order], n), [at, at], color=colour, lw=1.8)
            axes.plot(100 * f["top1"][order] / n, at, mark, color=colour, ms=9)
        if f["to_partner"] is not None:
            axes.plot(100 * f["to_partner"] / f["n"], i + 0.16 * 0.5, "<", color=INK, mfc="none", mew=1.4, ms=13)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 accuracy (%), bars: 95 % intervals", size=14)
    _tidy(axes, "x")
    axes.tick_params(axis="y", labelsize=13)
    handles = [Line2D([], [], color=c, marker=m, ms=9, lw=1.8, label=text) for c, m, text in ORDERS.values()]
    if any(f["to_partner"] is not None for f in found.values()):
        partner = dict(color=INK, marker="<", mfc="none", mew=1.4, ms=13, lw=0)
        handles.append(Line2D([], [], **partner, label="reversed, taken for the class played backwards"))
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles), frameon=False, fontsize=12)
    return figure


def temporal_classes_figure(found: Mapping[str, dict], title: str = "") -> Figure:
    """The figure that ``draw_temporal_classes`` writes."""
    sums = pd.DataFrame([row for f in found.values() for row in f["classes"]])
    sums = sums.groupby("class", sort=True)[["n", "natural", "shuffled"]].sum()
    share = 100 * sums[["natural", "shuffled"]].div(sums.n, axis=0)
    share = share.iloc[np.argsort((share.shuffled - share.natural).to_numpy(), kind="stable")]
    if len(share) > RANKED_CLASSES:
        half = RANKED_CLASSES // 2
        share = pd.concat([share[:half], share[-half:]])
    figure = _figure(title, layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(share))[::-1]
    axes.hlines(at, share.shuffled, share.natural, color=RULE, lw=2.4, zorder=1)
    for order in ("shuffled", "natural"):
        colour, mark, text = ORDERS[order]
        axes.plot(share[order], at, mark, color=colour, ms=9, label=text)
    axes.set_yticks(at, [_short(c, 60) for c in share.index])
    axes.set_xlim(-2, 102)
    of = "model" if len(found) == 1 else f"{len(found)} models"
    axes.set_xlabel(f"videos classified correctly (%), mean of {of}", size=14)
    _tidy(axes, "x")
    axes.tick_params(axis="y", labelsize=12 if len(share) <= 16 else 10)
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=12)
    return figure
