"""How clips are taken from videos: when (sampling), where (crops), and what training may change.

Symbols: T frames of a clip, V views of a video (clips × crops), H W pixels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import cv2
import numpy as np

cv2.setNumThreads(0)  # parallel over videos, not inside one


@dataclass(frozen=True)
class Sampling:
    """Which frames make a clip.

    Attributes:
        kind: ``dense`` takes every ``stride``-th frame from a window (Kinetics; in training a random one, at test
            ``clips`` evenly spaced); ``segment`` cuts the video into T equal parts and takes one frame of each
            (Something-Something; in training a random one, at test the middle, further clips shifted within a part).
        frames: T.
        stride: of dense sampling, in frames. Shorter videos are sampled to their end and the last frame repeated.
        clips: at test.
    """

    kind: str
    frames: int
    stride: int = 1
    clips: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "segment"):
            raise ValueError(f"sampling kind {self.kind!r} is neither 'dense' nor 'segment'")

    def train(self, total: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of one random clip of a video of ``total`` frames, shape 1 × T."""
        if self.kind == "dense":
            slack = max(0, total - ((self.frames - 1) * self.stride + 1))
            return self._window(np.array([rng.integers(slack + 1)]), total)
        part = total / self.frames
        return self._clip((np.arange(self.frames) + rng.random(self.frames)) * part, total)[None]

    def test(self, total: int) -> np.ndarray:
        """Indices of the test clips, clips × T.

        Sources: dense clips start evenly from the first to the last possible frame (pytorchvideo's
        ``ConstantClipsPerVideoSampler``, PySlowFast with ``TEST.USE_OFFSET_SAMPLING``); segments' middles (TSM
        ``ops/dataset.py``, PySlowFast ``ssv2.py``).
        """
        if self.kind == "dense":
            slack = max(0, total - ((self.frames - 1) * self.stride + 1))
            if self.clips == 1:
                return self._window(np.array([slack // 2]), total)
            return self._window(np.linspace(0, slack, self.clips).astype(int), total)
        part = total / self.frames
        shifts = (np.arange(self.clips) + 0.5) / self.clips  # one clip: the middle of each part
        return self._clip((np.arange(self.frames)[None] + shifts[:, None]) * part, total)

    def _window(self, starts: np.ndarray, total: int) -> np.ndarray:
        return np.minimum(starts[:, None] + np.arange(self.frames)[None] * self.stride, total - 1)

    @staticmethod
    def _clip(positions: np.ndarray, total: int) -> np.ndarray:
        return np.minimum(positions.astype(int), total - 1)


@dataclass(frozen=True)
class Crops:
    """Which pixels a clip shows.

    Attributes:
        size: side of the crop in pixels.
        short_side: at test, the short side is resized to this first.
        jitter: in training the short side is resized to a random length in this range, then cropped at random
            (VGG/PySlowFast style scale jitter).
        flip: probability of a horizontal flip in training; labels follow where the data set has left/right classes.
        crops: at test, 1 (centre) or 3 (both ends and the centre of the long side).
    """

    size: int
    short_side: int
    jitter: tuple[int, int]
    flip: float = 0.5
    crops: int = 1

    def __post_init__(self) -> None:
        if self.crops not in (1, 3):
            raise ValueError(f"crops={self.crops}: one centre crop or three along the long side")
        for size, side in ((self.size, min(self.jitter)), (self.test_size, self.short_side)):
            if side < size:
                raise ValueError(f"a crop of {size} does not fit a short side of {side}")

    @property
    def test_size(self) -> int:
        """Side of the crop at test, in pixels."""
        return self.size

    def train(self, frames: np.ndarray, rng: np.random.Generator, may_flip: bool = True) -> tuple[np.ndarray, bool]:
        """T H W 3 -> T size size 3 and whether it was flipped. Cropping before resizing gives the same picture."""
        height, width = frames.shape[1:3]
        side = self.size / rng.uniform(*self.jitter) * min(height, width)
        y, x = rng.uniform(0, height - side), rng.uniform(0, width - side)
        flipped = bool(rng.random() < self.flip) and may_flip
        return np.ascontiguousarray(self._resize(frames, y, x, side, self.size, flipped)), flipped

    def test(self, frames: np.ndarray) -> list[np.ndarray]:
        """T H W 3 -> for each crop T test_size test_size 3; views of the frames where they have that size already."""
        height, width = frames.shape[1:3]
        side = self.test_size / self.short_side * min(height, width)
        places = (0.5,) if self.crops == 1 else (0.0, 0.5, 1.0)
        along_y = height > width
        return [
            self._resize(
                frames,
                (height - side) * (p if along_y else 0.5),
                (width - side) * (0.5 if along_y else p),
                side,
                self.test_size,
                False,
            )
            for p in places
        ]

    @staticmethod
    def _resize(frames: np.ndarray, y: float, x: float, side: float, size: int, flipped: bool) -> np.ndarray:
        """Bilinear resampling of the square at (y, x), pixel centres aligned as cv2.resize and torch do."""
        scale = side / size
        if scale == 1 and x == int(x) and y == int(y):  # already of that size, as many copies of Kinetics are
            square = frames[:, int(y) : int(y) + size, int(x) : int(x) + size]
            return square[:, :, ::-1] if flipped else square
        a = -scale if flipped else scale
        b = x + side - 0.5 - 0.5 * scale if flipped else x - 0.5 + 0.5 * scale
        matrix = np.array([[a, 0, b], [0, scale, y - 0.5 + 0.5 * scale]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = np.empty((len(frames), size, size, 3), np.uint8)
        for i, frame in enumerate(frames):
            cv2.warpAffine(frame, matrix, (size, size), out[i], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return out


@dataclass(frozen=True)
class TwoSizeCrops(Crops):
    """Crops of one size in training and another at test, as the authors of SlowFast, X3D and TSM have them.

    Attributes:
        test_size: side of the crop at test, in pixels.
    """

    test_size: int = 0


@dataclass(frozen=True)
class Protocol:
    """Sampling and crops together: the same for every model of a suite."""

    sampling: Sampling
    crops: Crops

    @property
    def views(self) -> int:
        """Views per video at test."""
        return self.sampling.clips * self.crops.crops

    def to_dict(self) -> dict:
        """As plain data."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def view_text(self) -> str:
        """``10×3``: clips × crops."""
        return f"{self.sampling.clips}×{self.crops.crops}"
