"""Something-Something-V2: JSON annotations and ``<id>.webm`` files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from reproduce.data.manifest import DataError, Manifest, Video

FOLDER = "20bn-something-something-v2"
ANNOTATIONS = {  # both published generations
    "train": ("something-something-v2-train.json", "train.json"),
    "val": ("something-something-v2-validation.json", "validation.json"),
    "labels": ("something-something-v2-labels.json", "labels.json"),
}


def load(root: str | Path, split: str, dataset: str = "Something-Something-V2") -> Manifest:
    """Read a copy of Something-Something-V2.

    Args:
        root: folder with the JSON files (here or in ``labels/``) and ``20bn-something-something-v2/``.
        split: ``train`` or ``val``.
        dataset: name for records and tables.

    Returns:
        One video per annotation, labels as in the labels file, flip partners derived from the templates.

    Raises:
        DataError: the root or an annotation is missing or of another form; the message says which and what to do.
    """
    root = Path(root)
    if not (root / FOLDER).is_dir():
        raise DataError(f"SSV2_ROOT={root} has no {FOLDER}/; see README, 'Something-Something-V2'")
    labels = _json(root, "labels")
    if not isinstance(labels, dict):
        raise DataError(f"{root}: the labels file is no mapping of templates to numbers; download it again")
    index = {name: int(i) for name, i in labels.items()}
    if sorted(index.values()) != list(range(len(index))):
        raise DataError(f"{root}: the labels file does not number its {len(index)} classes 0..{len(index) - 1}")
    classes = tuple(sorted(index, key=index.get))
    files = {Path(n).stem: f"{FOLDER}/{n}" for n in os.listdir(root / FOLDER) if not n.startswith(".")}
    videos = []
    for item in _json(root, split):
        if not {"id", "template"} <= set(item):
            raise DataError(f"{root}: an annotation of split {split} lacks id or template: {item}; download it again")
        template = re.sub(r"\[(.*?)\]", r"\1", item["template"])
        if template not in index:
            raise DataError(
                f"{root}: video {item['id']} has template {template!r}, which the labels file does not list"
            )
        identity = str(item["id"])
        videos.append(Video(identity, files.get(identity, f"{FOLDER}/{identity}.webm"), index[template]))
    return Manifest(dataset, split, root, classes, tuple(videos), flip_partners(classes))


def flip_partners(classes: tuple[str, ...]) -> tuple[int, ...]:
    """For each class, the class that a horizontal flip turns it into: left and right exchanged in its template.

    A class that names no side maps to itself; one whose mirror image is no class to -1: it must not be flipped.
    """
    index = {c: i for i, c in enumerate(classes)}
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    mirrored = (re.sub(r"\b(left|right|Left|Right)\b", lambda m: swap[m[0]], c) for c in classes)
    return tuple(index.get(m, -1) for m in mirrored)


def _json(root: Path, kind: str):
    for folder in (root, root / "labels"):
        for name in ANNOTATIONS[kind]:
            path = folder / name
            if path.exists():
                try:
                    return json.loads(path.read_text())
                except json.JSONDecodeError as error:
                    raise DataError(f"{path} is not JSON: {error}; download it again") from error
    raise DataError(f"{root} has none of {', '.join(ANNOTATIONS[kind])}; see README, 'Something-Something-V2'")
