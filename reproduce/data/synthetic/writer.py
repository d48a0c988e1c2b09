"""Writes a synthetic data set to disk: in parallel, resumably, in the layout of the data set it stands for.

A video is encoded under a temporary name and moved into place; then its record goes to a journal. A run that finds
the journal of an earlier one writes only what is missing. The manifest comes last and marks the folder as complete.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .video import KINETICS, VideoSpec, annotation, classes, count, render_spec, splits, video_spec

GENERATOR_VERSION = 2
"""Goes up whenever the pixels of any video change."""

MANIFEST = "manifest.json"
_JOURNAL = "journal.jsonl"
_LOCK = ".lock"
_PARTIAL = ".partial"
_REPORT_SECONDS = 5.0  # between two lines of progress where there is no terminal

# Single-threaded, since videos are encoded side by side; fast, since the files are cheap to make again.
_CODECS = {
    "mp4": ("libx264", {"preset": "ultrafast", "crf": "23", "threads": "1"}),
    "webm": (
        "libvpx-vp9",
        {
            "deadline": "realtime",
            "cpu-used": "8",
            "crf": "36",
            "b": "0",
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
            "threads": "1",
        },
    ),
}


@dataclass(frozen=True)
class _Job:
    """The intended content of a folder."""

    name: str
    size: str
    seed: int

    def header(self) -> dict:
        return {"name": self.name, "size": self.size, "seed": self.seed, "generator_version": GENERATOR_VERSION}

    def spec(self, split: str, index: int) -> VideoSpec:
        return video_spec(self.name, self.size, self.seed, split, index)


def generate(name: str, root: str | Path, *, size: str = "quick", seed: int = 0, workers: int | None = None) -> dict:
    """Writes a synthetic data set, or what is missing of it, and returns its manifest.

    Args:
        name: `synthetic-kinetics` or `synthetic-ssv2`.
        root: its own folder, made when missing.
        size: `tiny`, `quick` or `full`, or what `changed` makes of one of them.
        seed: another seed gives other videos of the same classes.
        workers: processes; all the cores this process may use when None. The pixels do not depend on it.

    Raises:
        ValueError: unknown `name` or `size`, or `root` holds something else.
        OSError: `root` cannot be written.
    """
    names, root = classes(name, size), Path(root)
    job = _Job(name, size, seed)
    manifest = _complete(job, root)
    if manifest is not None:
        return manifest
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits until another process has finished it
            return _complete(job, root) or _write(job, root, names, workers)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {name} to {root} ({error.strerror or error}); free space there, mend its permissions "
            "or choose another folder, then run again: finished videos are kept",
        ) from error


def load_manifest(root: str | Path) -> dict:
    """The manifest of a complete synthetic data set.

    Raises:
        FileNotFoundError: `root` has none.
    """
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{root} holds no complete synthetic data set (no {MANIFEST}); run generate()")
    return json.loads(path.read_text())


def _complete(job: _Job, root: Path) -> dict | None:
    """The manifest, if `root` holds all of `job`.

    Raises:
        ValueError: it holds anything else.
    """
    if not root.exists():
        return None
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give {job.name} a folder of its own")
    if (root / MANIFEST).exists():
        manifest = load_manifest(root)
        _check_header(job, root, manifest)
        missing = any(not (root / video["path"]).is_file() for video in manifest["videos"])
        return None if missing else manifest
    if (root / _JOURNAL).exists():
        with open(root / _JOURNAL) as journal:
            _check_header(job, root, _parse(journal.readline()) or job.header())
    elif {entry.name for entry in root.iterdir()} - {_LOCK, _PARTIAL}:
        raise ValueError(f"{root} is not empty and not a synthetic data set; give {job.name} a folder of its own")
    return None


def _check_header(job: _Job, root: Path, found: dict) -> None:
    for key, wanted in job.header().items():
        if found.get(key) != wanted:
            raise ValueError(
                f"{root} holds a synthetic data set with {key} {found.get(key)!r}, not {wanted!r}; "
                "choose another folder or remove that one"
            )


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:  # cut off by an interruption
        return None


def _write(job: _Job, root: Path, names: list[str], workers: int | None) -> dict:
    shutil.rmtree(root / _PARTIAL, ignore_errors=True)
    (root / _PARTIAL).mkdir()
    for folder in _folders(job, names):
        (root / folder).mkdir(parents=True, exist_ok=True)

    done = _journalled(root)
    places = [(split, index) for split in splits(job.size) for index in range(count(job.size, split))]
    todo = [job.spec(*place) for place in places if place not in done]
    fresh = not done
    with open(root / _JOURNAL, "w" if fresh else "a") as journal:
        journal.write(json.dumps(job.header()) + "\n" if fresh else "\n")  # the last line may be cut off
        journal.flush()
        with _progress(f"{job.name} {job.size}", len(todo)) as advance:
            for record in _render_all(todo, root, workers):
                journal.write(json.dumps(record) + "\n")
                journal.flush()
                done[record["split"], record["index"]] = record
                advance()

    videos = [done[place] for place in places]
    _write_annotations(job, root, names)
    manifest = {**job.header(), "classes": names, "sha256": _dataset_hash(job, videos), "videos": videos}
    _replace_text(root / MANIFEST, json.dumps(manifest, indent=1))
    (root / _JOURNAL).unlink()
    shutil.rmtree(root / _PARTIAL)
    return manifest


def _folders(job: _Job, names: list[str]) -> list[Path]:
    if job.name == KINETICS:
        return [Path("annotations"), *(Path(split, name) for split in splits(job.size) for name in names)]
    return [Path("20bn-something-something-v2")]


def _video_path(spec: VideoSpec) -> Path:
    if spec.name == KINETICS:
        name = classes(spec.name, spec.size)[spec.label]
        return Path(spec.split, name, f"{spec.video_id}_{spec.start:06d}_{_stop(spec):06d}.mp4")
    return Path("20bn-something-something-v2", f"{spec.video_id}.webm")


def _stop(spec: VideoSpec) -> int:
    """The last second of the clip in its source video, rounded up."""
    return spec.start - (-spec.frames // spec.fps)


def _journalled(root: Path) -> dict[tuple[str, int], dict]:
    """Records of the videos that are finished, from the journal or from the manifest of a damaged set."""
    if (root / MANIFEST).exists():
        records = load_manifest(root)["videos"]
    elif (root / _JOURNAL).exists():
        lines = (root / _JOURNAL).read_text().splitlines()[1:]
        records = [record for record in map(_parse, lines) if record]
    else:
        records = []
    return {(r["split"], r["index"]): r for r in records if (root / r["path"]).is_file()}


def _render_all(specs: list[VideoSpec], root: Path, workers: int | None) -> Iterator[dict]:
    """Writes videos under `root` and yields their records as they are finished.

    Fresh interpreters do the work, not this one: decord loads its own libvpx for the whole process (RTLD_GLOBAL),
    and if decord was imported before PyAV, PyAV cannot encode VP9.
    """
    workers = min(workers or _cores(), len(specs))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    reading, writing = os.pipe()
    children = []
    with open(reading) as records:
        try:
            try:
                for i in range(workers):
                    command = [sys.executable, "-c", _WORKER, str(root)]
                    children.append(
                        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing, text=True, env=environment)
                    )
                    with children[-1].stdin as pipe:
                        json.dump([dataclasses.asdict(spec) for spec in specs[i::workers]], pipe)
            finally:
                os.close(writing)  # the children's copies remain; the pipe ends when the last of them does
            for record in map(json.loads, records):
                if "errno" in record:
                    raise OSError(record["errno"], record["strerror"])
                yield record
            if any(child.wait() for child in children):
                raise RuntimeError(f"a process that renders to {root} died; its message is on stderr")
        finally:
            for child in children:
                child.terminate()
                child.wait()


_WORKER = "import av; from reproduce.data.synthetic import writer; writer.work()"


def work() -> None:
    """The main function of a worker: video specs as JSON on stdin, one record a line on stdout."""
    cv2.setNumThreads(1)
    try:
        for spec in json.load(sys.stdin):
            _report(_write_video(VideoSpec(**spec), Path(sys.argv[1])))
    except OSError as error:
        _report({"errno": error.errno, "strerror": str(error)})
    except KeyboardInterrupt:  # reaches the whole group; the parent reports it
        pass


def _report(record: dict) -> None:
    """One line to the pipe, in one write: up to PIPE_BUF bytes, workers cannot cut into each other's lines."""
    os.write(sys.stdout.fileno(), (json.dumps(record) + "\n").encode())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_video(spec: VideoSpec, root: Path) -> dict:
    """Renders, encodes and moves one video into place; returns its record."""
    frames, path = render_spec(spec), _video_path(spec)
    partial = root / _PARTIAL / path.name
    encode(frames, spec.fps, partial)
    os.replace(partial, root / path)
    return {
        "id": spec.video_id,
        "path": path.as_posix(),
        "split": spec.split,
        "index": spec.index,
        "label": spec.label,
        "frames": spec.frames,
        "fps": spec.fps,
        "width": spec.width,
        "height": spec.height,
        "sha256": hashlib.sha256(frames).hexdigest(),
    }


def encode(frames: np.ndarray, fps: int, path: Path) -> None:
    """Encodes frames (T H W 3, uint8 RGB) as H.264 (.mp4) or VP9 (.webm), with one key frame, the first."""
    codec, options = _CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = len(frames)
        for frame in frames:
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))


def _dataset_hash(job: _Job, videos: list[dict]) -> str:
    """One hash over what the videos are and what they show."""
    return hashlib.sha256(json.dumps([job.header(), videos], sort_keys=True).encode()).hexdigest()


def _write_annotations(job: _Job, root: Path, names: list[str]) -> None:
    for split in splits(job.size):
        specs = [job.spec(split, index) for index in range(count(job.size, split))]
        if job.name == KINETICS:
            with open(root / "annotations" / f"{split}.csv", "w", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
                rows.writerows([names[s.label], s.video_id, s.start, _stop(s), split] for s in specs)
        else:
            part = {"val": "validation"}.get(split, split)
            text = json.dumps([annotation(spec) for spec in specs], indent=1)
            (root / f"something-something-v2-{part}.json").write_text(text)
    if job.name != KINETICS:
        labels = {name: str(index) for index, name in enumerate(names)}
        (root / "something-something-v2-labels.json").write_text(json.dumps(labels, indent=1))


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(text)
    os.replace(partial, path)


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress on stderr: a bar on a terminal, else a line with the time left every few seconds."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda: bar.advance(task)
        return

    done, started = 0, time.monotonic()
    reported = started

    def advance() -> None:
        nonlocal done, reported
        done, now = done + 1, time.monotonic()
        if now - reported >= _REPORT_SECONDS:
            reported, rate = now, done / (now - started)
            left = (total - done) / rate
            line = f"{title}: {done}/{total} videos, {rate:.0f} a second, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    yield advance
