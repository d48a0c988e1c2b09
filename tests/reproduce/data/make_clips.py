"""Writes small, distinct video files: ``python make_clips.py FOLDER``."""

import sys
from pathlib import Path

import av
import cv2
import numpy as np

from reproduce.data.synthetic.writer import encode

COUNT = 60


def picture(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A coloured texture that slides: T H W 3, of no two seeds the same."""
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width + 2 * frames, height + frames))
    return np.stack([texture[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def write(path: Path, codec: str, frames: np.ndarray, fps: int, rotation: int = 0) -> None:
    """Any codec, any size; ``rotation`` goes into the display matrix only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main(folder: Path) -> None:
    """``0.mp4`` … and ``0.webm`` …, and one file of each oddity."""
    for i in range(COUNT):
        size = 64 + 2 * (i % 5), 80 + 2 * (i % 7)
        encode(picture(i, 12 + i % 6, *size), 25, folder / f"{i}.mp4")
        encode(picture(1000 + i, 12 + i % 6, *size), 12, folder / f"{i}.webm")
    encode(picture(2000, 1, 64, 80), 25, folder / "one.mp4")
    encode(picture(2001, 12, 64, 80), 4, folder / "slow.mp4")
    encode(picture(2002, 12, 64, 72), 25, folder / "narrow.mp4")
    encode(picture(2006, 60, 96, 128), 12, folder / "long.webm")
    write(folder / "odd.webm", "libvpx-vp9", picture(2003, 12, 63, 81), 12)
    write(folder / "rotated.mp4", "libx264", picture(2004, 12, 64, 80), 25, rotation=90)
    write(folder / "old.avi", "mpeg4", picture(2005, 12, 64, 80), 25)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
