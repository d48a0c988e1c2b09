"""Charts of results: accuracy against cost and speed, confusion of classes, the effect of the order of frames.

Each family has a colour and a mark; searched, random and uniform architectures have marks of their own in every family.
Bars are 95 % intervals. A label covers no mark and no other label, and stands near its own mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from reproduce.evidence.statistics import wilson
from reproduce.pictures.common import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RULE, VERMILLION, narrow, save, tidy

FAMILIES = {
    "auto_tsnet": (VERMILLION, "D", "Auto-TSNet"),
    "slowfast": (BLUE, "o", "SlowFast"),
    "slow": (PURPLE, "<", "Slow"),
    "x3d": (GREEN, "s", "X3D"),
    "tsm": (ORANGE, "^", "TSM"),
    "mvit": ("#CC79A7", "v", "MViT"),
    "movinet": ("#8C6D31", "H", "MoViNet"),
    "assemblenet": ("#56B4E9", "p", "AssembleNet"),
    "pvnas": (INK, "X", "PV-NAS"),
    "tiny_video_net": ("#8C564B", "8", "Tiny Video Network"),
    "e3d": ("#B8A200", ">", "E3D"),
    "auto_x3d": ("#4B6C8C", "<", "Auto-X3D"),
    "evanet": ("#7F9A2F", "d", "EvaNet"),
    "other": (GREY, "h", "other"),
}
"""Colour, mark and name of each family. An entry is of the first family that its name begins with."""

KINDS = {"searched": "*", "random": "P", "uniform": "d"}
"""Mark of an architecture that was not made by hand, instead of its family's."""

ORDERS = {
    "natural": (BLUE, "o", "natural order"),
    "reversed": (VERMILLION, "<", "reversed"),
    "shuffled": (ORANGE, "^", "shuffled"),
    "frozen": (PURPLE, "s", "frozen to one frame"),
}
NAMED_CLASSES = 12  # more do not fit beside a panel
CONFUSION_COLUMNS = 3
RANKED_CLASSES = 24  # of more classes, half from each end of the ranking
LOG_SPAN = 5.0  # axes over a wider range are logarithmic
LABEL_POINTS = 9.5
NEAR = 18  # points; a label that is farther from its mark has a line that leads to it


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
        kind: a key of ``KINDS``; empty: made by hand.
    """

    name: str
    family: str
    x: float
    top1: float
    interval: tuple[float, float] | None = None
    spread: float = 0.0
    kind: str = ""

    @property
    def style(self) -> tuple[str, str]:
        """Colour and mark."""
        colour, mark, _ = FAMILIES[self.family]
        return colour, KINDS.get(self.kind, mark)


def family_of(name: str) -> str:
    """The family of an entry or variant, by its name."""
    return next((f for f in FAMILIES if name.startswith(f)), "other")


def draw_accuracy(
    panels: Mapping[str, Sequence[Point]],
    path: Path,
    x: str,
    *,
    low_is_better: bool,
    title: str = "",
) -> None:
    """Draw top-1 against a cost or a speed, with the Pareto front of what was measured.

    Args:
        panels: points by the heading of their panel; panels stand below each other on one scale of accuracy.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        x: label of the quantity, with its unit.
        low_is_better: of x; decides what the front is.
        title: above the picture.
    """
    save(accuracy_figure, path, panels, x, low_is_better=low_is_better, title=title)


def draw_confusion(tables: Mapping[str, pd.DataFrame], classes: Sequence[str], path: Path, title: str = "") -> None:
    """Draw which classes each model confuses, a panel per model.

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
        found: what ``reproduce.evidence.temporal.diagnose`` found, by the model's name.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        title: above the picture.
    """
    save(orders_figure, path, found, title)


def draw_temporal_classes(found: Mapping[str, dict], path: Path, title: str = "") -> None:
    """Draw, for each class, the mean accuracy over models on natural and on shuffled clips.

    Arguments as those of ``draw_orders``.
    """
    save(temporal_classes_figure, path, found, title)


# --------------------------------------------------------------------------------------------------------- accuracy


def accuracy_figure(panels: Mapping[str, Sequence[Point]], x: str, *, low_is_better: bool, title: str = "") -> Figure:
    """The figure that ``draw_accuracy`` writes."""
    everything = [p for points in panels.values() for p in points]
    handles = _legend(everything)
    below, high = 0.6 + 0.2 * ceil(len(handles) / 3), 3.9
    figure = narrow(title, 0.45 + high * len(panels) + below)
    inches = figure.get_figheight()
    column = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=0.1, right=0.98, top=1 - 0.7 / inches, bottom=below / inches, hspace=0.85 / (high - 0.85)
    )
    ends = [e for p in everything for e in (p.interval or (p.top1, p.top1))]
    room = 0.08 * (max(ends) - min(ends)) + 1
    column[0].set_ylim(max(0, min(ends) - room), min(100, max(ends) + room))
    for axes, (heading, points) in zip(column, panels.items(), strict=True):
        axes.set(xlabel=x, ylabel="top-1 accuracy (%)")
        axes.set_title(heading, fontsize=10, loc="left")
        tidy(axes, "both")
        _range(axes, [p.x for p in points])
        for p in points:
            colour, mark = p.style
            if p.interval:
                axes.plot([p.x, p.x], p.interval, color=colour, lw=1.5, zorder=3)
            half = p.x * p.spread / 2
            axes.plot([p.x - half, p.x + half], [p.top1, p.top1], color=colour, lw=1.5, zorder=3)
            face = colour if p.interval else "white"
            edge = "white" if p.interval else colour
            size = 11 if p.kind == "searched" else 8
            axes.plot(p.x, p.top1, mark, mfc=face, mec=edge, mew=0.7 if p.interval else 1.5, ms=size, zorder=4)
        axes.plot(*_corners(points, low_is_better).T, color=RULE, lw=1.3, ls="--", zorder=2)
    figure.legend(handles=handles, loc="lower center", ncol=3, frameon=False, fontsize=9)
    figure.canvas.draw()  # settles the scales, before labels look for room
    for axes, points in zip(column, panels.values(), strict=True):
        _label(axes, points, _corners(points, low_is_better))
    return figure


def pareto(points: Sequence[Point], low_is_better: bool) -> list[Point]:
    """The points that no other point beats in both x and accuracy, from the least accurate to the most."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: ((p.x if low_is_better else -p.x), -p.top1)):
        if not front or p.top1 > front[-1].top1:
            front.append(p)
    return front


def _corners(points: Sequence[Point], low_is_better: bool) -> np.ndarray:
    """The corners of the step line along the front of the measured points."""
    front = pareto([p for p in points if p.interval], low_is_better)
    corners = [(p.x, p.top1) for p in front[:1]]
    for a, b in pairwise(front):
        corners += [(b.x, a.top1) if low_is_better else (a.x, b.top1), (b.x, b.top1)]
    return np.array(corners).reshape(-1, 2)


def _range(axes: Axes, xs: Sequence[float]) -> None:
    """Limits with room for labels."""
    low, high = min(xs), max(xs)
    if high > LOG_SPAN * low:
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.15, high * (high / low) ** 0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = max(0.15 * (high - low), 0.08 * high)
        axes.set_xlim(max(0, low - room), high + room)


def _legend(points: Sequence[Point]) -> list[Line2D]:
    handles = []
    for family, (colour, mark, name) in FAMILIES.items():
        mine = [p for p in points if p.family == family]
        if mine:  # a square of its colour, if it has only searched, random or uniform ones
            shown = mark if any(not p.kind for p in mine) else "s"
            handles.append(Line2D([], [], color=colour, marker=shown, ms=7, lw=0, label=name))
    for kind, mark in KINDS.items():
        if any(p.kind == kind for p in points):
            handles.append(Line2D([], [], color=INK, marker=mark, mfc="white", ms=8, lw=0, label=kind))
    if any(p.interval for p in points):
        handles.append(Line2D([], [], color=INK, lw=1.5, label="95 % interval"))
        handles.append(Line2D([], [], color=RULE, lw=1.3, ls="--", label="Pareto front, measured"))
    if not all(p.interval for p in points):
        hollow = dict(color=INK, marker="o", mfc="white", mew=1.5, ms=7, lw=0)
        handles.append(Line2D([], [], **hollow, label="hollow: literature"))
    return handles


def _label(axes: Axes, points: Sequence[Point], front: np.ndarray) -> None:
    """Write each point's name where it covers no mark and no other name, is nearest to its own mark, crosses few lines.

    Among places that are equally good the nearest is taken. A line leads from a name to its mark where the name is far
    from it, or another mark is as near.
    """
    figure, dots = axes.figure, axes.figure.dpi / 72
    renderer, inside = figure.canvas.get_renderer(), axes.get_window_extent()
    lines = [*pairwise(front)]
    for p in points:
        half, (low, high) = p.x * p.spread / 2, p.interval or (p.top1, p.top1)
        lines += [((p.x, low), (p.x, high)), ((p.x - half, p.top1), (p.x + half, p.top1))]
    marks = axes.transData.transform([(p.x, p.top1) for p in points])
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 2, 2)  # line, end, (x, y)
    crossed = np.array([(*(e.min(0) - dots), *(e.max(0) + dots)) for e in ends])
    taken = [(*(m - 6 * dots), *(m + 6 * dots)) for m in marks]
    angles = np.deg2rad([0, 180, 45, 135, -45, -135, 20, 160, -20, -160, 70, 110, -70, -110])
    radii = dots * np.arange(9, 300, 6)
    for i in sorted(range(len(points)), key=lambda i: -points[i].top1):
        (x, y), p = marks[i], points[i]
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
        )
        box = Text.get_window_extent(text, renderer)
        wide, high = box.width + 4 * dots, box.height + 2 * dots
        # The nearest corner or edge of the name is at the offset, so that names on the left end at their mark.
        places = [
            (x + r * np.cos(a) - wide * (np.cos(a) < 0), y + r * np.sin(a) - high / 2) for r in radii for a in angles
        ]
        boxes = np.array([(x0, y0, x0 + wide, y0 + high) for x0, y0 in places])
        outside = (boxes[:, :2] < (inside.x0, inside.y0)).any(1) | (boxes[:, 2:] > (inside.x1, inside.y1)).any(1)
        away = _away(marks, boxes)  # place, mark
        near = away[:, i] < np.delete(away, i, 1).min(1, initial=np.inf) - dots
        faults = 1000 * outside + 100 * _meets(boxes, np.array(taken)) + 50 * ~near + _meets(boxes, crossed)
        best = int(np.argmin(faults))  # the first of the best: the nearest
        taken.append(tuple(boxes[best]))
        text.set_position(((boxes[best, 0] + 2 * dots - x) / dots, (boxes[best, 1] + high / 2 - y) / dots))
        if away[best, i] > NEAR * dots or not near[best]:
            ends = axes.transData.inverted().transform([marks[i], np.clip(marks[i], boxes[best, :2], boxes[best, 2:])])
            axes.plot(*ends.T, color=GREY, lw=0.8, zorder=1.5, gid=f"leader of {p.name}")


def _meets(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The number of other boxes that each box overlaps; boxes are rows of x0, y0, x1, y1."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    a0, b0, a1, b1 = others.T
    return ((x0 < a1) & (x1 > a0) & (y0 < b1) & (y1 > b0)).sum(1)


def _away(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Distance of each point (columns) from each box (rows)."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    x, y = points.T
    return np.hypot(x - np.clip(x, x0, x1), y - np.clip(y, y0, y1))


# -------------------------------------------------------------------------------------------------------- confusion


def confusion_figure(tables: Mapping[str, pd.DataFrame], classes: Sequence[str], title: str = "") -> Figure:
    """The figure that ``draw_confusion`` writes."""
    columns = min(CONFUSION_COLUMNS, len(tables))
    rows = ceil(len(tables) / columns)
    figure = narrow(title, 1.3 + 1.9 * rows, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    named = len(classes) <= NAMED_CLASSES
    for i, (axes, (name, table)) in enumerate(zip(grid.flat, tables.items(), strict=False)):
        extent = (0.5, len(classes) + 0.5, len(classes) + 0.5, 0.5)  # classes are numbered from 1
        matrix = confusion(table, len(classes))
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100, aspect="auto", extent=extent)
        axes.set_title(fill(name, 20), fontsize=8)
        axes.tick_params(labelsize=8, labelbottom=i + columns >= len(tables), labelleft=i % columns == 0)
        if named:
            numbers = range(1, len(classes) + 1)
            axes.set_xticks(numbers)
            axes.set_yticks(numbers, [f"{_short(c, 24)}  {n}" for n, c in zip(numbers, classes, strict=True)])
    figure.supylabel("class of the video" + ("" if named else ", by its number in the data set's list"), fontsize=10)
    figure.supxlabel("class that the model takes it for", fontsize=10)
    bar = figure.colorbar(image, ax=grid, location="top", fraction=0.03, pad=0.01, aspect=60)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the class's videos (%)", size=10)
    return figure


def confusion(table: pd.DataFrame, classes: int) -> np.ndarray:
    """Percent of each class's videos (rows) that are taken for each class (columns).

    A failed video counts for no class, so that its row sums to less than 100.
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
    figure = narrow(title, 1.5 + 0.42 * len(found), layout="constrained")
    axes = figure.subplots()
    names = sorted(found, key=lambda n: found[n]["order_matters"]["points"])
    for i, name in enumerate(names):
        f = found[name]
        for k, (order, (colour, mark, _)) in enumerate(ORDERS.items()):
            at, n = i + 0.16 * (1.5 - k), f["n"]
            axes.plot(wilson(f["top1"][order], n), [at, at], color=colour, lw=1.3)
            axes.plot(100 * f["top1"][order] / n, at, mark, color=colour, ms=5)
        if f["to_partner"] is not None:
            axes.plot(100 * f["to_partner"] / f["n"], i + 0.16 * 0.5, "<", color=INK, mfc="none", mew=1.1, ms=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 accuracy (%), bars: 95 % intervals")
    tidy(axes, "x")
    handles = [Line2D([], [], color=c, marker=m, ms=5, lw=1.3, label=text) for c, m, text in ORDERS.values()]
    if any(f["to_partner"] is not None for f in found.values()):
        partner = dict(color=INK, marker="<", mfc="none", mew=1.1, ms=9, lw=0)
        handles.append(Line2D([], [], **partner, label="reversed, taken for the class played backwards"))
    figure.legend(handles=handles, loc="outside lower center", ncol=2, frameon=False, fontsize=9)
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
    names = [fill(_short(c, 60), 32) for c in share.index]
    figure = narrow(title, 1.3 + 0.15 * len(share) + 0.17 * sum(n.count("\n") + 1 for n in names), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(share))[::-1]
    axes.hlines(at, share.shuffled, share.natural, color=RULE, lw=2, zorder=1)
    for order in ("shuffled", "natural"):
        colour, mark, text = ORDERS[order]
        axes.plot(share[order], at, mark, color=colour, ms=6, label=text)
    axes.set_yticks(at, names)
    axes.set_xlim(-2, 102)
    of = "model" if len(found) == 1 else f"{len(found)} models"
    axes.set_xlabel(f"videos classified correctly (%), mean of {of}")
    tidy(axes, "x")
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=9)
    return figure
