"""The course of a search: entropy, cost and likelihood by step, weights of connections, curves of several runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.pictures.common import BLUE, GREEN, INK, NARROW, PURPLE, RULE, VERMILLION, narrow, save, tidy

JOURNAL_COLUMNS = ("step", "stage", "gmacs", "log_likelihood", "entropy", "samples")


def draw_trajectory(journal: pd.DataFrame, path: Path, budgets: Mapping[str, float]) -> None:
    """Draw the course of a search: entropy, samples per step, GMACs against the budget, log-likelihood.

    The title says how much the search decided: the share of the entropy that P has lost.

    Args:
        journal: a row per sampled architecture (or per step): ``step``, ``stage``, ``gmacs`` (per view),
            ``log_likelihood`` (mean per clip, nats; NaN: sample dropped), ``entropy`` (nats) and ``samples`` (K); the
            last two are the same in all rows of a step. Other columns are ignored. Steps are numbered by their place
            in the journal, so that the warm-up of a stage leaves no gap.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        budgets: GMACs per view that each stage aims at, by its name.

    Raises:
        ValueError: no rows, a column is missing, or an unknown suffix.
        reproduce.whole_files.OutputError: the file cannot be written.
    """
    save(trajectory_figure, path, journal, budgets)


def draw_connections(journal: pd.DataFrame, path: Path) -> None:
    """Draw the learned weights of a graph's connections: by node, kept ones filled, pruned ones hollow.

    Args:
        journal: a row per connection: ``node``, ``input`` (a node, too), ``weight`` (0 to 1) and ``kept``.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
    """
    save(connections_figure, path, journal)


def draw_curves(curves: Mapping[str, Sequence[np.ndarray]], path: Path, x: str, y: str) -> None:
    """Draw a quantity over steps: a line for each run, a colour and a dash for each kind of run.

    Args:
        curves: for each kind of run, by its name, the values of each run by step; at most four kinds. The axis begins
            at 0 where no value is negative.
        path: ``.png``, ``.svg`` or ``.pdf``; written atomically.
        x: label of the steps.
        y: label of the quantity, with its unit.
    """
    save(curves_figure, path, curves, x, y)


# ------------------------------------------------------------------------------------------------------- trajectory


def trajectory_figure(journal: pd.DataFrame, budgets: Mapping[str, float]) -> Figure:
    """The figure that ``draw_trajectory`` writes."""
    missing = [c for c in JOURNAL_COLUMNS if c not in journal.columns]
    if missing:
        raise ValueError(f"the journal has no column {', '.join(missing)}; it has {', '.join(journal.columns)}")
    if journal.empty:
        raise ValueError("the journal has no rows; draw it after the first step of the search")
    steps = _steps(journal)
    figure = narrow(f"The search decided {100 * decided(journal):.0f} % of the entropy of P", 6.6)
    panels = figure.subplots(4, 1, sharex=True, gridspec_kw={"hspace": 0.18})
    figure.subplots_adjust(left=0.145, right=0.885, top=0.86, bottom=0.095)
    colours = (BLUE, GREEN, VERMILLION, PURPLE)

    entropy, samples, gmacs, likelihood = panels
    for part in _stage_runs(steps):
        entropy.plot(part["position"], part["entropy"], color=colours[0], lw=1.8)
        samples.step(part["position"], part["samples"], where="mid", color=colours[1], lw=1.8)
    entropy.set_ylabel("entropy of P\n(nats)")
    samples.set_ylabel("samples per step\n(architectures)")
    samples.set_ylim(0, 1.12 * steps["samples"].max())
    _band(gmacs, steps, "gmacs", colours[2])
    for part in _stage_runs(steps):
        aim = budgets[part["stage"].iloc[0]]
        gmacs.plot(part["position"].iloc[[0, -1]], [aim, aim], color=INK, lw=1.4, ls="--")
    gmacs.annotate(
        f"budget\n{aim:.3g}",
        (1, aim),
        (6, 0),
        ha="left",
        va="center",
        fontsize=9,
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    gmacs.set_ylabel("expected cost\n(GMACs per view)")
    _band(likelihood, steps, "log_likelihood", colours[3])
    likelihood.set_ylabel("log-likelihood\n(nats per clip)")
    window = _window(steps)
    running = f", running over {window} steps" if window > 1 else ""
    likelihood.set_xlabel(
        f"update of P, warm-up left out; lines: mean of the step's samples{running};\nbands: their range"
    )
    for panel in panels:
        tidy(panel, "y")
    figure.align_ylabels(panels)
    edges = steps["position"].iloc[0] - 0.5, steps["position"].iloc[-1] + 0.5
    likelihood.set_xlim(*edges)
    _stages(panels, steps)
    return figure


def decided(journal: pd.DataFrame) -> float:
    """Share of the entropy that P has lost in a search; entropies of several stages are summed."""
    parts = [part["entropy"] for part in _stage_runs(_steps(journal))]
    first, last = sum(part.iloc[0] for part in parts), sum(part.iloc[-1] for part in parts)
    return 1 - last / first if first else 0.0


def _steps(journal: pd.DataFrame) -> pd.DataFrame:
    """A row for each step, in order; ``position`` is its number."""
    key = journal[["step", "stage"]]
    run = key.ne(key.shift()).any(axis=1).cumsum()
    finite = journal.assign(log_likelihood=journal["log_likelihood"].where(np.isfinite(journal["log_likelihood"])))
    steps = finite.groupby(run, sort=False).agg(
        stage=("stage", "first"),
        entropy=("entropy", "first"),
        samples=("samples", "first"),
        **{f"{c}_{f}": (c, f) for c in ("gmacs", "log_likelihood") for f in ("mean", "min", "max")},
    )
    return steps.reset_index(drop=True).assign(position=lambda s: s.index)


def _window(steps: pd.DataFrame) -> int:
    return max(1, len(steps) // 60)


def _stage_runs(steps: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Steps of one stage that follow each other."""
    for _, part in steps.groupby((steps["stage"] != steps["stage"].shift()).cumsum()):
        yield part


def _band(panel: Axes, steps: pd.DataFrame, column: str, colour: str) -> None:
    """Draw the range of the samples as a band and their mean as a line, smoothed by a running mean in long runs."""
    for part in _stage_runs(steps):
        at, mean = part["position"], part[f"{column}_mean"].rolling(_window(steps), min_periods=1, center=True).mean()
        panel.fill_between(at, part[f"{column}_min"], part[f"{column}_max"], color=colour, alpha=0.2, lw=0)
        panel.plot(at, mean, color=colour, lw=1.8)


def _stages(panels: Sequence[Axes], steps: pd.DataFrame) -> None:
    """Shade every second stage and write all names above the first panel, on a second line where names would touch."""
    first, last = steps["position"].iloc[0] - 0.5, steps["position"].iloc[-1] + 0.5
    inches = panels[0].get_position().width * NARROW / (last - first)
    taken = [-np.inf, -np.inf]
    for i, part in enumerate(_stage_runs(steps)):
        name, start, end = str(part["stage"].iloc[0]), part["position"].iloc[0] - 0.5, part["position"].iloc[-1] + 0.5
        for panel in panels:
            if i % 2:
                panel.axvspan(start, end, color="#000000", alpha=0.06, lw=0, zorder=0)
            if i:
                panel.axvline(start, color=RULE, lw=0.8, zorder=1)
        middle, half = (start + end) / 2, 0.05 * len(name) + 0.06  # inches, 10 points bold
        line = int(middle * inches - half < taken[0])
        taken[line] = middle * inches + half
        panels[0].annotate(
            name,
            (middle, 1),
            (0, 4 + 13 * line),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
            weight="bold",
        )


# ----------------------------------------------------------------------------------------------------------- curves


def curves_figure(curves: Mapping[str, Sequence[np.ndarray]], x: str, y: str) -> Figure:
    """The figure that ``draw_curves`` writes."""
    figure = narrow("", 4.2, layout="constrained")
    axes = figure.subplots()
    styles = zip((BLUE, VERMILLION, GREEN, PURPLE), ("-", "--", ":", "-."), strict=True)
    for (name, runs), (colour, dash) in zip(curves.items(), styles, strict=False):
        for i, run in enumerate(runs):
            axes.plot(run, color=colour, ls=dash, lw=1.8, label=name if i == 0 else None)
    if all(np.nanmin(run) >= 0 for runs in curves.values() for run in runs):
        axes.set_ylim(0)
    axes.margins(x=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    tidy(axes, "y")
    axes.legend(frameon=False, fontsize=10, handlelength=3)
    return figure


def connections_figure(journal: pd.DataFrame) -> Figure:
    """The figure that ``draw_connections`` writes."""
    share = 100 * journal.kept.mean()
    figure = narrow(f"The search kept {share:.0f} % of the connections", 4.4, layout="constrained")
    axes = figure.subplots()
    for kept, colour, face in ((True, BLUE, BLUE), (False, VERMILLION, "white")):
        rows = journal[journal.kept == kept]
        name = f"{'kept' if kept else 'pruned'} ({len(rows)} of {len(journal)})"
        axes.plot(rows.node, rows.weight, "o" if kept else "s", color=colour, mfc=face, ms=6, mew=1.4, label=name)
    axes.set_xticks(sorted(journal.node.unique()))
    axes.set_xlabel("node of the graph; a mark for each of its inputs")
    axes.set_ylabel("learned weight of the connection (sigmoid, 0 to 1)")
    tidy(axes, "y")
    figure.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=10)
    return figure
