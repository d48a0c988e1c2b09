"""The data card of VideoNAS, from its table: what is in it, how sure it is, and what it says of the variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution
from scipy.stats import kendalltau
from tabulate import tabulate

from reproduce.evidence.statistics import holm
from reproduce.evidence.tabular import FACTORS
from reproduce.studies.headroom import intraclass

RESAMPLES = 1000
LEAST = 40  # networks, for effects
TWO, ONE = ("mostly_slow", "even", "mostly_fast"), ("slow", "fast")
PAPER = dict(  # the six variables of Auto-TSNet, by factor
    split="C, between the streams",
    temporal="t",
    fusion="type of TS-Fusion",
    attention="type of attention",
    expansion="e, against C",
    kernel="k",
    depth="none: fixed there",
)
CELL = [name for name in FACTORS if name not in ("split", "fusion")]  # what one and two streams have in common
PREDICTORS = dict(
    params="parameters",
    clips_per_s="clips/s",
    loss_third="loss at a third, negative",
    validation_third="validation at a third",
    validation_two_thirds="validation at two thirds",
    validation="validation at the end",
)


def interval(statistic: Callable[[np.ndarray], Any], n: int, seed: int = 0) -> np.ndarray:
    """95 % bootstrap interval of a statistic of the indices of n networks: its lower and upper ends."""
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
    return np.nanquantile(draws, (0.025, 0.975), axis=0)


def fit(blocks: Sequence[np.ndarray], y: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Main effects by least squares, those of a factor around its mean; the residual sum of squares, and the rank."""
    x = np.hstack([np.ones((len(y), 1)), *blocks])
    beta, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = [part - part.mean() for part in np.split(beta[1:], ends)]
    return np.concatenate(parts), float(((y - x @ beta) ** 2).sum()), int(rank)


def effects(rows: pd.DataFrame, factors: Sequence[str], value: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Main effects of each level and of each factor, on networks with one value each.

    Returns:
        By level: ``factor``, ``level``, ``n``, ``effect`` with ``low`` and ``high``, ``best`` of its networks. By
        factor: ``factor``, ``range`` between its levels' effects with ``low`` and ``high``, ``share`` of the variance,
        ``p`` of no effect (F test, Holm over the factors).
    """
    y = rows[value].to_numpy(float)
    present = {name: [level for level in FACTORS[name] if (rows[name] == level).any()] for name in factors}
    blocks = [(rows[n].to_numpy()[:, None] == np.array(present[n])).astype(float) for n in factors]
    found, rss, rank = fit(blocks, y)
    owner = np.repeat(np.arange(len(factors)), [block.shape[1] for block in blocks])

    def again(index: np.ndarray) -> np.ndarray:
        draw = fit([block[index] for block in blocks], y[index])[0]
        return np.concatenate([draw, [np.ptp(draw[owner == i]) for i in range(len(factors))]])

    low, high = interval(again, len(y))
    total, levels, of_factors = ((y - y.mean()) ** 2).sum(), [], []
    each = [(name, level) for name in factors for level in present[name]]
    for i, (name, level) in enumerate(each):
        mine = rows[rows[name] == level]
        ends = dict(effect=found[i], low=low[i], high=high[i])
        levels.append(dict(factor=name, level=level, n=len(mine), **ends, best=mine[value].max()))
    for i, name in enumerate(factors):
        _, without, less = fit([block for j, block in enumerate(blocks) if j != i], y)
        share, freedom = (without - rss) / max(rank - less, 1), max(len(y) - rank, 1)
        p = f_distribution.sf(share / (rss / freedom), rank - less, freedom) if rss > 0 else 0.0
        ends = dict(range=np.ptp(found[owner == i]), low=low[len(each) + i], high=high[len(each) + i])
        of_factors.append(dict(factor=name, **ends, share=(without - rss) / total, p=float(p)))
    table = pd.DataFrame(of_factors)
    table["p"] = holm(table.p)
    table.attrs["explained"] = 1 - rss / total
    return pd.DataFrame(levels), table


def tau(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau-b of networks with its bootstrap interval; nan where it has no value."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    low, high = interval(lambda index: kendalltau(a[index], b[index])[0], len(a))
    return float(kendalltau(a, b)[0]), float(low), float(high)


def streams(first: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """Test of two streams minus that of one at equal GMACs, over cells in which all else is equal; with intervals.

    What is best is chosen by validation.
    """
    cells = {cell: rows for cell, rows in first.groupby(CELL) if set(rows.split) >= set(ONE) and len(rows) > 2}
    out = []

    def row(text: str, differences: list[float]) -> None:
        d = np.array(differences)
        out.append((text, float(d.mean()), *interval(lambda index: d[index].mean(), len(d))))

    def at(rows: pd.DataFrame, split: str, fusion: str, column: str = "test") -> float:
        found = rows[(rows.split == split) & (rows.fusion == fusion)][column]
        return float(found.iloc[0]) if len(found) else np.nan

    if len(cells) < 4:
        return out
    for one in ONE:
        row(
            f"mean of two streams − {one} alone",
            [rows[rows.split.isin(TWO)].test.mean() - at(rows, one, "none") for rows in cells.values()],
        )
    pairs = first.groupby(["split", "fusion"]).validation.mean()
    two = pairs[pairs.index.get_level_values(0).isin(TWO)].idxmax()
    one = pairs[pairs.index.get_level_values(0).isin(ONE)].idxmax()
    both = [(at(rows, *two), at(rows, *one)) for rows in cells.values()]
    row(f"{two[0]} with {two[1]}, the best two − {one[0]} alone, the best one", [a - b for a, b in both if a == a])
    return out


def traits(architecture: str) -> dict[str, float]:
    """Of an architecture of the whole space, one number for each of the six variables."""
    a = json.loads(architecture)
    groups = [group for stream in ("slow", "fast") for group in a[stream] or ()]
    blocks = [block for group in groups for block in group["blocks"]]
    channels = [np.mean([np.log(group["channels"]) for group in a[stream]]) for stream in ("slow", "fast")]
    return dict(
        temporal=np.mean([block["t"] > 1 for block in blocks]),
        kernel=np.mean([block["k"] > 3 for block in blocks]),
        split=channels[1] - channels[0],
        expansion=np.mean([np.log(block["e"]) for block in blocks]),
        fusion=np.mean([fusion != "none" for fusion in a["fusions"]]),
        attention=np.mean([group["attention"] != "none" for group in groups]),
    )


def traits_effects(rows: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """Points of test for one standard deviation more of each trait, by least squares over random architectures."""
    x, y = pd.DataFrame([traits(a) for a in rows.architecture]), rows.test.to_numpy(float)
    z = np.column_stack([np.ones(len(y)), (x - x.mean()) / x.std()])

    def slopes(index: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(z[index], y[index], rcond=None)[0][1:]

    ends = interval(slopes, len(y))
    return [(name, *map(float, values)) for name, *values in zip(x, slopes(np.arange(len(y))), *ends, strict=True)]


def _pm(middle: float, low: float, high: float, sign: str = "") -> str:
    return f"{middle:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _grid(rows: Sequence[dict | Sequence], headers: Sequence[str] | str = "keys") -> str:
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def certainty(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What repeated networks say of single runs: name and value."""
    info, out = table.attrs["videonas"], []
    wide = table.pivot(index="code", columns="seed", values="test").reindex(columns=info["seeds"]).dropna()
    at_random = wide[wide.index.isin(info["repeated_at_random"])].to_numpy(float)
    if len(at_random) > 1 and at_random.shape[1] > 1:
        out.append((f"ICC of single runs, {len(at_random)} random networks", _pm(*intraclass(at_random))))
        out.append(("SD of seeds, points", f"{np.sqrt(at_random.var(1, ddof=1).mean()):.2f}"))
        out.append(("SD of networks' means, points", f"{at_random.mean(1).std(ddof=1):.2f}"))
    if len(at_random) > 4 and at_random.shape[1] > 2:
        out.append(("Kendall's tau of seeds 1 and 2, random networks", _pm(*tau(*at_random[:, 1:3].T))))
    others = wide[~wide.index.isin(info["repeated_at_random"])].to_numpy(float)
    if len(others) > 4 and others.shape[1] > 2:
        out.append((f"the same, the {len(others)} others that are repeated, the best", _pm(*tau(*others[:, 1:3].T))))
    return out


def card(table: pd.DataFrame) -> str:
    """The data card, Markdown; what the table is too small for is left out."""
    info = table.attrs["videonas"]
    whole = table[(table.seed == info["seeds"][0]) & ~table.diverged]
    first, drawn = whole[whole.part == "factorial"], whole[whole.part == "random"]
    two = first[first.split.isin(TWO)]
    parts = [
        f"# VideoNAS: {info['dataset']} at {info['budget']:g} GMACs per view",
        "Video networks of equal GMACs as a table to search in: `reproduce/evidence/tabular.py` reads it, with numpy "
        "and pandas only. Made by `make videonas`, which rebuilds any part; nothing here is typed by hand. The videos "
        "are generated: the table ranks networks on them, and says nothing of Kinetics or Something-Something.",
        _grid(
            [
                ("space version", info["space"]),
                ("setting", f"{info['setting']}: {json.dumps(info['changes']) if info['changes'] else 'quick suite'}"),
                ("networks", f"{table.code.nunique()} of {info['planned']} planned, {len(table)} runs"),
                ("of them", f"{len(first)} of the subspace, {len(drawn)} drawn from the whole space, first seed"),
                ("missed the budget by over 1 %, not trained", ", ".join(info["missed"]) or "none"),
                ("diverged, counted as chance", str(int(table.diverged.sum()))),
                ("distance to the budget", f"{100 * table.residual.abs().max():.2f} % at the most"),
                (
                    "core-seconds of a run",
                    f"{table.core_s.mean():.0f} in the mean, {table.core_s.sum() / 3600:.1f} h in all",
                ),
                ("videos", ", ".join(f"{k} {v}" for k, v in info["manifests"].items())),
                ("code", ", ".join(c[:8] for c in info["commits"]) + (", with changes" if info["dirty"] else "")),
                ("trained on", ", ".join(info["devices"]) + f", {', '.join(map(str, info['threads']))} thread"),
                ("timed on", "; ".join(info["timed_on"]) or "not timed yet"),
            ],
            ("what", "value"),
        ),
        "## Factors",
        _grid(
            [(name, PAPER[name], ", ".join(levels)) for name, levels in FACTORS.items()], ("factor", "paper", "levels")
        ),
        "Attention, expansion, kernel and depth are a half fraction: an even number of them is at its second level. So "
        "no main effect is mixed with that of a pair. `slow` and `fast` are single streams, without fusion.",
    ]
    if len(two):
        shares = two.groupby("split").slow_share.mean()
        text = ", ".join(f"{name} {100 * shares[name]:.0f} %" for name in TWO if name in shares)
        parts.append(f"Share of the slow stream in the costs of both alone: {text}.")
    if sure := certainty(table):
        parts += ["## How sure is a run?", _grid(sure, ("test top-1", "value"))]
    if len(whole) > 4:
        r = np.corrcoef(whole.validation, whole.test)[0, 1]
        parts.append(f"Validation and test of the first seed: correlation {r:.2f}, {len(whole)} networks.")
    if len(two) >= LEAST:
        parts += _effects_text(two, sure)
    if rows := streams(first):
        best = first.loc[first.groupby("split").validation.idxmax()].set_index("split")
        text = ", ".join(f"{name} {best.test[name]:.1f} %" for name in FACTORS["split"] if name in best.index)
        parts += [
            "## One stream or two?",
            _grid([(text, _pm(*ends, sign="+")) for text, *ends in rows], ("at equal GMACs, all else equal", "points")),
            f"Test of the best by validation of each split, one run: {text}.",
        ]
    if len(drawn) >= LEAST:
        rows = [(PAPER[name], _pm(*ends, sign="+")) for name, *ends in traits_effects(drawn)]
        parts += [
            "## The whole space",
            f"{len(drawn)} random architectures, test of {drawn.test.min():.1f} to {drawn.test.max():.1f} %. Points of "
            "test for one standard deviation more of: share of blocks with temporal kernels, share with kernels of 5, "
            "channels of fast over slow and expansion (logarithms), share of positions with fusion, with attention.",
            _grid(rows, ("variable", "points")),
        ]
    if len(first) > 4:
        rows = []
        for name, text in PREDICTORS.items():
            values = first[name].to_numpy(float)
            if np.isfinite(values).all() and np.ptp(values):
                rows.append((text, _pm(*tau(-values if name.startswith("loss") else values, first.test))))
        parts += ["## What simple predictors say of the test", _grid(rows, ("predictor", "Kendall's tau"))]
    parts += ["## Columns", _columns(table)]
    return "\n\n".join(parts) + "\n"


def _effects_text(two: pd.DataFrame, sure: list[tuple[str, str]]) -> list[str]:
    levels, factors = effects(two, list(FACTORS))
    shown = [
        {
            "factor": row.factor,
            "paper": PAPER[row.factor],
            "best − worst level, points": _pm(row.range, row.low, row.high),
            "share of variance": f"{100 * row.share:.1f} %",
            "p (Holm)": f"{row.p:.2g}",
            "worth searching": "yes" if row.p < 0.05 else "not shown",
        }
        for row in factors.sort_values("share", ascending=False).itertuples()
    ]
    each = [
        (row.factor, row.level, row.n, _pm(row.effect, row.low, row.high, "+"), f"{row.best:.1f}")
        for row in levels.itertuples()
    ]
    explained = 100 * factors.attrs["explained"]
    text = f"Main effects explain {explained:.0f} % of the variance of single runs"
    text += ", which the ICC above bounds; what lies between is of interactions." if sure else "."
    return [
        "## Which variables matter?",
        f"Two-stream networks of the subspace, first seed, test, {len(two)} networks. Least squares; intervals by "
        "bootstrap over networks. The difference of the best and the worst level is never below zero: whether there is "
        "one is told by p, not by its interval.",
        _grid(shown),
        text,
        _grid(each, ("factor", "level", "networks", "effect, points", "best network, %")),
    ]


COLUMNS = dict(
    code="of the network, see `reproduce/evidence/tabular.py`",
    seed="of the run",
    part="`factorial` or `random`",
    gmacs="per view",
    params="parameters",
    clips_per_s="forward passes of one view, fp32",
    losses="mean training loss of each twelfth of the steps",
    validation="top-1 in percent on the validation videos; `_third`, `_two_thirds`: with the weights at that step",
    log_loss="of validation, nats; `test_log_loss`",
    test="top-1 in percent on the test videos: not to be searched by",
    answers="class said of each validation video, a byte each, 255: not read; `test_answers`; labels are in `attrs`",
    core_s="processor seconds of training and last validation",
    architecture="JSON, before `width` and `expansion_scale`",
    run="hash of the whole specification",
)


def _columns(table: pd.DataFrame) -> str:
    return _grid([(f"`{name}`", text) for name, text in COLUMNS.items() if name in table], ("column", "meaning"))
