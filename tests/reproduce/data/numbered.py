"""Clips whose pictures show their number, changed as copies of videos are, and a straight reading of them."""

from pathlib import Path

import av
import numpy as np

COUNT, SIZE = 40, (128, 96)


def picture(i: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Frame i: its number as eight black or white columns, a square that moves below."""
    w, h = size
    x = np.full((h, w, 3), 90, np.uint8)
    for bit in range(8):
        x[: h // 2, bit * (w // 8) : (bit + 1) * (w // 8)] = 235 if i >> bit & 1 else 20
    x[h // 2 + 8 : h // 2 + 32, i * 5 % (w - 24) :][:, :24] = 220, 40, 60
    return x


def write(path: Path, codec="libx264", options=None, size=SIZE, pix="yuv420p", container=None) -> Path:
    """A clip of frames 0 to 39 with a key frame every twelve."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25, options={"threads": "1"} | (options or {}))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pix, 12
        for i in range(COUNT):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def copy(source: Path, target: Path, change=None, options=None) -> Path:
    """A stream copy; ``change(k, packet)`` may alter packet k, or leave it out by returning False."""
    with av.open(str(source)) as a, av.open(str(target), "w", options=options or {}) as b:
        stream = b.add_stream_from_template(a.streams.video[0])
        for k, packet in enumerate(p for p in a.demux(video=0) if p.size):
            if change is None or change(k, packet) is not False:
                packet.stream = stream
                b.mux(packet)
    return target


def cut(source: Path, target: Path, start: int, count: int) -> Path:
    """A cut without encoding anew: from the key frame before; MP4 hides what comes before the start."""
    with av.open(str(source)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
        times = sorted(p.pts for p in packets)
        begin, end = times[start], [*times, times[-1] + 1][min(start + count, len(times))]
        first = max(k for k, p in enumerate(packets) if p.is_keyframe and p.pts <= begin)

    def change(k, packet):
        if k < first or packet.dts >= end:
            return False
        packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
        return True

    return copy(source, target, change)


def straight(path: Path) -> list[np.ndarray]:
    """What a player shows."""
    with av.open(str(path)) as file:
        stream = file.streams.best("video")
        stream.thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
