"""The record of one run: typed, validated, complete. Tables are made from records and from nothing else."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from autotsnet.registry import family
from reproduce.spec import RunSpec, digest, lasting
from reproduce.whole_files import write_json

SCHEMA = 3


def _to_3(data: dict) -> dict:
    """Version 2 had no specification and one provenance for all stages, that of the last training session."""
    made = dict(data["provenance"])
    config = made.pop("config")
    made.pop("config_hash")
    return data | {"spec": None, "recipe_text": config, "provenance": {"train": [made], "test": [], "measure": None}}


MIGRATIONS: dict[int, Callable[[dict], dict]] = {
    # Version 1 began without the architecture search; records of that time say nothing of variants and search.
    1: lambda data: {"variant": 0, "search": None, **data},
    2: _to_3,
}
"""Version -> what makes of a record of that version one of the next."""

UNPROVEN = "its specification, network, threads, and where it was tested"
"""What a record of an older schema cannot prove."""

COLUMNS = ("id", "label", "frames", "error", "scores")  # of predictions

PACKAGES = (
    "torch",
    "torchvision",
    "mmengine",
    "mmcv-lite",
    "mmaction2",
    "pytorchvideo",
    "decord",
    "av",
    "numpy",
    "opencv-contrib-python",
)


ARCHITECTURES = {"architecture", "graph", "ops"}  # arguments of build functions
WRONG = 10**6  # a rank below any k, however few the classes


class RecordError(ValueError):
    """A record cannot be read or does not agree with its files; the message names it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Part):
    """What was run, and what it costs."""

    family: str
    net: dict  # arguments of the build function, after solving
    gmacs: float  # per view
    params: int
    budget: float  # GMACs per view
    residual: float  # gmacs / budget - 1
    matched: bool


class Data(_Part):
    """On which videos, under which protocol."""

    dataset: str
    train_manifest: str
    test_manifest: str
    train_videos: int
    train_absent: int = 0  # annotated, but without a file, and left out
    train_skipped: list[str] = []  # ids of those that could not be decoded; others stood in for them
    partial: bool = False  # the copy lacks much of its data set, and was allowed to
    resized: str = ""  # how its videos were encoded anew
    frames: int
    crop: int
    clips: int
    crops: int
    protocol: dict


class Result(_Part):
    """How well. Every number here can be recomputed from the predictions."""

    n: int  # videos, failed ones included: they count as wrong
    top1: int  # correct videos
    top5: int
    failed: list[str]  # ids of videos that could not be decoded
    predictions: str  # file name beside the record
    predictions_sha256: str


class Training(_Part):
    """At which cost."""

    steps: int
    epochs: float
    batch: int
    wall_s: float  # all sessions of an interrupted run together
    devices: int
    final_loss: float


class Throughput(_Part):
    """How fast: forward passes of one view, model only."""

    clips_per_s: float  # median
    spread: float  # interquartile range / median
    batch: int
    repeats: int
    device: str
    precision: str
    threads: int


class Session(_Part):
    """By which code, where, when: one session of one stage."""

    commit: str
    dirty: bool
    versions: dict[str, str]
    python: str
    platform: str
    device: str
    threads: int | None = None  # of torch on the CPU; None: not known of old records
    engine: str = ""  # what ran the network in a test: ``torch fp32``
    decoder: str
    time: str  # UTC, ISO 8601


class Provenance(_Part):
    """The sessions of each stage: an interrupted one has several. Empty where a record is too old to say."""

    train: list[Session]
    test: list[Session]
    measure: Session | None

    @property
    def sessions(self) -> list[Session]:
        """Those that the answers depend on."""
        return [*self.train, *self.test]

    @property
    def device(self) -> str:
        """Of training and test: ``A + B`` where there are several."""
        return " + ".join(sorted({s.device for s in self.sessions}))

    @property
    def threads(self) -> int | None:
        """Of training and test; None where unknown or not the same."""
        found = {s.threads for s in self.sessions}
        return found.pop() if len(found) == 1 else None

    @property
    def commit(self) -> str:
        """Of the last training session."""
        return self.train[-1].commit

    @property
    def dirty(self) -> bool:
        """Some stage ran on uncommitted changes."""
        return any(s.dirty for s in self.sessions)

    @property
    def time(self) -> str:
        """When the last training session began."""
        return self.train[-1].time


class Search(_Part):
    """What it took to find the architecture."""

    strategy: str
    space: str
    seed: int
    steps: int
    architectures: int  # judged
    clips: int  # that passed a network
    wall_s: float
    devices: int
    recipe: dict = {}  # the search recipe; empty in old records


class Tuning(_Part):
    """What choosing values of the recipe took: trials on training videos, judged on others that are no test videos."""

    trials: int
    seconds: float  # of a core or a GPU, of all trials
    unit: str  # core, GPU
    values: dict  # chosen, by place in the config: ``optim_wrapper.optimizer.lr``; empty: the recipe as it stands
    plan: str  # hash of space, lengths and seed
    train_manifest: str
    held_out_manifest: str


class Retuned(_Part):
    """Classifiers made anew on the network's features, see ``reproduce.engine.retune``, and how well on a long tail."""

    settings: dict  # of the stage
    train_counts: list[int]  # training videos by label
    validation_manifest: str  # videos that tau is chosen on
    validation_videos: int
    tau: float
    validation_macro: list[float]  # percent by tau
    classifiers: dict[str, dict[str, float]]  # percent by group, see ``longtail.weights``; ``joint``: the network's own
    predictions: str  # file name beside the record: ``id``, ``label``, the answer of each classifier
    predictions_sha256: str


class RunRecord(_Part):
    """One run of one entry of a suite with one seed."""

    schema_version: int = SCHEMA
    suite: str
    entry: str
    seed: int
    variant: int  # which of several architectures of the entry
    run: str  # hash of the specification
    spec: RunSpec | None  # None: a record of an older schema, see UNPROVEN
    recipe_text: str = ""  # of such a record, recipe and network as Python text
    note: str
    model: Model
    data: Data
    result: Result
    training: Training
    search: Search | None  # present when the architecture was searched for
    tuning: Tuning | None = None  # present when the recipe's values were chosen by trials
    retuned: Retuned | None = None  # present when its stages include ``retune``
    throughput: Throughput
    provenance: Provenance

    def save(self, path: Path) -> None:
        """Write JSON atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read, bring to the present schema where it is older, and validate.

        Raises:
            RecordError: unreadable, of an unknown schema, or not valid; the message names the file and the field.
        """
        try:
            data = json.loads(path.read_text())
            version = data.get("schema_version") if isinstance(data, dict) else None
            while isinstance(version, int) and version in MIGRATIONS:
                data = MIGRATIONS[version](data) | {"schema_version": version + 1}
                version += 1
            if version != SCHEMA:
                raise RecordError(f"{path}: schema version {version}, this code reads {min(MIGRATIONS)} to {SCHEMA}")
            return cls.model_validate(data)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RecordError(f"{path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise RecordError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class Kind(NamedTuple):
    """What runs of one row must have in common: they differ in seed and architecture only."""

    network: str  # hash; of one with an architecture, of all but that and the knobs that bring it to the budget
    recipe: str  # hash
    numerics: str  # version of the arithmetic; empty: unknown
    device: str
    threads: int | None
    ranks: int


def kind(record: RunRecord) -> Kind:
    """Of a record; of an old one, by the text of its recipe."""
    made, spec, net = record.provenance, record.spec, record.model.net
    if ARCHITECTURES & net.keys() and not (spec and spec.source):
        free = ARCHITECTURES.union(knob.name for knob in family(record.model.family).knobs)
        net = {name: value for name, value in net.items() if name not in free}
    network = digest([record.model.family, net])
    if spec:
        recipe = digest([lasting(spec.recipe), spec.source])
        return Kind(network, recipe, spec.numerics, made.device, made.threads, spec.ranks)
    recipe = re.sub(r"(?m)^(workers|checkpoint|log) = .*\n", "", re.split(r"(?m)^net = ", record.recipe_text)[0])
    return Kind(network, "old " + digest(recipe), "", made.device, None, record.training.devices)


def load_all(folder: Path) -> list[RunRecord]:
    """All records below a folder, by path."""
    return [RunRecord.load(p) for p in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def score(predictions: pd.DataFrame) -> tuple[int, int, list[str]]:
    """Correct videos at top-1 and at top-5, and the ids of those that failed (which are wrong)."""
    rank = ranks(predictions)
    return int((rank == 0).sum()), int((rank < 5).sum()), predictions.id[predictions.error != ""].tolist()


def predictions(record: RunRecord, folder: Path) -> pd.DataFrame:
    """The per-video predictions of a record: ``id``, ``label``, ``frames``, ``error``, ``scores``.

    Raises:
        RecordError: the file is missing, is not the one that the record was made from, or is not whole.
    """
    path = folder / record.result.predictions
    try:
        found = sha256(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    if found != record.result.predictions_sha256:
        raise RecordError(
            f"{path}: sha256 {found[:12]} is not the record's {record.result.predictions_sha256[:12]}; "
            "it was changed after the run: restore it, or run again"
        )
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are among them
        raise RecordError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    fault = _fault(table)
    if fault:
        raise RecordError(f"{path}: {fault}; restore it, or run again")
    return table


def retuned_answers(record: RunRecord, folder: Path) -> pd.DataFrame:
    """Answers of a record's classifiers by video, in the order of ids, -1 for none: ``id``, ``label``, ``joint``, ….

    Raises:
        RecordError: the file is missing, is not the one that the record was made from, or is of other videos.
    """
    path = folder / record.retuned.predictions
    if not path.exists() or sha256(path) != record.retuned.predictions_sha256:
        raise RecordError(f"{path} is missing or was changed after the run: restore it, or run again")
    try:
        return with_joint(pd.read_parquet(path), predictions(record, folder))
    except (AttributeError, OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
        raise RecordError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def with_joint(retuned: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """Answers of classifiers with those of the network's own as ``joint``, right where the test says so."""
    tested = tested.sort_values("id", ignore_index=True)
    if not (retuned.id.equals(tested.id) and retuned.label.equals(tested.label.astype(retuned.label.dtype))):
        raise RecordError("answers of classifiers are of other videos than the test's; run again")
    best = [-1 if error else int(np.argmax(scores)) for error, scores in zip(tested.error, tested.scores, strict=True)]
    joint = np.where((np.array(best) == tested.label) & (ranks(tested) != 0), -1, best)  # ties are wrong
    return pd.concat([retuned[["id", "label"]].assign(joint=joint), retuned.drop(columns=["id", "label"])], axis=1)


def _fault(table: pd.DataFrame) -> str:
    """What is wrong with predictions, by column; empty if nothing is."""
    if set(table.columns) != set(COLUMNS):
        return f"its columns are {', '.join(map(str, table.columns))}, not {', '.join(COLUMNS)}"
    if table.empty:
        return "id: there are no rows"
    for name in ("id", "error"):
        if not pd.api.types.is_string_dtype(table[name]):
            return f"{name}: not all are strings"
    if not table.id.is_unique:
        return f"id: {table.id[table.id.duplicated()].iloc[0]} is there twice"
    if table.label.dtype.kind not in "iu":
        return f"label: {table.label.dtype} are no class numbers"
    known = table.scores[table.error == ""]
    if not all(isinstance(s, np.ndarray) and s.ndim == 1 and s.dtype.kind == "f" for s in known):
        return "scores: not all are lists of numbers"
    classes = {len(s) for s in known}
    if len(classes) > 1 or 0 in classes:
        return f"scores: of {sorted(classes)} classes, not of one number for all videos"
    if table.label.min() < 0 or (classes and table.label.max() >= max(classes)):
        return f"label: {table.label.min()} to {table.label.max()}, not classes from 0 to {max(classes, default=1) - 1}"
    return ""


def ranks(predictions: pd.DataFrame) -> np.ndarray:
    """Per video, how many other classes score at least as high as the right one; ``WRONG`` where it failed.

    Ties count against the model, and so do scores that are not finite.
    """
    out = np.full(len(predictions), WRONG)
    usable = np.flatnonzero(predictions.error == "")
    if len(usable):
        scores = np.stack(predictions.scores.iloc[usable])
        right = np.take_along_axis(scores, predictions.label.to_numpy()[usable, None], 1)
        rank = (scores >= right).sum(1) - 1
        out[usable] = np.where(np.isfinite(scores).all(1), rank, WRONG)
    return out


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def device_name() -> str:
    """The GPU's name, else the processor's and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def session(decoder: str = "") -> Session:
    """Of what is done here and now."""
    return Session(
        commit=git_commit(),
        dirty=bool(_git("status", "--porcelain", "--", ":/", ":!/results")) or not _git("rev-parse", "HEAD"),
        versions={p: importlib.metadata.version(p) for p in PACKAGES},
        python=platform.python_version(),
        platform=platform.platform(),
        device=device_name(),
        threads=torch.get_num_threads(),
        decoder=decoder,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def git_commit() -> str:
    """Of this code."""
    return _git("rev-parse", "HEAD") or "unknown"


def _git(*args: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
