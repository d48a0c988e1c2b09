"""Kinetics-400 in the layouts in use: official CSVs, CVDF's archives, mmaction2's lists, PySlowFast's CSVs."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

from reproduce.data.layouts import LAYOUTS
from reproduce.data.manifest import SUFFIXES, DataError, Manifest, Video, bare, read_text

NAME = "Kinetics-400"
CLASSES = tuple(Path(__file__).with_name("kinetics_classes.txt").read_text().splitlines())
"""The 400 names in their official, alphabetical order; torchvision's and decord's lists are the same."""

PUBLISHED = {  # videos of train and val
    "official CSVs": (246_534, 19_906),  # cvdfoundation/kinetics-dataset, arrange_by_classes.py
    "CVDF's archives": (240_258, 19_881),  # the same; 1 392 of them have a replacement
    "mmaction2's copy": (240_436, 19_796),  # open-mmlab/mmaction2, tools/data/kinetics/README.md
}
SPLITS = {"train": ("train",), "val": ("val", "validate", "validation"), "holdout": ("holdout",)}
YOUTUBE = re.compile(r"(.{11})_(\d+)_(\d+)")  # of a file: id, start and end
HEADER = {"label", "youtube_id", "time_start", "time_end"}
README = "see README, 'Kinetics-400'"


@LAYOUTS.register_module(name="kinetics")
def load(root: str | Path, split: str, dataset: str = NAME) -> Manifest:
    """Read a copy of Kinetics in any of its layouts; the files themselves show which one it is.

    Args:
        root: its folder. The annotation is looked for in it and in ``annotations/``: ``*<split>_list_videos.txt`` or
            ``*<split>.csv``, official (with a header) or PySlowFast's (``path label``). The videos are below
            ``<split>/``, ``videos_<split>/`` or ``videos/<split>/``, in class folders or not; files below
            ``replacement/`` replace those of the same name.
        split: ``train`` or ``val``; of embedded videos, also ``holdout``.
        dataset: name for records and tables. With any name but the default, the classes are those of the training
            annotation, not the official 400.

    Returns:
        One video per row, whether its file is there or not (a missing one counts as wrong at test time). Ids are
        ``<youtube_id>_<start>_<end>`` with six digits for any file names, so that copies can be compared.

    Raises:
        DataError: the root or an annotation is missing, of another form or of another data set; the message says which
            and what to do.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"KINETICS_ROOT={root} is no folder; {README}")
    annotation = _annotation(root, split)
    rows = _read(annotation)
    if dataset == NAME:
        _check_label_maps(root)
    folders = _folders(root, split)
    if not isinstance(rows[0], dict):
        videos = _listed(root, annotation, rows, folders)
        return Manifest(dataset, split, root, CLASSES, videos)
    if dataset == NAME:
        classes = CLASSES
    else:
        classes = tuple(sorted({r["label"] for r in _read(_annotation(root, "train"))}))
    index = {_plain(c): i for i, c in enumerate(classes)}
    files = _files(root, folders)
    if not files:
        raise DataError(
            f"KINETICS_ROOT={root} has no video below {split}/, videos_{split}/ or videos/{split}/; {README}"
        )
    videos = []
    for number, row in enumerate(rows, start=2):
        where = f"{annotation}:{number}"
        label = index.get(_plain(row["label"] or ""))
        if label is None:
            raise DataError(
                f"{where}: label {row['label']!r} is no class of {dataset}; is this the annotation of another version?"
            )
        if (row.get("split") or split) not in SPLITS[split]:
            raise DataError(f"{where}: a row of split {row['split']!r} in the annotation of {split}; download it again")
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
        except (TypeError, ValueError):
            raise DataError(f"{where}: time_start, time_end are no seconds; download it again") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        absent = f"{split}/{row['label']}/{name}.mp4"
        videos.append(Video(name, files.get(name) or files.get(row["youtube_id"]) or absent, label))
    return Manifest(dataset, split, root, classes, tuple(videos))


def _annotation(root: Path, split: str) -> Path:
    """The split's annotation; a list of files before a CSV, the root before ``annotations/``."""
    pattern = re.compile(rf"(.*[_-])?({'|'.join(SPLITS[split])})(_list_videos\.txt|\.csv)")
    for folder in (root, root / "annotations"):
        names = [n for n in os.listdir(folder) if pattern.fullmatch(n)] if folder.is_dir() else []
        if names:
            return folder / min(names, key=lambda n: (n.endswith(".csv"), len(n), n))
    raise DataError(
        f"KINETICS_ROOT={root} has no annotation of its {split} split ({split}.csv, annotations/{split}.csv or "
        f"kinetics400_{split}_list_videos.txt); {README}"
    )


def _read(path: Path) -> list[dict[str, str]] | list[tuple[str, int]]:
    """Rows of an official CSV as dicts, of a list as pairs of path and label."""
    lines = read_text(path).splitlines()
    header = {field.strip('" ') for field in lines[0].split(",")} if lines else set()
    if "youtube_id" in header or "label" in header:
        if not header >= HEADER:
            raise DataError(f"{path}: header {sorted(header)} lacks {sorted(HEADER - header)}; {README}")
        rows = list(csv.DictReader(lines))
    else:
        rows = []
        for number, line in enumerate(lines, start=1):
            match = re.fullmatch(r"(.+?)[\s,]+(\d+)", line.strip())
            if match:
                rows.append((match[1], int(match[2])))
            elif line.strip():
                raise DataError(
                    f"{path}:{number}: {line.strip()[:80]!r} is neither 'path label' nor the header of an official "
                    f"CSV; {README}"
                )
    if not rows:
        raise DataError(f"{path} has no rows; download it again")
    return rows


def _folders(root: Path, split: str) -> list[Path]:
    """Where a split's videos are, replacements last; the root itself where it has no folder for the split."""
    names = [name for s in SPLITS[split] for name in (s, f"videos_{s}", f"videos/{s}")]
    return ([root / n for n in names if (root / n).is_dir()] or [root]) + [root / "replacement"]


def _listed(root: Path, annotation: Path, rows: list[tuple[str, int]], folders: list[Path]) -> tuple[Video, ...]:
    """Videos of a list of paths, which are absolute, or relative to a folder of videos or to the root.

    If a path does not exist, the video with that YouTube id and times is taken, with any suffix, from any folder.
    """
    index = {_plain(c): i for i, c in enumerate(CLASSES)}
    files = {name: root / path for name, path in _files(root, folders).items() if YOUTUBE.fullmatch(name)}
    base = next((f for f in (*folders, root) if any((f / path).exists() for path, _ in rows[:1000])), None)
    if base is None and any(_identity(Path(path)) in files for path, _ in rows[:1000]):
        base = folders[0]
    if base is None:
        raise DataError(
            f"{annotation}: {rows[0][0]} and those after it lie neither below {root} nor below its folder of videos; "
            "write the list anew or move the videos"
        )
    videos = []
    for number, (path, label) in enumerate(rows, start=1):
        where = f"{annotation}:{number}"
        if label >= len(CLASSES):
            raise DataError(f"{where}: label {label}, outside 0..{len(CLASSES) - 1}; a list of another version?")
        folder = Path(path).parent.name
        if index.get(_plain(folder), label) != label:
            raise DataError(
                f"{where}: label {label} for a video of {folder!r}, which is class {index[_plain(folder)]} of the "
                "official, alphabetical order; write the list anew in that order"
            )
        name, file = _identity(Path(path)), base / path
        if file != files.get(name, file) and not file.exists():
            file = files[name]
        videos.append(Video(name, str(file.relative_to(root) if file.is_relative_to(root) else file), label))
    return tuple(videos)


def _files(root: Path, folders: list[Path]) -> dict[str, str]:
    """Id -> path relative to root, of every video below the folders; of equal ids the last one."""
    out = {}
    for top in folders:
        for folder, folders_below, names in os.walk(top, followlinks=True):
            folders_below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                    out[_identity(path)] = str(path.relative_to(root))
    return out


def _identity(path: Path) -> str:
    """``<youtube_id>_<start>_<end>`` with six digits for any file name; other names do not change."""
    name = bare(path.name)
    match = YOUTUBE.fullmatch(name)
    return f"{match[1]}_{int(match[2]):06d}_{int(match[3]):06d}" if match else name


def _plain(name: str) -> str:
    """A class name without the parts that differ between copies: case, underscores, quotes, brackets."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower().replace("'", "")))


def _check_label_maps(root: Path) -> None:
    """Refuse a label map beside the annotations (mmaction2's, PySlowFast's) that differs from the official one."""
    for folder in (root, root / "annotations"):
        for path in (folder / "label_map_k400.txt", folder / "kinetics_classnames.json"):
            if not path.exists():
                continue
            text = read_text(path)
            if path.suffix == ".json":
                names = {int(i): name for name, i in json.loads(text).items()}
                names = [names.get(i, "") for i in range(len(names))]
            else:
                names = text.splitlines()
            wrong = [i for i, c in enumerate(CLASSES) if i >= len(names) or _plain(names[i]) != _plain(c)]
            if wrong or len(names) != len(CLASSES):
                i = wrong[0] if wrong else len(CLASSES)
                theirs, ours = ([*list_, "nothing"][min(i, len(list_))] for list_ in (names, CLASSES))
                raise DataError(
                    f"{path}: class {i} is {theirs!r}, officially {ours!r}; models trained with it would be scored "
                    "wrongly here: remove it, or put it in the official, alphabetical order"
                )
