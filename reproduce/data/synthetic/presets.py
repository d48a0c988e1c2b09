"""Sizes and difficulty of the synthetic data sets: every number that one may want to change."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Difficulty:
    """How hard the videos are to tell apart. Lengths are in units of the short side of the frame."""

    clutter: int
    """Static shapes painted on the background."""
    distractors: int
    """Largest number of objects that stand still in the scene, of the same shapes and colours as the actors."""
    shake: float
    """Largest excursion of the hand-held camera along each axis."""
    noise: float
    """Standard deviation of the sensor noise, in grey levels."""
    contrast: float
    """How far an object's colour stands from mid-grey: 1 is the pure palette, 0 is grey."""
    lighting: float
    """Largest relative drift of the brightness within a video."""
    amplitude: tuple[float, float]
    """Range of the factor on the extent of a motion: 1 crosses about half of the frame."""
    radius: tuple[float, float]
    """Range of the radius of an actor."""


@dataclass(frozen=True)
class Preset:
    """One size of a data set. `train`, `val` and `holdout` count videos and are multiples of `classes`."""

    classes: int
    """4, 8, 16 or 24."""
    train: int
    val: int
    short_side: tuple[int, int]
    """Range of the frame's short side, pixels. Over 72: decord 0.6 fails on narrow frames, such as 65 to 72 pixels
    wide, which it takes for RGBA."""
    aspects: tuple[float, ...]
    """Width ÷ height, drawn uniformly."""
    frames: tuple[int, int]
    """Range of the number of frames."""
    fps: tuple[int, ...]
    difficulty: Difficulty
    holdout: int = 0
    """Videos to choose on, of neither `train` nor `val`."""
    joint: bool = False
    """A class is one of four groups of shapes *and* one of the motions, see `scenes.SHAPE_GROUPS`."""
    steps: int = 1
    """From 2 on, a motion is so many excursions one after the other, and their order makes the class."""


_EASY = Difficulty(
    clutter=6,
    distractors=1,
    shake=0.02,
    noise=3.0,
    contrast=0.95,
    lighting=0.10,
    amplitude=(0.8, 1.1),
    radius=(0.13, 0.20),
)
_MEDIUM = Difficulty(
    clutter=10,
    distractors=3,
    shake=0.04,
    noise=3.0,
    contrast=0.85,
    lighting=0.20,
    amplitude=(0.4, 1.0),
    radius=(0.09, 0.17),
)
_HARD = Difficulty(
    clutter=14,
    distractors=4,
    shake=0.05,
    noise=5.0,
    contrast=0.8,
    lighting=0.25,
    amplitude=(0.5, 1.1),
    radius=(0.08, 0.18),
)

SIZES = {
    "tiny": Preset(
        classes=4,
        train=24,
        val=8,
        short_side=(74, 84),
        aspects=(1.0, 4 / 3),
        frames=(16, 24),
        fps=(12, 25),
        difficulty=_EASY,
    ),
    "quick": Preset(
        classes=8,
        train=2_400,
        val=400,
        short_side=(74, 96),
        aspects=(3 / 4, 1.0, 5 / 4, 4 / 3),
        frames=(24, 48),
        fps=(12, 15, 20, 24, 25, 30),
        difficulty=_MEDIUM,
    ),
    "full": Preset(
        classes=24,
        train=10_080,
        val=2_016,
        short_side=(144, 256),
        aspects=(9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9),
        frames=(48, 120),
        fps=(12, 15, 20, 24, 25, 30),
        difficulty=_HARD,
    ),
}


def changed(size: str, changes: Mapping[str, Any]) -> str:
    """The name of a size that differs from a named one: `quick {"difficulty": {"clutter": 20}, "val": 2000}`."""
    return f"{size} {json.dumps(changes, sort_keys=True)}" if changes else size


def short(size: str) -> str:
    """A size's name for folders: `quick`, `quick-1a2b3c4d`."""
    name, _, changes = size.partition(" ")
    return f"{name}-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else name


@cache
def preset(size: str) -> Preset:
    """The preset called `size`, see `changed`.

    Raises:
        ValueError: there is none of that name, or it has no such field.
    """
    name, _, changes = size.partition(" ")
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r} of synthetic data; choose one of {', '.join(SIZES)}")
    return _with(SIZES[name], json.loads(changes or "{}"))


def _with(value: T, changes: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(value)}
    if unknown := changes.keys() - known:
        raise ValueError(
            f"{type(value).__name__} has no {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )
    made = {}
    for name, new in changes.items():
        old = getattr(value, name)
        made[name] = _with(old, new) if is_dataclass(old) else tuple(new) if isinstance(old, tuple) else new
    return replace(value, **made)
