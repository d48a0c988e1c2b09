"""Decoded frames of small videos in one file, memory-mapped: what trainings read over and over is decoded once.

Only for data whose content its manifest states, as the embedded videos'. Beside them are ``.frames/<split>.bin``, all
frames of all videos, and ``.frames/<split>.npz``, where each begins and the CRC-32 of each frame. Every frame that is
read is checked; where anything is wrong, the video itself is read.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from reproduce.data.decode import DEFAULT, DecodeError, Pick, decode, decode_distinct, picked
from reproduce.data.manifest import Manifest, Video
from reproduce.lease import HeldError, held
from reproduce.progress import Progress
from reproduce.whole_files import OutputError, write_atomic

logger = logging.getLogger("reproduce")
FOLDER = ".frames"
VERSION = 1
ROOM = 1 << 30  # bytes that stay free on the disk


class NoRoomError(RuntimeError):
    """The disk has no room for a cache."""


@dataclass
class Frames:
    """Reads frames of a manifest's videos, from the cache where there is one.

    Args:
        manifest: of the videos.
        decoder: see ``decode``; frames of another decoder are not taken from the cache.
    """

    manifest: Manifest
    decoder: str = ""
    _map: np.ndarray | None = field(default=None, repr=False)

    def distinct(self, video: Video, pick: Pick) -> tuple[np.ndarray, np.ndarray, int]:
        """As ``decode_distinct``."""
        at = self._index and self._index["at"].get(video.id)
        if at is None:
            return decode_distinct(self.manifest.path(video), pick, self.decoder)
        start, total, height, width, first = at
        unique, inverse = picked(pick, total)
        size = total * height * width * 3
        try:
            if self._map is None:  # not before: each process maps it
                self._map = np.memmap(_files(self.manifest)[0], np.uint8, "r")
            frames = self._map[start : start + size].reshape(total, height, width, 3)[unique]
        except (OSError, ValueError):  # gone, or another one by now
            self._index = None
            return decode_distinct(self.manifest.path(video), lambda _: unique[inverse], self.decoder)
        if [zlib.crc32(frame) for frame in frames] == self._index["crc"][first + unique].tolist():
            return frames, inverse, total
        _damaged(self.manifest)
        self._index = None
        return decode_distinct(self.manifest.path(video), lambda _: unique[inverse], self.decoder)

    @cached_property
    def _index(self) -> dict | None:
        return _load(self.manifest, self.decoder)


def cache(manifest: Manifest) -> None:
    """Decode all videos of a manifest into its cache, unless they are there; without room for it, nothing is done."""
    known = _load(manifest)
    if not all(v.content for v in manifest.videos) or (known and all(v.id in known["at"] for v in manifest.videos)):
        return
    data, index = _files(manifest)
    try:
        with held(data.parent):  # another process that makes it is not waited for
            for part in data.parent.glob(f".{manifest.split}.*.part"):  # of one that was killed
                part.unlink()
            write_atomic(data, lambda path: _write(manifest, path, index))
    except (OutputError, NoRoomError, DecodeError, HeldError) as error:  # it only saves time
        logger.warning("no cache of decoded frames: %s; videos are read each time", error)


def _files(manifest: Manifest) -> tuple[Path, Path]:
    folder = Path(manifest.root) / FOLDER
    return folder / f"{manifest.split}.bin", folder / f"{manifest.split}.npz"


def _header(decoder: str = "") -> str:
    import av

    return f"{VERSION} {decoder or DEFAULT} {av.__version__}"


def _write(manifest: Manifest, path: Path, index: Path) -> None:
    videos, at, checks, start = manifest.videos, [], [], 0
    free = shutil.disk_usage(path.parent).free - ROOM
    with open(path, "wb") as file, Progress(f"{manifest.dataset} {manifest.split} frames", len(videos)) as progress:
        for frames in _decoded([manifest.path(v) for v in videos]):
            at.append((start, *frames.shape[:3], len(checks)))
            checks += [zlib.crc32(frame) for frame in frames]
            start += frames.nbytes
            if start * len(videos) > free * len(at):  # as large as those so far
                need = start * len(videos) / len(at) / 1e9
                raise NoRoomError(f"{path.parent} has no room for {need:.1f} GB beside 1 GB that stays free")
            file.write(np.ascontiguousarray(frames))
            progress.step()
    index.unlink(missing_ok=True)  # of the file that is about to be replaced
    arrays = dict(
        header=np.array(_header()),
        ids=np.array([v.id for v in videos]),
        content=np.array([v.content for v in videos]),
        at=np.array(at),
        crc=np.array(checks, np.uint32),
        bytes=np.array(start),
    )

    def save(to: Path) -> None:
        with open(to, "wb") as file:
            np.savez(file, **arrays)

    write_atomic(index, save)


def _decoded(paths: list[Path]) -> Iterator[np.ndarray]:
    """All frames of each video, a few videos at a time."""
    with ThreadPoolExecutor() as pool:
        ahead: list[Future] = []
        for path in paths:
            ahead.append(pool.submit(decode, path, np.arange))
            if len(ahead) > 16:
                yield ahead.pop(0).result()[0]
        for future in ahead:
            yield future.result()[0]


def _load(manifest: Manifest, decoder: str = "") -> dict | None:
    """The part of the index that is about these videos, if the cache is whole and was decoded alike."""
    data, index = _files(manifest)
    if not index.exists():
        return None
    try:
        with np.load(index, allow_pickle=False) as arrays:
            known = {name: arrays[name] for name in arrays.files}
        if data.stat().st_size != known["bytes"]:
            raise ValueError(f"{data.stat().st_size} bytes, not {known['bytes']}")
        if known["header"] != _header(decoder):
            return None
        content = {v.id: v.content for v in manifest.videos}
        rows = zip(*(known[name].tolist() for name in ("ids", "content", "at")), strict=True)
        return dict(at={i: at for i, of, at in rows if content.get(i) == of}, crc=known["crc"])
    except FileNotFoundError:  # by another process, just now
        return None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        _damaged(manifest, f" ({error})")
        return None


def _damaged(manifest: Manifest, why: str = "") -> None:
    data, index = _files(manifest)
    index.unlink(missing_ok=True)
    logger.warning("%s is damaged%s: it is made anew by the next run, until then videos are read", data, why)
