"""From (data set, size, seed, split, index) to frames.

Nothing depends on the order of rendering: every video has its own generators. A video of synthetic-ssv2 is always
drawn as the forward class of its pair, with camera shake, light and noise; for the backward class, the finished
frames are reversed. So each class of a pair is exactly the other one played backwards. A frame, or a set of frames
without order, does not tell which of the two classes it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from . import scenes
from .presets import Difficulty, preset

KINETICS = "synthetic-kinetics"
SSV2 = "synthetic-ssv2"
NAMES = (KINETICS, SSV2)
SPLITS = ("train", "val", "holdout")

# Stages of a video that draw from generators of their own, so that a change of one does not change the others.
_FORMAT, _SCENE, _NUISANCE = range(3)
_SUBPIXEL = 4  # bits of the fixed-point coordinates that OpenCV draws with
_MARGIN = 1.5  # of the background canvas, in frames; beyond it the background is mirrored
_JITTER = 24  # pixels over which the noise tile is shifted from frame to frame


@dataclass(frozen=True)
class VideoSpec:
    """All that determines one video."""

    name: str
    size: str
    seed: int
    split: str
    index: int
    label: int
    video_id: str
    frames: int
    fps: int
    width: int
    height: int
    start: int
    """Where in the (imaginary) source video it begins, seconds; Kinetics only."""

    def rng(self, stage: int) -> np.random.Generator:
        """The generator of one stage. It does not depend on the label."""
        return np.random.default_rng([self.seed, NAMES.index(self.name), SPLITS.index(self.split), self.index, stage])


def classes(name: str, size: str = "quick") -> list[str]:
    """Class names in the order of their scenes; for synthetic-ssv2 the templates without brackets, by label.

    Labels of Kinetics' layout are by alphabet, see ``reproduce.data.kinetics``.

    Raises:
        ValueError: unknown `name` or `size`.
    """
    if name == SSV2:
        return [template.translate({91: None, 93: None}) for template in templates(size)]
    if name == KINETICS:
        return [f"{shape} {motion}" for shape, motion in _pairs(KINETICS, size)]
    raise ValueError(f"unknown synthetic data set {name!r}; choose one of {', '.join(NAMES)}")


def class_names(name: str, size: str = "quick") -> list[str]:
    """Class names by label, as the layout reads them."""
    found = classes(name, size)
    return sorted(found) if name == KINETICS else found


def keeps_itself(name: str, size: str = "quick") -> list[bool]:
    """By label, whether a class's videos are its own still when they are played backwards."""
    if name == SSV2:
        return [False] * len(templates(size))
    kept = {f"{shape} {motion}": scenes.played_backwards(motion) == motion for shape, motion in _pairs(KINETICS, size)}
    return [kept[c] for c in class_names(name, size)]


def templates(size: str = "quick") -> list[str]:
    """Templates of synthetic-ssv2 with their brackets, in the order of their label."""
    return [template for pair in _pairs(SSV2, size) for template in (pair.forwards, pair.backwards)]


@lru_cache(maxsize=8)
def _pairs(name: str, size: str) -> list:
    """Of synthetic-kinetics, shape and motion of each class; of synthetic-ssv2, pairs of classes."""
    make = scenes.time_order_pairs if name == SSV2 else scenes.appearance_motion_classes
    wanted = preset(size)
    return make(wanted.classes, wanted.joint, wanted.steps)


def partner(label: int) -> int:
    """The class of synthetic-ssv2 that is `label` played backwards."""
    return label ^ 1


def count(size: str, split: str) -> int:
    """Number of videos of a split."""
    return getattr(preset(size), split)


def splits(size: str) -> tuple[str, ...]:
    """The splits that have videos."""
    return tuple(split for split in SPLITS if count(size, split))


@lru_cache(maxsize=4)
def _numeric_ids(size: str, seed: int) -> np.ndarray:
    """Ids of all videos, split by split, in an order that does not follow the classes."""
    total = sum(count(size, split) for split in SPLITS)
    return 1 + np.random.default_rng([seed, NAMES.index(SSV2)]).permutation(total)


def _video_id(name: str, size: str, seed: int, split: str, index: int) -> str:
    if name == SSV2:
        before = sum(count(size, s) for s in SPLITS[: SPLITS.index(split)])
        return str(_numeric_ids(size, seed)[before + index])
    digest = hashlib.sha256(f"{name}/{seed}/{split}/{index}".encode()).digest()
    return base64.urlsafe_b64encode(digest)[:11].decode()  # the alphabet and the length of YouTube's


def video_spec(name: str, size: str, seed: int, split: str, index: int) -> VideoSpec:
    """The format, label and id of video `index` of a split. Every prefix of a split is balanced.

    Raises:
        ValueError: unknown `name`, `size` or `split`, or no such video.
    """
    names, wanted = classes(name, size), preset(size)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if not 0 <= index < count(size, split):
        raise ValueError(f"{name} {size} has {count(size, split)} {split} videos, no index {index}")
    rng = np.random.default_rng([seed, NAMES.index(name), SPLITS.index(split), index, _FORMAT])
    side = int(rng.integers(wanted.short_side[0], wanted.short_side[1] + 1))
    aspect = wanted.aspects[rng.integers(len(wanted.aspects))]
    return VideoSpec(
        name=name,
        size=size,
        seed=seed,
        split=split,
        index=index,
        label=index % len(names),
        video_id=_video_id(name, size, seed, split, index),
        frames=int(rng.integers(wanted.frames[0], wanted.frames[1] + 1)),
        fps=wanted.fps[rng.integers(len(wanted.fps))],
        width=_even(side * max(aspect, 1.0)),
        height=_even(side / min(aspect, 1.0)),
        start=int(rng.integers(0, 300)),
    )


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)  # 4:2:0 chroma


def _clock(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Progress of the action, 0 to 1: it rests a little at both ends and does not run at constant speed.

    The rests also hide the asymmetry of a sampler that takes the first frame of each segment and never the last.
    """
    begin, end = rng.uniform(0.02, 0.12, 2)
    t = np.clip((np.linspace(0, 1, frames) - begin) / (1 - begin - end), 0, 1)
    ease = rng.uniform(0, 0.6)
    return (1 - ease) * t + ease * t * t * (3 - 2 * t)


def _wander(rng: np.random.Generator, frames: int, extent: float) -> np.ndarray:
    """A smooth random signal: three waves of random phase, at most `extent` in size."""
    t = np.linspace(0, 1, frames)
    phase, rate = rng.random(3), rng.uniform(0.4, 3.0, 3)
    return extent / 3 * rng.random() * np.sin(2 * np.pi * (rate * t[:, None] + phase)).sum(axis=1)


def _background(rng: np.random.Generator, level: Difficulty, height: int, width: int) -> np.ndarray:
    """A soft texture with shapes painted on it → height width 3."""
    tone = rng.uniform(70, 170, 3)
    rows, cols = rng.integers(3, 9, 2)
    texture = tone + rng.uniform(-45, 45, (rows, cols, 3))
    canvas = cv2.resize(texture.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(level.clutter):
        centre = rng.random(2) * (width, height)
        corners = centre + rng.uniform(-0.18, 0.18, (int(rng.integers(3, 6)), 2)) * min(height, width)
        colour = np.clip(tone + rng.uniform(-60, 60, 3), 0, 255)
        cv2.fillConvexPoly(canvas, cv2.convexHull(corners.astype(np.int32)), colour.tolist(), cv2.LINE_AA)
    return canvas


def _noise_tile(rng: np.random.Generator, level: Difficulty, height: int, width: int) -> np.ndarray:
    """Grey noise about 128, larger than a frame, to be cut at random places."""
    grain = rng.standard_normal((height + _JITTER, width + _JITTER, 1), dtype=np.float32)
    return np.repeat(np.clip(128 + level.noise * grain, 0, 255).astype(np.uint8), 3, axis=2)


def scene_of(spec: VideoSpec) -> scenes.Scene:
    """What happens in a video, forwards."""
    level, rng = preset(spec.size).difficulty, spec.rng(_SCENE)
    u = _clock(rng, spec.frames)
    if spec.name == SSV2:
        return scenes.time_order_scene(rng, u, level, _pairs(SSV2, spec.size)[spec.label // 2])
    shape, motion = _pairs(KINETICS, spec.size)[spec.label]
    return scenes.appearance_motion_scene(rng, u, level, shape, motion)


def annotation(spec: VideoSpec) -> dict:
    """The entry of a synthetic-ssv2 video in its json file: id, label, template, placeholders."""
    template, things = templates(spec.size)[spec.label], scene_of(spec).placeholders
    pair = _pairs(SSV2, spec.size)[spec.label // 2]
    if spec.label % 2:
        things = things[::-1] if pair.swaps else things[: template.count("[")]
    words = iter(things)
    label = re.sub(r"\[[^]]*\]", lambda _: next(words), template)
    return {"id": spec.video_id, "label": label, "template": template, "placeholders": things}


def render_spec(spec: VideoSpec) -> np.ndarray:
    """Draws a video → frames T H W 3, uint8 RGB."""
    level, scene, rng = preset(spec.size).difficulty, scene_of(spec), spec.rng(_NUISANCE)
    frames, height, width = spec.frames, spec.height, spec.width
    side = min(height, width)

    canvas = _background(rng, level, round(_MARGIN * height), round(_MARGIN * width))
    look = np.stack([_wander(rng, frames, level.shake) for _ in "xy"], axis=1) + scene.camera_xy  # T 2
    roll = _wander(rng, frames, level.shake)
    zoom = (1 + _wander(rng, frames, level.shake)) * scene.camera_zoom
    cos, sin = zoom * side * np.cos(roll), zoom * side * np.sin(roll)
    camera = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)  # T 2 2, to pixels
    centre = np.array([width, height]) / 2
    layers = [(layer.colour, _to_pixels(layer, camera, look, centre)) for layer in scene.layers]

    # The canvas is part of the scene; at zoom 1, one of its pixels is one pixel of the frame.
    middle = np.array([canvas.shape[1], canvas.shape[0]]) / 2
    offset = centre - np.einsum("tij,tj->ti", camera, look + middle / side)
    backdrop = np.concatenate([camera / side, offset[:, :, None]], axis=2)  # T 2 3

    gain = 1 + _wander(rng, frames, level.lighting)
    tile = _noise_tile(rng, level, height, width)
    rows, cols = rng.integers(0, _JITTER, (2, frames))

    video = np.empty((frames, height, width, 3), np.uint8)
    for t, frame in enumerate(video):
        cv2.warpAffine(
            canvas, backdrop[t], (width, height), dst=frame, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        for colour, contours in layers:
            cv2.fillPoly(frame, [c[t] for c in contours], colour, cv2.LINE_AA, _SUBPIXEL)
        grain = tile[rows[t] : rows[t] + height, cols[t] : cols[t] + width]
        cv2.addWeighted(frame, gain[t], grain, 1.0, -128.0, dst=frame)
    backwards = spec.name == SSV2 and spec.label % 2
    return np.ascontiguousarray(video[::-1]) if backwards else video


def _to_pixels(layer: scenes.Layer, camera: np.ndarray, look: np.ndarray, centre: np.ndarray) -> list[np.ndarray]:
    """Contours of a layer as fixed-point pixel coordinates, each T V 2."""
    points = [np.einsum("tij,tvj->tvi", camera, c - look[:, None]) + centre - 0.5 for c in layer.contours]
    return [np.round(p * (1 << _SUBPIXEL)).astype(np.int32) for p in points]


def render(name: str, size: str, seed: int, split: str, index: int) -> tuple[np.ndarray, VideoSpec]:
    """Frames (T H W 3, uint8 RGB) and spec of one video, without touching the disk.

    Raises:
        ValueError: unknown `name`, `size` or `split`, or no such video.
    """
    spec = video_spec(name, size, seed, split, index)
    return render_spec(spec), spec


def contact_sheet(name: str, size: str, path: Path, *, seed: int = 0, height: int = 96) -> None:
    """Writes a PNG with a row per class: its name, and 8 frames of a training video, `height` pixels high."""
    rows, widest = [], 0
    for label, title in enumerate(classes(name, size)):
        frames, _ = render(name, size, seed, "train", label)
        picked = frames[np.linspace(0, len(frames) - 1, 8).round().astype(int)]
        wide = round(height * frames.shape[2] / frames.shape[1])
        widest = max(widest, 8 * (wide + 4))
        row = np.full((height + 20, 8 * 2 * height, 3), 255, np.uint8)
        cv2.putText(row, title, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for i, frame in enumerate(picked):
            row[20:, i * (wide + 4) : i * (wide + 4) + wide] = cv2.resize(frame, (wide, height))
        rows.append(row)
    cv2.imwrite(str(path), np.concatenate(rows)[:, :widest, ::-1])
