"""Something-Something-V2: JSON annotations of both generations, and videos or extracted frames."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from reproduce.data.layouts import LAYOUTS
from reproduce.data.manifest import DataError, Manifest, Video, bare, read_text

NAME = "Something-Something-V2"
CLASSES = tuple(Path(__file__).with_name("ssv2_classes.txt").read_text().splitlines())
"""The 174 templates by number, without brackets; mmaction2's ``label_map.txt`` is the same."""

PUBLISHED = {"20BN's annotations": (168_913, 24_777)}  # train, val; 27 157 of the 220 847 videos are the test split
FOLDERS = ("20bn-something-something-v2", "videos", "rawframes", "frames")  # 20BN's, mmaction2's, extracted frames
ANNOTATIONS = {  # both published generations
    "train": ("something-something-v2-train.json", "train.json"),
    "val": ("something-something-v2-validation.json", "validation.json"),
    "holdout": ("something-something-v2-holdout.json", "holdout.json"),  # of embedded videos
    "labels": ("something-something-v2-labels.json", "labels.json"),
}
README = "see README, 'Something-Something-V2'"


@LAYOUTS.register_module(name="ssv2")
def load(root: str | Path, split: str, dataset: str = NAME) -> Manifest:
    """Read a copy of Something-Something-V2.

    Args:
        root: folder with the JSON files (here, in ``labels/`` or in ``annotations/``) and one of ``FOLDERS`` with
            ``<id>.webm``, ``<id>.mp4`` or folders ``<id>/`` of extracted frames.
        split: ``train`` or ``val``; of embedded videos, also ``holdout``.
        dataset: name for records and tables. With any name but the default, the labels need not be the official 174.

    Returns:
        One video per annotation, labels as in the labels file, flip partners derived from the templates.

    Raises:
        DataError: the root or an annotation is missing, of another form or of another data set; the message says which
            and what to do.
    """
    root = Path(root)
    folder = next((f for f in FOLDERS if (root / f).is_dir()), None)
    if folder is None:
        raise DataError(f"SSV2_ROOT={root} has no {FOLDERS[0]}/; {README}")
    classes = _classes(root, dataset)
    index = {name: i for i, name in enumerate(classes)}
    files = {bare(n): f"{folder}/{n}" for n in sorted(os.listdir(root / folder)) if not n.startswith(".")}
    if not files:
        raise DataError(f"SSV2_ROOT={root}: {folder}/ is empty; {README}")
    annotation, items = _json(root, split)
    if not isinstance(items, list) or not all(isinstance(i, dict) and {"id", "template"} <= set(i) for i in items):
        raise DataError(f"{annotation} is no list of videos with id and template; download it again")
    videos = []
    for item in items:
        template = _bare(item["template"])
        if template not in index:
            raise DataError(
                f"{annotation}: video {item['id']} has template {template!r}, which the labels file does not list"
            )
        identity = str(item["id"])
        videos.append(Video(identity, files.get(identity, f"{folder}/{identity}.webm"), index[template]))
    return Manifest(dataset, split, root, classes, tuple(videos), flip_partners(classes))


def flip_partners(classes: tuple[str, ...]) -> tuple[int, ...]:
    """For each class, the class that a horizontal flip turns it into: left and right exchanged in its template.

    A class that names no side maps to itself. A class whose mirror image is no class maps to -1: it must not be
    flipped. Of the official 174 these are exchanged: 86 and 87 (pulling from one side to the other), 93 and 94
    (pushing), 166 and 167 (turning the camera). "Pulling it right out" (50) names no side.
    """
    index = {c: i for i, c in enumerate(classes)}
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    mirrored = (re.sub(r"\b(left|right|Left|Right)\b(?! out)", lambda m: swap[m[0]], c) for c in classes)
    return tuple(index.get(m, -1) for m in mirrored)


def _classes(root: Path, dataset: str) -> tuple[str, ...]:
    """Templates by number, from the labels file."""
    path, labels = _json(root, "labels")
    try:
        index = {_bare(name): int(i) for name, i in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path} is no mapping of templates to numbers; download it again") from None
    if sorted(index.values()) != list(range(len(index))):
        raise DataError(f"{path} does not number its {len(index)} classes 0..{len(index) - 1}; download it again")
    classes = tuple(sorted(index, key=index.get))
    if dataset == NAME and classes != CLASSES:
        if len(classes) != len(CLASSES):
            raise DataError(f"{path} has {len(classes)} classes, {NAME} has {len(CLASSES)}; is it another version's?")
        i = next(i for i, (ours, theirs) in enumerate(zip(CLASSES, classes, strict=True)) if ours != theirs)
        raise DataError(f"{path}: class {i} is {classes[i]!r}, officially {CLASSES[i]!r}; download it again")
    return classes


def _bare(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _json(root: Path, kind: str) -> tuple[Path, object]:
    for folder in (root, root / "labels", root / "annotations"):
        for name in ANNOTATIONS[kind]:
            path = folder / name
            if path.exists():
                try:
                    return path, json.loads(read_text(path))
                except json.JSONDecodeError as error:
                    raise DataError(f"{path} is not JSON: {error}; download it again") from error
    raise DataError(f"SSV2_ROOT={root} has none of {', '.join(ANNOTATIONS[kind])}; {README}")
