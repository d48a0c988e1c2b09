"""A copy of a data set with its videos made small: encoded anew with a short side of, say, 256, to be read fast.

Videos and annotations have the names that they have in the source. Beside them are
    resized.json            what was done, with what; manifests, records and tables say so
    .resized/journal.jsonl  one line per video; a repeated command continues from it
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reproduce.data.decode import DecodeError, checked, decode, reason, straight_frames, upright
from reproduce.data.frames import NoRoomError
from reproduce.data.layouts import LAYOUTS
from reproduce.data.manifest import RESIZED, DataError, Manifest, read_marker
from reproduce.data.scan import few, key_of, read_journal
from reproduce.lease import held
from reproduce.progress import Progress
from reproduce.whole_files import write_atomic, write_json

WORK = ".resized"
ENCODER = dict(preset="veryfast", crf="18", g="12", bf="0", threads="1")
"""Of libx264. 18 looks like the source. Groups are short and in order, so that a clip is reached soon."""

LEAST = 32  # pixels of a short side
TEXTS = (".csv", ".txt", ".json", ".tsv")  # annotations, lists, label maps; they lie in the root or in
FOLDERS = ("annotations", "labels")
SAMPLE = 8  # videos that are encoded to say what all will take
FAR = 8  # mean difference of two grey pictures, of 255, over which they do not show the same
SMALL = "small"


class Job(NamedTuple):
    """A video to make."""

    file: str  # below both roots
    source: Path
    target: Path
    side: int
    key: list  # of the source, as it is now


@dataclass(frozen=True)
class Resizing:
    """What it takes to make a resized copy, and the making of it.

    Args:
        layout: name of the data layout.
        manifests: the splits of the source; their root is absolute.
        out: folder of the copy: new, empty, or begun by the same command before.
        side: short side in pixels. Videos whose short side is not longer are copied as they are.
        workers: processes; all cores that this process may use when 0.

    Raises:
        DataError: the side is odd or too short, the source is a resized copy, or lies around the new one; the folder
            holds anything else.
    """

    layout: str
    manifests: tuple[Manifest, ...]
    out: Path
    side: int
    workers: int = 0

    def __post_init__(self) -> None:
        if self.side < LEAST or self.side % 2:
            raise DataError(f"--short-side={self.side}: it is an even number of pixels, {LEAST} or more")
        if read_marker(self.root):
            raise DataError(f"{self.root} is a resized copy itself; name the original with --root")
        if self.out.resolve().is_relative_to(self.root.resolve()):
            raise DataError(
                f"--out={self.out} lies in the copy {self.root}, where nothing is written; choose another folder"
            )
        begun = read_marker(self.out)
        if not begun and self.out.exists() and (self.out.is_file() or set(os.listdir(self.out)) - {WORK}):
            raise DataError(f"--out={self.out} holds something else; choose a new folder")
        other = {name: begun[name] for name, value in self._settings.items() if begun and begun[name] != value}
        if other:
            raise DataError(f"--out={self.out} was begun with {other}; choose another folder, or the same settings")

    @property
    def root(self) -> Path:
        """Folder of the source."""
        return self.manifests[0].root

    @property
    def _settings(self) -> dict:
        return dict(layout=self.layout, source=str(self.root), short_side=self.side, encoder=ENCODER)

    @cached_property
    def _present(self) -> dict[str, Job]:
        """All videos that have a file."""
        found = {}
        for m in self.manifests:
            for v in m.videos:
                source = m.path(v)
                key = key_of(source, self.side)
                if key is None:
                    continue
                if os.path.isabs(v.path) or ".." in Path(os.path.normpath(v.path)).parts:
                    raise DataError(f"{source} lies outside of {m.root}; move it there, and change the annotation")
                if source.is_dir():
                    raise DataError(f"{source} is a folder of frames; only copies with video files are resized")
                found[v.path] = Job(v.path, source, self.out / v.path, self.side, key)
        return found

    @cached_property
    def todo(self) -> list[Job]:
        """The videos that are not there yet, or whose source has changed."""
        done = read_journal(self.out / WORK / "journal.jsonl")
        rows = [(job, done.get(job.file, dict(key=None, bytes=None))) for job in self._present.values()]
        return [job for job, row in rows if row["key"] != job.key or row["bytes"] != _bytes(job.target)]

    def plan(self) -> str:
        """Size and time of what is to do, from a sample that is encoded to a temporary folder.

        Raises:
            NoRoomError: there may be less room than that.
        """
        todo, workers = self.todo, min(self._processes, len(self.todo))
        if not todo:
            return f"{self.out}: all {len(self._present):,} videos are there"
        sizes, start = [], time.monotonic()
        with tempfile.TemporaryDirectory() as folder, Progress("sample", min(SAMPLE, len(todo))) as progress:
            for i in np.linspace(0, len(todo) - 1, min(SAMPLE, len(todo))).astype(int):
                sizes.append(max(1, make(todo[i]._replace(target=Path(folder, f"{i}.mp4")))["bytes"]))
                progress.step()
        seconds = (time.monotonic() - start) / len(sizes) * len(todo) / workers
        mean = statistics.mean(sizes)
        error = 0 if len(sizes) == len(todo) else 2 * statistics.stdev(sizes) / len(sizes) ** 0.5 / mean
        need, there = mean * len(todo), (self.out.absolute(), *self.out.absolute().parents)
        free = shutil.disk_usage(next(p for p in there if p.exists())).free
        text = (
            f"{self.out}: about {need / 1e9:.3g} GB (±{100 * error:.0f} %) for {len(todo):,} videos; free: "
            f"{free / 1e9:.3g} GB; about {_about(seconds)} with {workers} process{'es' if workers > 1 else ''}"
        )
        if need * (1 + error) > free:
            raise NoRoomError(f"{text}; too little is free: choose another folder (--out)")
        return text

    def run(self) -> str:
        """Make what is to do.

        Returns:
            What was done, with the videos that could not be encoded.

        Raises:
            OutputError: the folder cannot be written, or another process is at work on it.
            DataError: the layout does not find in the copy what it finds in the source.
        """
        journal = self.out / WORK / "journal.jsonl"
        with held(self.out / WORK):
            self._mark(complete=False)
            for part in self.out.rglob(".*.part"):  # of a process that was killed
                part.unlink()
            self._copy_texts()
            start = len(self._present) - len(self.todo)
            with (
                open(journal, "a") as log,
                Progress("resize", len(self._present), start) as progress,
                contextlib.closing(_each(self.todo, self._processes)) as rows,
            ):
                log.write("\n")  # the last line may be cut off
                for row in rows:
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    progress.step(note=row["file"])
            for m in self.manifests:
                made = LAYOUTS.named(self.layout)(self.out, m.split, m.dataset)
                if (made.classes, made.videos) != (m.classes, m.videos):
                    raise DataError(f"{self.out}: layout {self.layout!r} finds other videos there than in {self.root}")
            done = read_journal(journal)
            kept = {file: done[file]["kept"] for file in self._present}
            anew, small = (sum(why == text for why in kept.values()) for text in ("", SMALL))
            failed = {file: why for file, why in kept.items() if why not in ("", SMALL)}
            self._mark(complete=True, videos=len(kept), encoded=anew, small=small, failed=failed)
        text = f"{self.out}: {anew:,} videos encoded anew, {small:,} copied, of a short side of {self.side} or less"
        if failed:
            named = few([f"{file} ({why})" for file, why in failed.items()])
            text += f"\n  {len(failed):,} copied that cannot be encoded: {named}"
        return text

    @property
    def _processes(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

    def _mark(self, **state) -> None:
        import av

        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        versions = sorted({f"PyAV {av.__version__}, libavcodec {codec}", *read_marker(self.out).get("versions", ())})
        made = self._settings | dict(dataset=self.manifests[0].dataset, versions=versions)
        write_json(self.out / RESIZED, made | state)

    def _copy_texts(self) -> None:
        """Copy annotations; absolute paths into the source become relative, or the source would be read."""
        for path in itertools.chain(*(sorted((self.root / folder).glob("*")) for folder in ("", *FOLDERS))):
            if path.suffix.lower() in TEXTS and path.is_file():
                text = path.read_bytes().replace(f"{self.root}/".encode(), b"")
                write_atomic(self.out / path.relative_to(self.root), lambda part, text=text: part.write_bytes(text))


def make(job: Job) -> dict:
    """Make one video, in a worker.

    Returns:
        A line of the journal: the file, the source's ``key``, ``bytes`` of the new file, and why it was ``kept`` as it
        is: '' if it was encoded, ``SMALL``, or what the decoder says.

    Raises:
        OSError: the source cannot be read; an OutputError, the copy not written.
    """
    try:
        frames, total = decode(job.source, lambda _: np.zeros(1, int), "pyav")
        kept = SMALL if min(frames.shape[1:3]) <= job.side else ""
        if not kept:
            write_atomic(job.target, lambda part: _encode(job.source, part, job.side, frames[0], total))
    except OSError:
        raise
    except Exception as error:  # any other is one of this file
        kept = reason(error).replace(f"{job.source}: ", "").replace(str(job.source), job.file)
    if kept:
        content = job.source.read_bytes()
        write_atomic(job.target, lambda part: part.write_bytes(content))
    return dict(file=job.file, key=job.key, bytes=_bytes(job.target), kept=kept)


def _encode(source: Path, part: Path, side: int, first: np.ndarray, total: int) -> None:
    """Encode the frames that ``decode`` shows, with their times, and read the file again.

    Args:
        source: a video.
        part: the file to write.
        side: short side in pixels.
        first: H × W × 3, the first frame as it is decoded.
        total: number of frames.

    Raises:
        DecodeError: a frame cannot be decoded, has another size, or a time not after that of the frame before; the
            new file does not show the same.
    """
    import av
    import cv2
    from av.video.reformatter import VideoReformatter

    height, width = (2 * round(n * side / min(first.shape[:2]) / 2) for n in first.shape[:2])
    frames, reformatter, times = straight_frames(source), VideoReformatter(), []
    head = next(frames)
    size = (width, height) if upright(np.empty((1, 2)), head).shape == (1, 2) else (height, width)  # before a turn
    options = {"movie_timescale": str(head.time_base.denominator)}  # else the first frame's time is rounded
    with av.open(str(part), "w", format="mp4", options=options) as target:
        stream = target.add_stream("libx264", rate=25, options=ENCODER)  # the rate is not used: frames have times
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = head.time_base
        stream.codec_context.colorspace = head.colorspace
        for frame in itertools.chain([head], frames):
            if (frame.width, frame.height) != (head.width, head.height):
                raise DecodeError("frames of several sizes")
            if frame.pts is None or (times and frame.pts <= times[-1]):
                raise DecodeError("times that do not ascend")
            times.append(frame.pts)
            small = reformatter.reformat(
                frame, *size, "yuv420p", dst_color_range="MPEG", interpolation="AREA", threads=1
            )
            new = av.VideoFrame.from_ndarray(_upright_planes(small.to_ndarray(), frame), format="yuv420p")
            new.pts, new.time_base, new.duration = frame.pts, frame.time_base, frame.duration
            target.mux(stream.encode(new))
        target.mux(stream.encode(None))
    new_times = checked(part)
    (again,), count = decode(part, lambda _: np.zeros(1, int), "pyav")
    wanted = cv2.resize(np.ascontiguousarray(first), (width, height), interpolation=cv2.INTER_AREA)
    if count != total or not np.array_equal(new_times, [float(t * head.time_base) for t in times]):
        raise DecodeError(f"{count} frames for {total}, or at other times")
    wanted, again = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(int) for x in (wanted, again))
    if again.shape != wanted.shape or np.abs(again - wanted).mean() > FAR:
        raise DecodeError("the first frame is another one")


def _upright_planes(planes: np.ndarray, frame) -> np.ndarray:
    """The planes Y, U and V of 4:2:0, 3/2 H × W, each turned as the frame is to be shown."""
    height, width = len(planes) * 2 // 3, planes.shape[1]
    parts = [planes[:height], *planes[height:].reshape(2, height // 2, width // 2)]
    parts = [upright(part, frame) for part in parts]
    return np.concatenate([part.ravel() for part in parts]).reshape(-1, parts[0].shape[1])


def _each(jobs: list[Job], workers: int) -> Iterator[dict]:
    """Yield what ``make`` returns for each job; when this process is stopped, the workers finish their videos."""
    if min(workers, len(jobs)) <= 1:
        yield from map(make, jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start) as pool:
        try:
            running = set()
            for job in jobs:
                running.add(pool.submit(make, job))
                if len(running) >= 4 * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM exits here; an error could be taken for one of a video. The command can be issued again."""

    def stop(*_) -> None:
        print("stopped by SIGTERM; issue the command again to go on", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _start() -> None:
    """Prepare a worker: only its parent ends it, and it ends with its parent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _bytes(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_size


def _about(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds > 5400 else f"{max(1, round(seconds / 60))} minutes"
