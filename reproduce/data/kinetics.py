"""Kinetics-400: official CSVs with ``<split>/<class>/<id>_<start>_<end>.mp4`` or flat files."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from reproduce.data.manifest import DataError, Manifest, Video

HEADER = {"label", "youtube_id", "time_start", "time_end"}


def load(root: str | Path, split: str, dataset: str = "Kinetics-400") -> Manifest:
    """Read a copy of Kinetics.

    Args:
        root: folder with ``annotations/<split>.csv`` and ``<split>/``.
        split: ``train`` or ``val``.
        dataset: name for records and tables.

    Returns:
        One video per CSV row, whether its file is there or not (a missing one counts as wrong at test time); labels
        are indices into the alphabetical list of the classes of the training annotation.

    Raises:
        DataError: the root or an annotation is missing or of another form; the message says which and what to do.
    """
    root = Path(root)
    annotation = root / "annotations" / f"{split}.csv"
    if not (root / "annotations").is_dir() or not (root / split).is_dir():
        missing = " or ".join(f"{d}/" for d in ("annotations", split) if not (root / d).is_dir())
        raise DataError(f"KINETICS_ROOT={root} has no {missing}; see README, 'Kinetics-400'")
    rows = _rows(annotation)
    classes = tuple(sorted({r["label"] for r in _rows(root / "annotations" / "train.csv")}))
    index = {c: i for i, c in enumerate(classes)}
    files = _files(root, split)
    videos = []
    for number, row in enumerate(rows, start=2):
        if row["label"] not in index:
            raise DataError(f"{annotation}:{number}: label {row['label']!r} is no class of annotations/train.csv")
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
        except (TypeError, ValueError):
            raise DataError(f"{annotation}:{number}: time_start, time_end are no seconds; download it again") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = next(
            (files[n] for n in (name, f"{row['youtube_id']}_{start}_{end}", row["youtube_id"]) if n in files), None
        )
        videos.append(Video(name, path or f"{split}/{row['label']}/{name}.mp4", index[row["label"]]))
    return Manifest(dataset, split, root, classes, tuple(videos))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not set(reader.fieldnames or ()) >= HEADER:
                raise DataError(
                    f"{path}: header {reader.fieldnames} lacks {sorted(HEADER - set(reader.fieldnames or ()))}"
                )
            return list(reader)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; see README, 'Kinetics-400'") from error


def _files(root: Path, split: str) -> dict[str, str]:
    """Stem -> path relative to root, of every file below the split's folder."""
    out = {}
    for folder, _, names in os.walk(root / split):
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                out[path.stem] = str(path.relative_to(root))
    return out
