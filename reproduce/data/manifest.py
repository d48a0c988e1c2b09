"""The content of a data set: an immutable list of videos, and a hash that records keep."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

logger = logging.getLogger("reproduce")
SUFFIXES = {  # of videos
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".mpg", ".mpeg", ".ts", ".mts",
    ".m2ts", ".wmv", ".asf", ".ogv",
}  # fmt: skip
RESIZED = "resized.json"  # marks a copy that `data cache` made
MISSING = 0.1  # share of videos without a file over which a copy is partial; old ones of Kinetics lack up to 5 %


class DataError(ValueError):
    """Something is wrong with a data set; the message names the thing, its value and the way out."""


@dataclass(frozen=True)
class Video:
    """One video of a split.

    Attributes:
        id: as in the annotation.
        path: relative to the data set's root.
        label: index of the class.
        content: hash of its decoded frames if the data set states it, else None.
    """

    id: str
    path: str
    label: int
    content: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The videos of one split.

    Attributes:
        dataset: name in tables, ``synthetic-kinetics quick``.
        split: ``train`` or ``val``.
        root: folder that the paths are relative to; not part of the hash.
        classes: names, by label.
        videos: all annotated videos, whether their file is there or not; sorted by id, so that copies whose annotations
            have their rows in another order train in the same order.
        partners: label -> label of the class that a horizontal flip turns it into; -1: do not flip.
        absent: videos of the annotation that were left out since they have no file.
        partial: the copy is known to be incomplete and is used nevertheless.
        resized: how the copy's videos were encoded anew, '' if they were not; see ``resizing``.
    """

    dataset: str
    split: str
    root: Path = field(compare=False)
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    partners: tuple[int, ...] | None = None
    absent: int = 0
    partial: bool = False
    resized: str = ""

    def __post_init__(self) -> None:
        where = f"{self.dataset} {self.split} ({self.root})"
        if not self.videos:
            raise DataError(f"{where} has no videos; check the annotation file")
        n = len(self.classes)
        bad = next((v for v in self.videos if not 0 <= v.label < n), None)
        if bad:
            raise DataError(f"{where}: video {bad.id} has label {bad.label}, outside 0..{n - 1}; check the annotation")
        twice = [i for i, count in Counter(v.id for v in self.videos).items() if count > 1]
        if twice:
            raise DataError(f"{where}: video {twice[0]} is annotated {len(twice)}+ times; remove the duplicates")
        object.__setattr__(self, "videos", tuple(sorted(self.videos, key=lambda v: v.id)))

    def path(self, video: Video) -> Path:
        """Absolute path of a video."""
        return Path(self.root) / video.path

    @property
    def empty_classes(self) -> list[str]:
        """Classes without a video; legal in a test split, for training only in a partial copy."""
        used = {v.label for v in self.videos}
        return [c for i, c in enumerate(self.classes) if i not in used]

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits over classes, ids, labels, content (frames where known, else the file's size), resizing."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for v in self.videos:
            digest.update(f"\n{v.id}\t{v.label}\t{v.content or self.sizes[v.id]}".encode())
        if self.resized:
            digest.update(f"\n{self.resized}".encode())
        return digest.hexdigest()[:12]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Id -> bytes of the file, number of files where the video is a folder of frames, -1 where it is missing."""
        return {v.id: _size(self.path(v)) for v in self.videos}

    def subset(self, videos: tuple[Video, ...]) -> Manifest:
        """The same data set with some of its videos."""
        return replace(self, videos=videos)

    def usable(self, allow_partial: bool) -> Manifest:
        """The videos of a run: training videos without a file are left out, test videos stay and count as wrong.

        Args:
            allow_partial: go on with a copy that lacks much of its data set; the manifest then says so.

        Raises:
            DataError: over a tenth of the videos have no file, or a class is left without any to train on.
        """
        where = f"{self.dataset} {self.split} ({self.root})"
        missing = [v for v in self.videos if self.sizes[v.id] < 0]
        present = tuple(v for v in self.videos if self.sizes[v.id] >= 0)
        training = self.split == "train"
        count = (
            f"{len(missing)} of {len(self.videos)} videos have no file, the first is {missing[0].path}"
            if missing
            else ""
        )
        problem = count if len(missing) > MISSING * len(self.videos) else ""
        if training and present and not problem:
            empty = self.subset(present).empty_classes
            problem = (
                f"{len(empty)} of {len(self.classes)} classes have no video, the first is {empty[0]!r}" if empty else ""
            )
        if problem and (not allow_partial or not present):
            raise DataError(
                f"{where}: {problem}; complete the copy, or set ALLOW_PARTIAL=1: every record will then say so"
            )
        if missing:
            logger.warning("%s: %s; %s", where, count, "left out" if training else "counted as wrong")
        if training:
            return replace(self, videos=present, absent=len(missing), partial=bool(problem))
        return replace(self, partial=bool(problem))


def read_marker(root: str | Path) -> dict:
    """What ``data cache`` has written about a copy that it made; empty of any other copy."""
    path = Path(root) / RESIZED
    return json.loads(path.read_text()) if path.exists() else {}


def resizing(root: str | Path) -> str:
    """How a copy's videos were encoded anew; '' of any other copy.

    Raises:
        DataError: it is not complete.
    """
    made = read_marker(root)
    if not made:
        return ""
    if not made["complete"]:
        raise DataError(f"{root} is a resized copy that is not complete; issue its `data cache` again")
    return f"short side {made['short_side']}, H.264, crf {made['encoder']['crf']}"


def bare(name: str) -> str:
    """A file's name without the suffixes of a video; downloaders that merge streams leave two."""
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name


def read_text(path: Path) -> str:
    """Text of an annotation, in UTF-8 or, with a byte order mark as Windows writes it, UTF-16.

    Raises:
        DataError: it is neither.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}; save it as UTF-8 or download it again") from error


def _size(path: Path) -> int:
    try:
        status = path.stat()
        return len(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else status.st_size
    except OSError:
        return -1
