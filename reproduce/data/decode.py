"""Frames out of video files, through decord, PyAV or torchcodec, or out of folders of extracted frames."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

DEFAULT = os.environ.get("DECODER", "pyav")
"""The decoder of a run; where it fails on a file, PyAV has a try (decord where PyAV is the one that failed).

PyAV skips frames that nothing refers to, and is kept to one thread: the same frames as decord's, in 62 to 93 % of its
time (``results/studies/decoding.json``).
"""


class DecodeError(RuntimeError):
    """A video cannot be decoded; the message names the file and what the decoder said."""


Pick = Callable[[int], np.ndarray]


def decode(path: str | Path, pick: Pick, decoder: str = "") -> tuple[np.ndarray, int]:
    """Decode chosen frames.

    Args:
        path: a video file, or a folder of frames as image files, in the order of their names.
        pick: frame count -> indices wanted, of any shape and order, repeats allowed.
        decoder: ``decord``, ``pyav`` or ``torchcodec``; '' for the default.

    Returns:
        Frames (shape of the indices) × H × W × 3, uint8 RGB, and the number of frames in the file.

    Raises:
        DecodeError: missing, empty, truncated or not a video, and another decoder says so too.
        ValueError: unknown decoder.
    """
    frames, index, total = decode_distinct(path, pick, decoder)
    return frames[index], total


def decode_distinct(path: str | Path, pick: Pick, decoder: str = "") -> tuple[np.ndarray, np.ndarray, int]:
    """As ``decode``, with each frame once: distinct frames U × H × W × 3, indices into them, and the frame count."""
    decoder = decoder or DEFAULT
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error
    if path.is_dir():
        return _images(path, pick)
    if size == 0:
        raise DecodeError(f"{path}: the file is empty")
    try:
        return DECODERS[decoder](path, pick)
    except Exception as error:  # decoders raise what they like; anything here means this file
        try:
            return DECODERS["decord" if decoder == "pyav" else "pyav"](path, pick)
        except Exception:
            raise DecodeError(f"{path}: {decoder} cannot decode it: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What a decoder said, in one line without time stamps or places in its source: equal runs, equal records."""
    lines = [*str(error).strip().splitlines(), type(error).__name__]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", next(line for line in lines if "tack trace" not in line))


def _picked(pick: Pick, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct indices in order, and the wanted ones as places among them."""
    if total == 0:
        raise DecodeError("no video frames")
    index = np.asarray(pick(total))
    unique, inverse = np.unique(index, return_inverse=True)
    return unique, inverse.reshape(index.shape)


def _import_decord():
    """Decord, its libraries kept to itself.

    It loads them for the whole process (``RTLD_GLOBAL`` in ``decord/_ffi/base.py``), among them an old libvpx that then
    stands before PyAV's: no VP9 could be encoded any more.
    """
    mode, ctypes.RTLD_GLOBAL = ctypes.RTLD_GLOBAL, ctypes.RTLD_LOCAL
    try:
        import decord
    finally:
        ctypes.RTLD_GLOBAL = mode
    decord.logging.set_level(decord.logging.ERROR)
    return decord


def _decord(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    decord = _import_decord()
    with open(path, "rb") as file:  # by handle: decord mangles some non-ASCII names
        reader = decord.VideoReader(file, num_threads=1)
    total = len(reader)
    unique, inverse = _picked(pick, total)
    return reader.get_batch(unique).asnumpy(), inverse, total


def _pyav(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """From the last key frame before the first wanted; frames that no other refers to are decoded only if wanted."""
    import av
    from av.video.reformatter import VideoReformatter

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        header = stream.frames
        packets = [p for p in container.demux(stream) if p.size]
        times = [p.pts for p in packets]
        ordered = container.format.name.startswith(("mov", "matroska")) and None not in times
        if not ordered or len(set(times)) < len(times) or any(p.is_discard for p in packets):
            return _pyav_all(path, pick)  # no telling which packet is which frame; AVI's times are guesses
        if header > len(packets):
            raise DecodeError(f"{len(packets)} of {header} frames are there")
        unique, inverse = _picked(pick, len(packets))
        order = sorted(times)
        wanted = {order[i]: n for n, i in enumerate(unique)}
        first = order[unique[0]]
        start = max((i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= first), default=0)
        frames: list[np.ndarray | None] = [None] * len(unique)
        reformatter = VideoReformatter()
        missing = len(unique)
        for packet in (*packets[start:], None):
            if packet is not None:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in stream.codec_context.decode(packet):
                place = wanted.get(frame.pts)
                if place is not None and frames[place] is None:
                    frames[place] = _upright(frame, reformatter)
                    missing -= 1
            if not missing:
                return np.stack(frames), inverse, len(packets)
    return _pyav_all(path, pick)


def _pyav_all(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """Whatever comes out, in the order in which it comes."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        decoded = [_upright(frame, reformatter) for frame in container.decode(stream)]
        if len(decoded) < stream.frames:
            raise DecodeError(f"{len(decoded)} of {stream.frames} frames are there")
    unique, inverse = _picked(pick, len(decoded))
    return np.stack([decoded[i] for i in unique]), inverse, len(decoded)


def _upright(frame, reformatter) -> np.ndarray:
    # By default threads are started for every frame: three quarters of the time with embedded clips.
    rgb = reformatter.reformat(frame, format="rgb24", threads=1)
    return np.rot90(rgb.to_ndarray(), frame.rotation // 90)


def _torchcodec(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    total = len(reader)
    unique, inverse = _picked(pick, total)
    return reader.get_frames_at(unique.tolist()).data.numpy(), inverse, total


def _images(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames that somebody has extracted."""
    import cv2

    names = sorted(n for n in os.listdir(path) if n.lower().endswith((".jpg", ".jpeg", ".png")))
    if not names:
        raise DecodeError(f"{path}: the folder has no image files")
    unique, inverse = _picked(pick, len(names))
    frames = [cv2.imread(str(path / names[i])) for i in unique]
    bad = next((names[i] for i, frame in zip(unique, frames, strict=True) if frame is None), None)
    if bad:
        raise DecodeError(f"{path}: {bad} is no image")
    return np.stack(frames)[..., ::-1], inverse, len(names)


DECODERS = {"decord": _decord, "pyav": _pyav}
if importlib.util.find_spec("torchcodec"):
    DECODERS["torchcodec"] = _torchcodec
