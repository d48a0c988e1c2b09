"""Frames out of video files, through decord or PyAV."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np


class DecodeError(RuntimeError):
    """A video cannot be decoded; the message names the file and what the decoder said."""


Pick = Callable[[int], np.ndarray]


def decode(path: str | Path, pick: Pick, decoder: str = "decord") -> tuple[np.ndarray, int]:
    """Decode chosen frames.

    Args:
        path: a video file.
        pick: frame count -> indices wanted, of any shape and order, repeats allowed.
        decoder: ``decord`` or ``pyav``.

    Returns:
        Frames (shape of the indices) × H × W × 3, uint8 RGB, and the number of frames in the file.

    Raises:
        DecodeError: missing, empty, truncated or not a video.
        ValueError: unknown decoder.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error
    if size == 0:
        raise DecodeError(f"{path}: the file is empty")
    try:
        return DECODERS[decoder](path, pick)
    except DecodeError:
        raise
    except Exception as error:  # decoders raise what they like; anything here means this file
        lines = [*str(error).strip().splitlines(), type(error).__name__]
        reason = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", next(line for line in lines if "tack trace" not in line))
        raise DecodeError(f"{path}: {decoder} cannot decode it: {reason}") from error


def _decord(path: Path, pick: Pick) -> tuple[np.ndarray, int]:
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    with open(path, "rb") as file:  # by handle: decord mangles some non-ASCII names
        reader = decord.VideoReader(file, num_threads=1)
    total = len(reader)
    if total == 0:
        raise DecodeError(f"{path}: the file has no video frames")
    index = np.asarray(pick(total))
    unique, inverse = np.unique(index, return_inverse=True)
    frames = reader.get_batch(unique).asnumpy()
    return frames[inverse.reshape(index.shape)], total


def _pyav(path: Path, pick: Pick) -> tuple[np.ndarray, int]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        decoded = [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in container.decode(stream)
        ]
    if not decoded:
        raise DecodeError(f"{path}: the file has no video frames")
    index = np.asarray(pick(len(decoded)))
    frames = np.stack([decoded[i] for i in index.ravel()])
    return frames.reshape(*index.shape, *frames.shape[1:]), len(decoded)


DECODERS = {"decord": _decord, "pyav": _pyav}
