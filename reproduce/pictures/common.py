"""What all pictures share: size, colours, saving.

Pictures are drawn with Matplotlib's objects, never with pyplot's global state, and are 1920 pixels wide as PNG. A
network is drawn for a slide (16:9); all others are so narrow that a phone shows them legibly. Most colours are from
Okabe and Ito's palette: colour-blind readers can tell them apart. Shapes, dashes or labels say the same as the colours.
Every colour is written into the file, so that a page can replace it by one of a dark palette.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from reproduce.whole_files import write_atomic

FORMATS = ("png", "svg", "pdf")
NARROW = 6.4  # inches, of all pictures but that of an architecture
PIXELS = 1920  # width of a PNG

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"  # Okabe and Ito's
PURPLE = "#6A3D7C"  # darker than theirs
INK, GREY, RULE, PAPER, GRID = "#222222", "#666666", "#9a9a9a", "#f3f3f1", "#dddddd"
# SVG text stays text (searchable, editable); a fixed salt makes equal pictures equal files.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "autotsnet", "font.family": "sans-serif", "hatch.linewidth": 0.8}
_STYLE |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)


def save(make: Callable[..., Figure], path: Path, *args, **kwargs) -> None:
    """Write the figure that ``make`` makes of the arguments, in the format that the suffix names, atomically."""
    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise ValueError(f"{path}: cannot draw {path.suffix or 'a file without suffix'}; use .{', .'.join(FORMATS)}")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    with matplotlib.rc_context(_STYLE):
        figure = make(*args, **kwargs)
        write_atomic(path, lambda part: _write(figure, part, suffix, metadata))


def _write(figure: Figure, path: Path, suffix: str, metadata: dict) -> None:
    figure.savefig(path, format=suffix, dpi=PIXELS / figure.get_figwidth(), metadata=metadata)
    if suffix == "png":  # 256 colours are plenty for these, and half the size
        with Image.open(path) as image:
            image.convert("RGB").quantize(256).save(path, format="png", optimize=True)


def narrow(title: str, height: float, **kwargs) -> Figure:
    """An empty picture that fits a phone; ``height`` in inches."""
    figure = Figure(figsize=(NARROW, height), facecolor="white", **kwargs)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=12, weight="bold", gid="title")
    return figure


def tidy(axes: Axes, grid: str) -> None:
    """Two spines, a faint grid, letters of one size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_size(10)
    axes.yaxis.label.set_size(10)
