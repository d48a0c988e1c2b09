"""What a data set holds here: one immutable list of videos, and a hash that records carry."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


class DataError(ValueError):
    """Something is wrong with a data set; the message names the thing, its value and the way out."""


@dataclass(frozen=True)
class Video:
    """One video of a split.

    Attributes:
        id: as in the annotation.
        path: relative to the data set's root.
        label: index of the class.
        content: hash of its decoded frames where the data set tells, else None.
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
        videos: all annotated videos, whether their file is there or not.
        partners: label -> label of the class that a horizontal flip turns it into; -1: do not flip.
    """

    dataset: str
    split: str
    root: Path = field(compare=False)
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    partners: tuple[int, ...] | None = None

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

    def path(self, video: Video) -> Path:
        """Absolute path of a video."""
        return Path(self.root) / video.path

    @property
    def empty_classes(self) -> list[str]:
        """Classes without a video; legal in a test split, an error for training."""
        used = {v.label for v in self.videos}
        return [c for i, c in enumerate(self.classes) if i not in used]

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits over classes, ids, labels and content (frames where known, else the file's size)."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for v in sorted(self.videos, key=lambda v: v.id):
            digest.update(f"\n{v.id}\t{v.label}\t{v.content or self._size(v)}".encode())
        return digest.hexdigest()[:12]

    def _size(self, video: Video) -> int:
        try:
            return self.path(video).stat().st_size
        except OSError:
            return -1  # missing: counted and listed by the test

    def subset(self, videos: tuple[Video, ...]) -> Manifest:
        """The same data set with some of its videos."""
        return Manifest(self.dataset, self.split, self.root, self.classes, videos, self.partners)
