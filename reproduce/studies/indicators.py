"""What training-free indicators say of trained networks: Kendall's tau with the test of VideoNAS, at equal GMACs.

    python -m reproduce.studies.indicators --table results/videonas/videonas.parquet

Each network of the table's first seed is built as it was trained, and measured at its initialisation on clips of the
training videos, which are generated where they are missing; with ``--clips noise``, on normal noise. What is measured
is kept beside the record, so the same command goes on after an interruption.

Beside each raw tau: divided by what the noise of single runs takes from it (tau as the correlation ``sin(pi tau / 2)``,
over the root of the ICC of networks that were repeated by chance); and partial, with GMACs held fixed, which the table
holds to 1 %, and with parameters. Parameters, depth and GMACs are what an indicator must be better than.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau
from tabulate import tabulate
from torch import Tensor

from autotsnet.inputs import example
from autotsnet.models.families import auto_tsnet
from autotsnet.search.indicators import INDICATORS, Subject, measure
from autotsnet.search.indicators.judge import TEG_NAS, clips_and_labels
from autotsnet.search.indicators.ranks import rank_sum
from autotsnet.search.indicators.subject import known, scorable
from reproduce.evidence.tabular import DEFAULT, space_version
from reproduce.progress import Progress
from reproduce.records import session
from reproduce.studies.headroom import intraclass
from reproduce.studies.options import study_parser
from reproduce.studies.videonas_card import tau
from reproduce.whole_files import write_atomic, write_json

PAIRS = 8  # of clips
SUM = "teg_nas"  # the rank sum of TEG-NAS's three
Clips = tuple[Tensor, Tensor]


def noise(info: dict[str, Any], frames: int, crop: int) -> Clips:
    """Clips without videos, and labels that mean nothing."""
    return example(("rgb",), frames, crop, 2 * PAIRS, "cpu")[0], torch.arange(2 * PAIRS) // 2 % info["classes"]


def from_videos(info: dict[str, Any], cache: Path, runs: Path) -> Clips:
    """Clips of the table's training videos, evenly spread over the classes.

    Raises:
        ValueError: the videos are not those of the table.
    """
    from torch.utils.data import default_collate

    from reproduce.data.datasets import TrainClips
    from reproduce.engine.classifier import VideoClassifier
    from reproduce.studies.videonas import data_of

    of, (train, *_) = data_of(info["data"], info["setting"], cache, runs)
    if train.hash != info["manifests"]["train"]:
        raise ValueError(f"the training videos are {train.hash}, the table is of {info['manifests']['train']}")
    clips = TrainClips(train, of.protocol, 0)
    picks = np.linspace(0, len(clips) - 1, 2 * PAIRS).astype(int)
    batch = default_collate([clips[int(i)] for i in picks])
    (found,), labels = clips_and_labels(VideoClassifier(torch.nn.Identity()), batch)
    return found, labels


def network(row: dict[str, Any], classes: int, seed: int) -> torch.nn.Module:
    """A row's network at its initialisation."""
    torch.manual_seed(seed)
    scales = dict(width=row["width"], expansion=row["expansion_scale"])
    net = auto_tsnet(num_classes=classes, architecture=json.loads(row["architecture"]), dropout=0.0, **scales)
    return scorable(net)


def measured(
    rows: pd.DataFrame, names: Sequence[str], clips: Clips, classes: int, seed: int, path: Path
) -> pd.DataFrame:
    """Indicators of networks by code, with their CPU seconds as ``s``; those in the file are not measured again."""
    key = dict(names=list(names), seed=seed, clips=float(clips[0].double().abs().sum()))
    done: dict[str, dict] = {}
    with suppress(FileNotFoundError, KeyError):
        old = json.loads(path.read_text())
        done = old["values"] if old["key"] == key else {}
    with Progress("indicators", len(rows)) as progress:
        for row in rows.to_dict("records"):
            if row["code"] not in done:
                began = time.process_time()
                generator = torch.Generator().manual_seed(seed)
                subject = Subject(network(row, classes, seed), clips[:1], clips[1], classes, generator)
                values, reasons = measure(names, subject)
                done[row["code"]] = values | dict(s=time.process_time() - began, reasons=reasons)
                write_atomic(path, lambda part: part.write_text(json.dumps(dict(key=key, values=done))))
            progress.step(note=row["code"])
    return pd.DataFrame([done[code] for code in rows.code], index=rows.code)


def reliability(table: pd.DataFrame, info: dict[str, Any]) -> float:
    """ICC of single runs by the networks repeated by chance; nan where there are none."""
    wide = table.pivot(index="code", columns="seed", values="test").reindex(columns=info["seeds"]).dropna()
    again = wide[wide.index.isin(info["repeated_at_random"])].to_numpy(float)
    return intraclass(again)[0] if len(again) > 1 and again.shape[1] > 1 else np.nan


def disattenuated(t: float, icc: float) -> float:
    """Tau with the true values, if that of single runs is t: both as correlations of normal variables, at most 1."""
    if not icc > 0:
        return np.nan
    return 2 / np.pi * np.arcsin(np.clip(np.sin(np.pi * t / 2) / np.sqrt(icc), -1, 1))


def partial_tau(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Kendall's partial tau of x and y with z held fixed; tau itself where z does not vary."""
    t = {pair: kendalltau(*of)[0] for pair, of in dict(xy=(x, y), xz=(x, z), yz=(y, z)).items()}
    if np.isnan(t["xz"]) or np.isnan(t["yz"]):
        return t["xy"]
    rest = (1 - t["xz"] ** 2) * (1 - t["yz"] ** 2)
    return (t["xy"] - t["xz"] * t["yz"]) / np.sqrt(rest) if rest > 1e-12 else np.nan


def compared(values: pd.DataFrame, rows: pd.DataFrame, names: Sequence[str], icc: float) -> list[dict[str, Any]]:
    """By indicator, more is better: tau with its interval, disattenuated, partial, and networks without a value."""
    signs = dict(zip(names, (one.sign for one in known(names)), strict=True))
    columns = {name: values[name].to_numpy(float) * sign for name, sign in signs.items()}
    if set(TEG_NAS) <= set(names):
        three = torch.tensor(values[list(TEG_NAS)].to_numpy(float))
        columns[SUM] = -rank_sum(three, three, [signs[name] for name in TEG_NAS]).numpy()
    test, out = rows.test.to_numpy(float), []
    fixed: dict[str, Callable] = dict(gmacs=rows.gmacs, params=rows.params)
    for name, x in columns.items():
        failed = int(np.isnan(x).sum())
        x = np.where(np.isnan(x), np.nanmin(x, initial=0) - 1, x)  # ranked last
        t, low, high = tau(x, test)
        partial = {f"partial_{z}": partial_tau(x, test, v.to_numpy(float)) for z, v in fixed.items()}
        out.append(dict(indicator=name, tau=t, low=low, high=high, disattenuated=disattenuated(t, icc), **partial))
        out[-1]["failed"] = failed
    return sorted(out, key=lambda row: -np.nan_to_num(row["tau"], nan=-2))


def _plain(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing; print and write the comparison."""
    parser = study_parser(__doc__, "studies/indicators.json", "runs", "cache")
    parser.add_argument("--table", type=Path, default=DEFAULT)
    parser.add_argument("--part", choices=("factorial", "random", "all"), default="all")
    parser.add_argument("--names", default=",".join(INDICATORS), help="of indicators")
    parser.add_argument("--clips", choices=("videos", "noise"), default="videos")
    parser.add_argument("--seed", type=int, default=0, help="of weights")
    parser.add_argument("--limit", type=int, help="networks, the first ones of the table")
    options = parser.parse_args(argv)
    names = options.names.split(",")
    try:
        known(names)
    except ValueError as error:
        parser.error(str(error))
    table = pd.read_parquet(options.table)
    info = table.attrs.get("videonas", {})
    if info.get("space") != space_version():
        parser.error(f"{options.table} is of space version {info.get('space')}, this code knows {space_version()}")
    rows = table[(table.seed == info["seeds"][0]) & ((options.part == "all") | (table.part == options.part))]
    rows = rows.reset_index(drop=True)[: options.limit]
    if len(rows) < 3:
        parser.error(f"{options.table}: {len(rows)} networks of part {options.part} have no rank, take 3 or more")
    if options.clips == "noise":
        macro = json.loads(rows.architecture[0])["macro"]
        clips = noise(info, macro["frames"], macro["crop"])
    else:
        clips = from_videos(info, options.cache, options.runs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    path = options.out.with_suffix(".measured.json")
    values = measured(rows, names, clips, info["classes"], options.seed, path)
    icc = reliability(table, info)
    found = compared(values, rows, names, icc)
    record = dict(
        indicators=found,
        networks=len(rows),
        part=options.part,
        clips=options.clips,
        icc=icc,
        seconds=float(values.s.median()),
        reasons={code: why for code, why in values.reasons.items() if why},
        setting=info["setting"],
        space=info["space"],
        provenance=session("none").model_dump(),
    )
    write_json(options.out, _plain(record))
    shown = [{**row, "interval": f"[{row.pop('low'):.2f}, {row.pop('high'):.2f}]"} for row in map(dict, found)]
    print(tabulate(shown, headers="keys", tablefmt="pipe", floatfmt=".2f"))
    print(
        f"{len(rows)} networks of {info['dataset']}, ICC {icc:.2f}, {values.s.median():.2f} CPU seconds for all of one"
    )


if __name__ == "__main__":
    main()
