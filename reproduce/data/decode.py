"""Frames out of video files, through PyAV, decord or torchcodec, or out of folders of extracted frames.

The frames of a video are those of a straight reading: all frames of FFmpeg's best video stream, in the order in which
its decoder returns them. ``_straight`` reads like this, once to count and once to keep the wanted frames. Where the
packets prove the order (``_order``), ``_quick`` decodes less.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

DEFAULT = os.environ.get("DECODER", "pyav")
"""The decoder of a run. PyAV takes over where another decoder fails or cannot be checked.

PyAV skips frames that no other frame refers to, and uses one thread: it gives the same frames as decord, in 62 to 93 %
of decord's time (``results/studies/decoding.json``).
"""

LARGE = 1 << 28  # bytes of a file whose packets are not kept in memory: it is no clip
IMAGES = (".jpg", ".jpeg", ".png")
FLOW = re.compile(r".*flow(?!er).*|(.*[^a-z0-9])?[xyuv][_-]?", re.IGNORECASE)  # in names of optical flow: flow_x_, x_


class DecodeError(RuntimeError):
    """A video cannot be decoded; the message names the file and what the decoder said."""


class Truncated(DecodeError):
    """A part of a video is missing."""


Pick = Callable[[int], np.ndarray]


def check(decoder: str = "") -> str:
    """The decoder's name, or the default's if it is ''; commands call this before their first step.

    Raises:
        ValueError: there is no decoder of that name, or it is not installed.
    """
    name = decoder or DEFAULT
    if name not in DECODERS:
        known = f"known: {', '.join(DECODERS)}"
        raise ValueError(
            f"DECODER={name}: torchcodec is not installed; {known}"
            if name == "torchcodec"
            else f"unknown decoder {name!r}; {known}; set DECODER to one of them"
        )
    return name


def decode(path: str | Path, pick: Pick, decoder: str = "") -> tuple[np.ndarray, int]:
    """Decode chosen frames.

    Args:
        path: a video file, or a folder of frames as numbered image files.
        pick: frame count -> indices wanted, of any shape and order, repeats allowed.
        decoder: ``decord``, ``pyav`` or ``torchcodec``; '' for the default.

    Returns:
        Frames (shape of the indices) × H × W × 3, uint8 RGB, and the number of frames in the file.

    Raises:
        DecodeError: missing, empty, truncated, not a video, or of frames that differ in size.
        ValueError: unknown decoder.
    """
    frames, index, total = decode_distinct(path, pick, decoder)
    return frames[index], total


def decode_distinct(path: str | Path, pick: Pick, decoder: str = "") -> tuple[np.ndarray, np.ndarray, int]:
    """As ``decode``, with each frame once: distinct frames U × H × W × 3, indices into them, and the frame count."""
    decoder = check(decoder)
    path, pick = Path(path), functools.cache(pick)  # called once, since it may draw, and a second reading may follow
    try:
        size = path.stat().st_size
        if path.is_dir():
            return _images(path, pick)
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error
    if size == 0:
        raise DecodeError(f"{path}: the file is empty")
    if decoder != "pyav":
        try:
            return DECODERS[decoder](path, pick)
        except Exception:  # decoders raise any error, and may be wrong: PyAV decides
            pass
    try:
        return DECODERS["pyav"](path, pick)
    except Exception as error:  # any error here is one of this file
        raise DecodeError(f"{path}: pyav cannot decode it: {reason(error)}") from error


def reason(error: Exception) -> str:
    """A decoder's message in one line, without time stamps and source places: equal runs give equal records."""
    lines = [*str(error).strip().splitlines(), type(error).__name__]
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", next(line for line in lines if "tack trace" not in line))


def picked(pick: Pick, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct indices in order, and the wanted indices as positions among them."""
    if total == 0:
        raise DecodeError("no video frames")
    index = np.asarray(pick(total))
    unique, inverse = np.unique(index, return_inverse=True)
    return unique, inverse.reshape(index.shape)


def _import_decord():
    """Import decord with its libraries hidden from other modules.

    decord loads them for the whole process (``RTLD_GLOBAL`` in ``decord/_ffi/base.py``): its old libvpx would take the
    place of PyAV's, which could then encode no VP9.
    """
    mode, ctypes.RTLD_GLOBAL = ctypes.RTLD_GLOBAL, ctypes.RTLD_LOCAL
    try:
        import decord
    finally:
        ctypes.RTLD_GLOBAL = mode
    decord.logging.set_level(decord.logging.ERROR)
    return decord


def _decord(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    times = checked(path)
    decord = _import_decord()
    with open(path, "rb") as file:  # by handle: decord mangles some non-ASCII names
        reader = decord.VideoReader(file, num_threads=1)
    unique, inverse = picked(pick, len(times))
    _agree(times, unique, len(reader), reader.get_frame_timestamp(unique)[:, 0])
    return reader.get_batch(unique).asnumpy(), inverse, len(times)


def _torchcodec(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    from torchcodec.decoders import VideoDecoder

    times = checked(path)
    reader = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    unique, inverse = picked(pick, len(times))
    batch = reader.get_frames_at(unique.tolist())
    _agree(times, unique, len(reader), batch.pts_seconds.numpy())
    return batch.data.numpy(), inverse, len(times)


def checked(path: Path) -> np.ndarray:
    """Times of a video's frames in seconds, to check another decoder with.

    Raises:
        DecodeError: it is not a plain video, which other decoders read correctly: H.264 or VP9 in MP4 or Matroska,
            every key frame a fresh start, 4:2:0 of eight bits, even sizes, upright, nothing hidden.
    """
    with opened(path) as (container, stream):
        context = stream.codec_context
        packets = _packets(path, container, stream)
        order, starts = _order(container, stream, packets)
        plain = (
            context.name in ("h264", "vp9")
            and context.pix_fmt == "yuv420p"
            and not (context.width % 2 or context.height % 2)
            and len(order) == len(packets)
            and len(starts) == sum(p.is_keyframe for p in packets)
            and "DISPLAYMATRIX" not in [*context.decode(packets[0]), *context.decode(None)][0].side_data
        )
        if not plain:
            raise DecodeError("no plain video: left to PyAV")
        return np.array([float(t * stream.time_base) for t in order])


def _agree(times: np.ndarray, unique: np.ndarray, total: int, theirs: np.ndarray) -> None:
    """Check another decoder's frames against PyAV's, by count and time."""
    if total != len(times) or not np.allclose(theirs, times[unique], rtol=0, atol=1e-3):
        raise DecodeError(f"{total} frames for {len(times)}, or other ones")


@contextlib.contextmanager
def opened(path: Path):
    """A container and its video stream: FFmpeg's best one, which must not be a cover picture.

    Raises:
        DecodeError: there is none.
    """
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise DecodeError("no video stream" if stream is None else "no video but a cover picture")
        stream.thread_type = "NONE"
        yield container, stream


def _packets(path: Path, container, stream) -> list:
    """All packets of a clip.

    Raises:
        Truncated: the header announces more.
        DecodeError: the file is too large for a clip.
    """
    if path.stat().st_size > LARGE:
        raise DecodeError("too large to be held")
    packets = [p for p in container.demux(stream) if p.size]
    check_whole(path, container, stream, len(packets))
    return packets


def check_whole(path: Path, container, stream, packets: int) -> None:
    """Refuse a file without its end; a header may also count frames that an edit list hides or that were dropped.

    Args:
        path: of the file.
        container: of PyAV, all packets read.
        stream: of the container.
        packets: how many came.

    Raises:
        Truncated: its end is missing.
    """
    size, name, header = path.stat().st_size, container.format.name, stream.frames
    if name.startswith("mov"):  # the index says where each frame is
        ends = [e.pos + e.size for e in stream.index_entries]
        there = sum(end <= size for end in ends)
        cut, packets, header = there < len(ends), there, len(ends)
    elif name == "avi":  # a RIFF says its length; frames that were dropped when recording are counted by the header too
        with open(path, "rb") as file:
            cut = packets < header and size < 8 + struct.unpack("<4xI", file.read(8))[0]
    else:
        cut = packets < header
    if cut:
        raise Truncated(f"{packets} of {header} frames are there")


def _order(container, stream, packets: list) -> tuple[list[int], list[int]]:
    """When a video's frames are shown, and where a decoder can start.

    Returns:
        Time stamps of the frames shown, in order, one for each packet that is not hidden; indices of the packets at
        which decoding can start, beginning with the first packet.

    Raises:
        DecodeError: the packets do not prove the order; only decoding shows it.
    """
    context, name = stream.codec_context, stream.codec_context.name
    times = [p.pts for p in packets]
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    starts = [i for i in keys if STARTS.get(name, _never)(packets[i], context.extradata or b"")]
    order = sorted(p.pts for p in packets if not p.is_discard) if None not in times else []
    sure = (
        container.format.name.startswith(("mov", "matroska"))
        and order
        and len(set(times)) == len(times)
        and not any(p.is_corrupt or p.has_sidedata("new_extradata") for p in packets)
        and starts[:1] == [0]
        and (name != "h264" or context.field_order == 1)  # a packet may be a field, which is half a frame
        and (name != "vp9" or all(_vp9(p) != "hidden" for p in packets))
    )
    if not sure:
        raise DecodeError("it is not known which packet is which frame")
    groups = [times[a:b] for a, b in zip(starts, [*starts[1:], len(times)], strict=True)]
    ascending = all(max(a) < min(b) for a, b in itertools.pairwise(groups))
    if ascending and context.has_b_frames:
        # Files remuxed from AVI have the times of decoding. The pictures' own numbers give the order of display.
        ascending = all(map(_ranks_alike, groups, _shown(stream, packets, starts)))
    else:
        ascending = ascending and times == sorted(times)
    if not ascending:
        raise DecodeError("times that do not follow the order of display")
    return order, starts


def _shown(stream, packets: list, starts: list[int]) -> Iterator[list[float]]:
    """For the packets from each start to the next, their display numbers, which FFmpeg reads from the pictures."""
    import av
    from av.bitstream import BitStreamFilterContext

    for a, b in zip(starts, [*starts[1:], len(packets)], strict=True):
        reader, copies = BitStreamFilterContext("dts2pts", stream), []
        for i in range(a, b):
            copies.append(av.Packet(packets[i]))  # the filter would empty ours
            copies[-1].dts, copies[-1].duration, copies[-1].time_base = i, 1, stream.time_base
        shown = [p.pts for packet in (*copies, None) for p in reader.filter(packet)]
        yield [math.inf if t is None else t for t in shown]  # the last one shown has none


def _ranks_alike(a: list[int], b: list[float]) -> bool:
    return len(a) == len(b) == len(set(b)) and np.array_equal(np.argsort(a), np.argsort(b))


def _avc(packet, extradata: bytes) -> bool:
    """Whether a packet is an instantaneous refresh of H.264."""
    return extradata[:1] == b"\1" and next((t & 31 for t in _units(packet, extradata[4]) if 1 <= t & 31 <= 5), 0) == 5


def _hevc(packet, extradata: bytes) -> bool:
    """Whether a packet is an instantaneous refresh of HEVC."""
    return extradata[:1] == b"\1" and next((t >> 1 for t in _units(packet, extradata[21]) if t < 64), 0) in (19, 20)


def _units(packet, length: int) -> Iterator[int]:
    """First bytes of the units in a packet; a length precedes each unit."""
    data, at, n = memoryview(packet), 0, (length & 3) + 1
    while at + n < len(data):
        yield data[at + n]
        at += n + int.from_bytes(data[at : at + n], "big")


def _vp9(packet) -> str:
    """``key``, ``hidden`` (a frame that is not shown, alone in its packet) or ``''``."""
    data = memoryview(packet)
    if data[0] & 0xF8 in (0x80, 0x90, 0xA0):  # profiles 0 to 2, not a repetition of a frame
        key, shown = not data[0] & 4, data[0] & 2 or data[-1] & 0xE0 == 0xC0
        return "hidden" if not shown else "key" if key else ""
    return "" if data[0] & 0xC8 == 0x88 else "hidden"


def _pyav(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    try:
        return _quick(path, pick)
    except Truncated:
        raise
    except Exception:  # whatever the error is, a straight reading reports it
        return _straight(path, pick)


def _quick(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """Decode from the last start before the first wanted frame, without unwanted frames that no other refers to."""
    from av.video.reformatter import VideoReformatter

    with opened(path) as (container, stream):
        packets = _packets(path, container, stream)
        order, starts = _order(container, stream, packets)
        unique, inverse = picked(pick, len(order))
        wanted = {order[i]: n for n, i in enumerate(unique)}
        start = max(i for i in starts if packets[i].pts <= order[unique[0]])
        frames: list[np.ndarray | None] = [None] * len(unique)
        reformatter = VideoReformatter()
        missing = len(unique)
        # The decoder fills damaged parts from the frames before: such a file is read straight.
        stream.codec_context.options = {"err_detect": "explode"}
        for packet in (*packets[start:], None):
            if packet is not None:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in stream.codec_context.decode(packet):
                if frame.is_corrupt:
                    raise DecodeError("damaged")
                place = wanted.get(frame.pts)
                if place is not None and frames[place] is None:
                    frames[place] = _rgb(frame, reformatter)
                    missing -= 1
            if not missing:
                return _stack(frames), inverse, len(order)
    raise DecodeError(f"{missing} frames do not come")


def _straight(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """All frames in the order in which the decoder returns them; a first reading only counts."""
    from av.video.reformatter import VideoReformatter

    with opened(path) as (container, stream):
        total = sum(1 for _ in container.decode(stream))
        check_whole(path, container, stream, total)
    unique, inverse = picked(pick, total)
    wanted, frames, reformatter = set(unique.tolist()), [], VideoReformatter()
    with opened(path) as (container, stream):
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                frames.append(_rgb(frame, reformatter))
            if len(frames) == len(unique):
                return _stack(frames), inverse, total
    raise DecodeError(f"frame {unique[len(frames)]} of {total} does not come")


def straight_frames(path: Path) -> Iterator:
    """A straight reading of a video file: PyAV's frames, which ``upright`` turns.

    Raises:
        DecodeError: as ``decode``; of a file that is cut off, after its last frame.
    """
    total = 0
    try:
        with opened(path) as (container, stream):
            for frame in container.decode(stream):
                yield frame
                total += 1
            check_whole(path, container, stream, total)
    except Exception as error:  # any error here is one of this file
        raise DecodeError(f"{path}: pyav cannot decode it: {reason(error)}") from error


def _rgb(frame, reformatter) -> np.ndarray:
    # By default, threads are started for every frame, which takes three quarters of the time with embedded clips.
    return upright(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), frame)


def upright(picture: np.ndarray, frame) -> np.ndarray:
    """A picture of a frame, H × W × …, turned and flipped as the frame says that it is to be shown; a view."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = struct.unpack_from("=5i", matrix)  # x' = ax + cy, y' = bx + dy
    if abs(b) + abs(c) > abs(a) + abs(d):  # a quarter turn
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _stack(frames: list[np.ndarray]) -> np.ndarray:
    sizes = sorted({f.shape[1::-1] for f in frames})
    if len(sizes) > 1:
        raise DecodeError(f"frames of several sizes: {', '.join(f'{w}x{h}' for w, h in sizes)}")
    return np.stack(frames)


def _images(path: Path, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames from a folder of extracted images."""
    import cv2

    try:
        names = frame_files(path)
        unique, inverse = picked(pick, len(names))
        frames = [cv2.imread(str(path / names[i])) for i in unique]
        bad = next((names[i] for i, frame in zip(unique, frames, strict=True) if frame is None), None)
        if bad:
            raise DecodeError(f"{bad} is no image")
        return _stack(frames)[..., ::-1], inverse, len(names)
    except DecodeError as error:
        raise type(error)(f"{path}: {error}") from None


def frame_files(path: Path) -> list[str]:
    """The image files of a folder that are its frames, by their numbers.

    Files without a number (``thumb.jpg``), hidden ones and optical flow (``flow_x_00001.jpg``) are not frames.

    Raises:
        Truncated: numbers are missing.
        DecodeError: there are no frames, or more than one sequence of them.
    """
    sequences: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(path):
        stem, suffix = os.path.splitext(name)
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", stem, re.ASCII)
        if (
            suffix.lower() in IMAGES
            and match
            and not name.startswith(".")
            and not any(map(FLOW.fullmatch, match.group(1, 3)))
        ):
            kind = f"{match[1]}#{match[3]}{suffix.lower()}"
            sequences.setdefault(kind, []).append((int(match[2]), name))
    if len(sequences) > 1:
        found = ", ".join(f"{len(s)} of {kind}" for kind, s in sorted(sequences.items()))
        raise DecodeError(f"more than one sequence of frames: {found}; leave one in the folder")
    if not sequences:
        raise DecodeError("the folder has no numbered image files, other than optical flow")
    files = sorted(*sequences.values())
    first, last = files[0][0], files[-1][0]
    if len({n for n, _ in files}) < len(files):
        number, name = next(a for a, b in itertools.pairwise(files) if a[0] == b[0])
        raise DecodeError(f"{name} and another file are both frame {number}")
    if last - first + 1 != len(files):
        raise Truncated(f"{len(files)} of the frames {first} to {last}")
    return [name for _, name in files]


def _never(packet, extradata: bytes) -> bool:
    return False


STARTS = {"h264": _avc, "hevc": _hevc, "vp9": lambda packet, _: _vp9(packet) == "key"}
"""Codec -> whether a packet is a fresh start; only for codecs with one frame per packet."""

DECODERS = {"decord": _decord, "pyav": _pyav}
if importlib.util.find_spec("torchcodec"):
    DECODERS["torchcodec"] = _torchcodec
