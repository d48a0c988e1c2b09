"""The picture of a two-stream architecture, for a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.text import Text

from autotsnet.architecture import STREAMS, BlockChoice, GroupChoice, TwoStreamArchitecture
from autotsnet.models.two_stream import STEM_TEMPORAL_KERNELS
from reproduce.pictures.common import GREY, GRID, INK, PAPER, RULE, VERMILLION, save

FUSION_LABELS = {
    "none": "none",
    "concat": "concat",
    "fast_to_slow": "fast→slow",
    "slow_to_fast": "slow→fast",
    "both": "both",
}
ATTENTION_LABELS = {"se": "SE", "nonlocal": "NL", "glore": "GloRe", "temporal": "TA"}
ATTENTION_NAMES = {
    "se": "squeeze-and-excitation",
    "nonlocal": "non-local",
    "glore": "global reasoning",
    "temporal": "temporal attention",
}

FEATURES = "#4d4d4d"
FUSION = VERMILLION
ATTENTION = "#8A3B73"  # Okabe and Ito's reddish purple, darker: its letters are white
KERNEL_COLOURS = {1: "#cfe3f3", 3: "#56A0D8", 5: "#0A4A86"}  # light to dark with t; also in grey
KERNEL_COLOUR_OTHER = "#000000"

# inches
WIDTH, HEIGHT = 40 / 3, 7.5  # a 16:9 slide
MARGIN = 0.3
CLIP_WIDTH = 0.95
STEM_WIDTH = 0.66
MAP_WIDTH = 0.15
HEAD_WIDTH = 0.98
BADGE = (0.5, 0.24)
PAD = 0.07  # between a group's frame and its cells
GAP = 0.22  # least length of an arrow between two things
MAX_GAP = 0.7
MIN_BOX = 0.76  # so that the heading of a narrow group keeps clear of its neighbours
MAX_CELL_WIDTH, MAX_CELL_HEIGHT = 1.0, 2.4
MAX_ROWS = 6
MAX_LABEL_POINTS = 11.0
SMALL_LABEL_POINTS = 8.0  # when labels would be smaller, badges stand upright to make room
LANE_HEIGHT = {1: 3.8, 2: 2.0}  # by number of streams
LANE_CENTRES = {1: (3.75,), 2: (5.02, 2.47)}


def draw_architecture(
    architecture: TwoStreamArchitecture, path: Path, *, title: str = "", gmacs: float | None = None
) -> None:
    """Draw a network: streams as lanes, block groups as boxes, one bar per MBConv3D block.

    A bar's colour shows t, its width k, its height e. The feature maps stand between the groups; their height is
    proportional to their channels, on one scale for both streams. Fusions connect them.

    Args:
        architecture: two streams or one.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        title: above the picture; empty: ``Auto-TSNet`` and the architecture's hash.
        gmacs: cost per view, written in the line below the title.

    Raises:
        ValueError: the suffix is none of these.
        reproduce.whole_files.OutputError: the file cannot be written.
    """
    save(architecture_figure, path, architecture, title=title, gmacs=gmacs)


@dataclass(frozen=True)
class _Layout:
    """Positions in inches; both lanes have the same columns.

    Attributes:
        rows: greatest number of rows of bars in a group's box.
        columns: columns of bars, per group.
        cell: width and height of the place of one bar and its two labels.
        points: size of these labels.
        upright: whether badges are turned by 90 degrees.
        gap: length of the arrows between things.
        clip: left end of the clip.
        stem: left end of the stem.
        maps: centre of the feature maps after the stem and after each group.
        boxes: left and right end of each group's box.
        head: left end of the head.
    """

    rows: int
    columns: tuple[int, ...]
    cell: tuple[float, float]
    points: float
    upright: bool
    gap: float
    clip: float
    stem: float
    maps: tuple[float, ...]
    boxes: tuple[tuple[float, float], ...]
    head: float


def _layout(streams: dict[str, tuple[GroupChoice, ...]], upright: bool = False) -> _Layout:
    groups = list(zip(*streams.values(), strict=True))
    depths = [max(1, *(len(g.blocks) for g in group)) for group in groups]
    badges = [any(g.attention != "none" for g in group) for group in groups]
    gaps = 3 + sum(2 + badge for badge in badges)  # clip-stem, stem-map, before and after each box, last map-head
    fixed = 2 * MARGIN + CLIP_WIDTH + STEM_WIDTH + HEAD_WIDTH + MAP_WIDTH * (1 + len(groups))
    fixed += sum(BADGE[upright] * badge + 2 * PAD for badge in badges)
    free = WIDTH - fixed - GAP * gaps

    def fit(rows: int) -> tuple[float, tuple[int, ...], float, float]:
        columns = tuple(ceil(d / rows) for d in depths)
        width, narrow = free / sum(columns), 0
        while (now := sum(n * width < MIN_BOX for n in columns)) > narrow and now < len(columns):
            narrow = now
            wide = sum(n for n in columns if n * width >= MIN_BOX)
            width = (free - MIN_BOX * narrow) / wide
        width = min(MAX_CELL_WIDTH, width)
        height = min(MAX_CELL_HEIGHT, LANE_HEIGHT[len(streams)] / rows - 0.02)
        # the label "3×5²" is 2.6 em wide; two lines of labels may take half of the height
        return min(0.88 * 72 / 2.6 * width, 0.5 * 72 / 2.5 * height, MAX_LABEL_POINTS), columns, width, height

    rows = max(range(1, MAX_ROWS + 1), key=lambda r: (fit(r)[0], -r))
    points, columns, width, height = fit(rows)
    if points < SMALL_LABEL_POINTS and not upright:
        return _layout(streams, upright=True)
    inner = [max(MIN_BOX, n * width) for n in columns]
    gap = min(MAX_GAP, GAP + (free - sum(inner)) / gaps)
    clip = MARGIN + (WIDTH - fixed - sum(inner) - gap * gaps) / 2
    stem = clip + CLIP_WIDTH + gap
    x = stem + STEM_WIDTH + gap
    maps, boxes = [x + MAP_WIDTH / 2], []
    for wide, badge in zip(inner, badges, strict=True):
        left = x + MAP_WIDTH + gap
        right = left + wide + 2 * PAD
        boxes.append((left, right))
        x = right + gap + badge * (BADGE[upright] + gap)
        maps.append(x + MAP_WIDTH / 2)
    head = x + MAP_WIDTH + gap
    return _Layout(rows, columns, (width, height), points, upright, gap, clip, stem, tuple(maps), tuple(boxes), head)


def architecture_figure(architecture: TwoStreamArchitecture, *, title: str = "", gmacs: float | None = None) -> Figure:
    """The figure that ``draw_architecture`` writes."""
    macro = architecture.macro
    streams = {n: getattr(architecture, n) for n in STREAMS if getattr(architecture, n) is not None}
    frames = {"slow": macro.frames // macro.alpha, "fast": macro.frames}
    sides = [ceil(macro.crop / 2)]  # the stem's stride is 2
    for stride in macro.strides:
        sides.append(ceil(sides[-1] / stride))
    widths = {n: [macro.stems[STREAMS.index(n)], *(g.channels for g in groups)] for n, groups in streams.items()}
    # what a concat adds to the slow stream: twice the fast stream's channels
    lateral = [2 * widths["fast"][i] if f == "concat" else 0 for i, f in enumerate(architecture.fusions)] + [0]

    layout = _layout(streams)
    axes, figure = _canvas()
    lane_height = LANE_HEIGHT[len(streams)]
    centres = dict(zip(streams, LANE_CENTRES[len(streams)], strict=True))
    extra = {n: lateral if n == "slow" else [0] * len(lateral) for n in streams}
    scale = lane_height / max(c + x for n in streams for c, x in zip(widths[n], extra[n], strict=True))
    blocks = [b for groups in streams.values() for g in groups for b in g.blocks]
    largest = (max(b.k for b in blocks), max(b.e for b in blocks))

    _heading(axes, architecture, streams, title, gmacs, layout.rows > 1)
    for name, groups in streams.items():
        y, above = centres[name], name == next(iter(streams))
        _clip(axes, name, layout, y, frames[name], macro.crop)
        axes.plot([layout.stem + STEM_WIDTH / 2, layout.head], [y, y], color=RULE, lw=1.4, zorder=1)
        _arrow(axes, (layout.head - 0.12, y), (layout.head, y), RULE, 1.4)
        _stem(axes, layout, y, STEM_TEMPORAL_KERNELS[STREAMS.index(name)])
        for g, group in enumerate(groups):
            _group(axes, group, layout, g, y, lane_height, largest)
        for i, x in enumerate(layout.maps):
            _feature_map(axes, x, y, widths[name][i], extra[name][i], scale)
            edge = lane_height / 2 + 0.08
            _text(
                axes,
                x,
                y + (edge + 0.19 if above else -edge),
                f"{widths[name][i]} ch",
                10,
                weight="bold",
                va="bottom" if above else "top",
            )
            _text(
                axes,
                x,
                y + (edge if above else -edge - 0.19),
                f"{sides[i]}² px",
                9,
                color=GREY,
                va="bottom" if above else "top",
            )
    top = max(centres.values()) + lane_height / 2 + 0.08
    for g, (left, right) in enumerate(layout.boxes):
        depths = list(dict.fromkeys(len(groups[g].blocks) for groups in streams.values()))
        count = " | ".join(map(str, depths)) + (" block" if depths == [1] else " blocks")
        _text(axes, (left + right) / 2, top + 0.19, f"group {g + 1}", 10, weight="bold", va="bottom")
        _text(axes, (left + right) / 2, top, count, 9, color=GREY, va="bottom")
    if len(streams) == 2:
        for i, fusion in enumerate(architecture.fusions):
            low = centres["fast"] + scale * widths["fast"][i] / 2
            high = centres["slow"] - scale * (widths["slow"][i] + lateral[i]) / 2
            _fusion(axes, layout.maps[i], low, high, sum(centres.values()) / 2, fusion, lateral[i])
    head = min(centres.values()) - lane_height / 2, max(centres.values()) + lane_height / 2
    _head(axes, layout.head, *head, [w[-1] for w in widths.values()], macro.head)
    _legend(axes, architecture, blocks)
    return figure


def _canvas() -> tuple[Axes, Figure]:
    """Axes that fill a slide, in inches."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    return axes, figure


def _text(axes: Axes, x: float, y: float, text: str, size: float, **kwargs) -> Text:
    style = {"ha": "center", "va": "center", "color": INK, "zorder": 6} | kwargs
    return axes.text(x, y, text, fontsize=size, **style)


def _box(axes: Axes, x: float, y: float, w: float, h: float, face: str, edge: str, **kwargs) -> None:
    rounding = min(0.08, w / 2, h / 2)
    style = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(
        FancyBboxPatch((x, y), w, h, boxstyle=style, fc=face, ec=edge, **({"lw": 1.0, "zorder": 2} | kwargs))
    )


def _arrow(axes: Axes, start: tuple, end: tuple, colour: str, lw: float, style: str = "-|>") -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=12,
            shrinkA=0,
            shrinkB=0,
            color=colour,
            lw=lw,
            zorder=3,
            capstyle="butt",
            joinstyle="miter",
        )
    )


def _heading(
    axes: Axes, architecture: TwoStreamArchitecture, streams: dict, title: str, gmacs: float | None, wrapped: bool
) -> None:
    macro = architecture.macro
    depth = " + ".join(str(sum(len(g.blocks) for g in groups)) for groups in streams.values())
    facts = [
        f"clip of {macro.frames} frames, {macro.crop} × {macro.crop} px",
        f"{depth} MBConv3D blocks" + ", row by row" * wrapped,
    ]
    if gmacs is not None:
        facts.insert(0, f"{gmacs:.3g} GMACs per view")
    if len(streams) == 1:
        facts.append(f"{next(iter(streams))} stream alone")
    _text(axes, MARGIN, 7.12, title or f"Auto-TSNet {architecture.hash}", 19, weight="bold", ha="left")
    _text(axes, MARGIN, 6.74, "  ·  ".join(facts), 11.5, color=GREY, ha="left")


def _clip(axes: Axes, name: str, layout: _Layout, y: float, frames: int, crop: int) -> None:
    """Frames as cards over a time span that is the same for both streams: those of the fast stream stand closer."""
    side, span = 0.42, 0.36
    left = layout.clip + (CLIP_WIDTH - side - span) / 2
    steps = np.linspace(0, 1, frames)
    for i, at in enumerate(steps[::-1]):
        x0, y0 = left + span * at, y - side / 2 - 0.12 + 0.26 * at
        axes.add_patch(Rectangle((x0, y0), side, side, fc="white", ec=INK, lw=0.8, zorder=2 + i / (frames + 1)))
    middle = left + (side + span) / 2
    _text(axes, middle, y + 0.56, name, 14, weight="bold")
    _text(axes, middle, y - 0.53, f"{frames} frame" + "s" * (frames != 1), 10)
    _text(axes, middle, y - 0.73, f"{crop}² px", 9, color=GREY)
    _arrow(axes, (left + side + span + 0.04, y), (layout.stem, y), RULE, 1.4)


def _stem(axes: Axes, layout: _Layout, y: float, temporal_kernel: int) -> None:
    _box(axes, layout.stem, y - 0.42, STEM_WIDTH, 0.84, PAPER, RULE)
    lines = ["1×3²"] + [f"{temporal_kernel}×1²"] * (temporal_kernel > 1)
    _text(axes, layout.stem + STEM_WIDTH / 2, y + 0.22, "stem", 10.5, weight="bold")
    _text(axes, layout.stem + STEM_WIDTH / 2, y - 0.12, "\n".join(lines), 9)


def _group(axes: Axes, group: GroupChoice, layout: _Layout, g: int, y: float, height: float, largest: tuple) -> None:
    (left, right), cell_height, columns = layout.boxes[g], layout.cell[1], layout.columns[g]
    pitch = (right - left - 2 * PAD) / columns
    _box(axes, left, y - height / 2, right - left, height, PAPER, RULE)
    rows = ceil(len(group.blocks) / columns)
    top = y + rows * cell_height / 2
    for r in range(rows):
        row = group.blocks[r * columns : (r + 1) * columns]
        x = left + PAD
        if rows == 1:
            x += (columns - len(row)) * pitch / 2
        for b, block in enumerate(row):
            _block(axes, block, x + (b + 0.5) * pitch, top - (r + 1) * cell_height, layout, largest)
    if group.attention != "none":
        _badge(axes, right + layout.gap, y, ATTENTION_LABELS[group.attention], layout.upright)


def _block(axes: Axes, block: BlockChoice, x: float, y: float, layout: _Layout, largest: tuple[int, float]) -> None:
    """A bar on the line between its labels: e above, t×k² below."""
    width, height = layout.cell
    line = 1.25 * layout.points / 72
    base = y + line + 0.01
    bar = (height - 2 * line - 0.03) * block.e / largest[1]
    wide = 0.78 * width * block.k / largest[0]
    colour = KERNEL_COLOURS.get(block.t, KERNEL_COLOUR_OTHER)
    axes.add_patch(Rectangle((x - wide / 2, base), wide, bar, fc=colour, ec=INK, lw=0.6, zorder=4))
    _text(axes, x, base + bar + 0.015, f"{block.e:.3g}", layout.points, color=GREY, va="bottom")
    _text(axes, x, base - 0.025, f"{block.t}×{block.k}²", layout.points, va="top")


def _badge(axes: Axes, x: float, y: float, label: str, upright: bool = False) -> None:
    width, height = BADGE[upright], BADGE[not upright]
    _box(axes, x, y - height / 2, width, height, ATTENTION, ATTENTION, zorder=4)
    _text(axes, x + width / 2, y - 0.005, label, 9, color="white", weight="bold", rotation=90 * upright)


def _feature_map(axes: Axes, x: float, y: float, channels: int, extra: int, scale: float) -> None:
    high = scale * (channels + extra)
    left, bottom = x - MAP_WIDTH / 2, y - high / 2
    axes.add_patch(Rectangle((left, bottom + scale * extra), MAP_WIDTH, scale * channels, fc=FEATURES, lw=0, zorder=5))
    if extra:
        axes.add_patch(
            Rectangle((left, bottom), MAP_WIDTH, scale * extra, fc="white", ec=FUSION, hatch="////", lw=0.8, zorder=5)
        )


def _fusion(axes: Axes, x: float, low: float, high: float, label_y: float, fusion: str, extra: int) -> None:
    label = FUSION_LABELS[fusion] + (f" +{extra}" if extra else "")
    if fusion == "none":
        axes.plot([x, x], [low, high], color=RULE, lw=0.9, ls=":", zorder=1)
        _text(axes, x, label_y, label, 9, color=GREY, bbox={"fc": "white", "ec": "none", "pad": 1.5})
        return
    style = {"slow_to_fast": "<|-", "both": "<|-|>"}.get(fusion, "-|>")
    _arrow(axes, (x, low), (x, high), FUSION, 2.0, style)
    box = {"fc": "white", "ec": FUSION, "lw": 1.4, "boxstyle": "round,pad=0.28"}
    _text(axes, x, label_y, label, 9, color=FUSION, weight="bold", bbox=box)


def _head(axes: Axes, left: float, low: float, high: float, widths: Sequence[int], hidden: int) -> None:
    _box(axes, left, low, HEAD_WIDTH, high - low, PAPER, RULE)
    steps = ["average\npool", f"FC\n{hidden}", "classes"]
    if len(widths) == 2:
        steps.insert(1, f"concat\n{sum(widths)} ch")
    x, middle, pitch = left + HEAD_WIDTH / 2, (low + high) / 2, 0.62
    _text(axes, x, high - 0.2, "head", 10.5, weight="bold")
    for i, step in enumerate(steps):
        at = middle + (len(steps) - 1) * pitch / 2 - i * pitch - 0.08
        _text(axes, x, at, step, 9.5)
        if i + 1 < len(steps):
            _arrow(axes, (x, at - 0.19), (x, at - 0.43), RULE, 1.2)


def _legend(axes: Axes, architecture: TwoStreamArchitecture, blocks: list[BlockChoice]) -> None:
    """The legend of the signs that the picture has, on two lines."""
    groups = [g for n in STREAMS for g in getattr(architecture, n) or ()]
    two_streams = architecture.slow is not None and architecture.fast is not None
    high, low = 0.66, 0.28
    axes.plot([MARGIN, WIDTH - MARGIN], [0.96, 0.96], color=GRID, lw=0.8)
    renderer = axes.figure.canvas.get_renderer()

    def say(x: float, y: float, text: str, **kwargs) -> float:
        label = _text(axes, x, y, text, 9.5, ha="left", **kwargs)
        return label.get_window_extent(renderer).transformed(axes.transData.inverted()).x1

    def bar(x: float, y: float, w: float, h: float, colour: str) -> float:
        axes.add_patch(Rectangle((x, y), w, h, fc=colour, ec=INK, lw=0.6, zorder=4))
        return x + w + 0.06

    x = say(MARGIN, high, "MBConv3D block", weight="bold") + 0.2
    for t in sorted({b.t for b in blocks}):
        x = bar(x, high - 0.09, 0.2, 0.18, KERNEL_COLOURS.get(t, KERNEL_COLOUR_OTHER))
        x = say(x, high, f"t = {t}") + 0.16
    ends = [x]
    x = say(MARGIN, low, "t×k², e on top", weight="bold") + 0.2
    kernels, expansions = sorted({b.k for b in blocks}), sorted({b.e for b in blocks})
    for k in kernels:
        x = bar(x, low - 0.09, 0.26 * k / kernels[-1], 0.18, "white")
        x = say(x, low, f"k = {k}") + 0.16
    for e in dict.fromkeys((expansions[0], expansions[-1])):
        x = bar(x, low - 0.1, 0.16, 0.24 * e / expansions[-1], "white")
        x = say(x, low, f"e = {e:.3g}") + 0.16
    x = max(*ends, x) + 0.2

    _feature_map(axes, x + 0.08, high, 1, 0, 0.3)
    ends = [say(x + 0.24, high, "features, height ∝ channels")]
    if "concat" in architecture.fusions:
        _feature_map(axes, x + 0.08, low, 0, 1, 0.24)
        ends.append(say(x + 0.24, low, "channels that concat adds"))
    x = max(ends) + 0.36

    if two_streams:
        kinds = set(architecture.fusions)
        ends = []
        if kinds - {"none"}:
            _arrow(axes, (x, high), (x + 0.36, high), FUSION, 2.0)
            ends.append(say(x + 0.44, high, "TS-Fusion"))
        if "none" in kinds:
            axes.plot([x, x + 0.36], [low, low], color=RULE, lw=0.9, ls=":")
            ends.append(say(x + 0.44, low, "no fusion"))
        x = max(ends) + 0.36
    present = [a for a in ATTENTION_LABELS if any(g.attention == a for g in groups)]
    for column in (present[:2], present[2:]):
        ends = [x]
        for y, kind in zip((high, low), column, strict=False):
            _badge(axes, x, y, ATTENTION_LABELS[kind])
            ends.append(say(x + BADGE[0] + 0.08, y, ATTENTION_NAMES[kind]) + 0.25)
        x = max(ends)
