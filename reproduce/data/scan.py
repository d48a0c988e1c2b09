"""One pass over a copy of a data set: which videos are there, which are whole, and which are unusual.

Written to the folder of the scan, never to the copy:
    journal.jsonl     one line per file examined; a repeated scan continues from it
    manifest.parquet  one row per annotated video
    summary.json      counts, per split and per class
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import pandas as pd

from reproduce.data import kinetics, ssv2
from reproduce.data.decode import DecodeError, Truncated, check_whole, frame_files, opened, reason
from reproduce.data.manifest import DataError, Manifest
from reproduce.lease import held
from reproduce.progress import Progress
from reproduce.whole_files import write_atomic, write_json

EDGE = 1 << 16  # bytes at each end of a file that a quick scan hashes
SLACK = 0.05  # share of the announced length that may be missing: headers of real files round
LOW_FPS = 10  # below Something-Something's 12
FAMILIES = {  # suffix -> start of the demuxer's name
    ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".3gp": "mov",
    ".webm": "matroska", ".mkv": "matroska", ".avi": "avi", ".flv": "flv", ".ts": "mpegts", ".mts": "mpegts",
    ".mpg": "mpeg",
}  # fmt: skip
TIMED = ("flv", "asf", "ogg")  # demuxers whose files state their duration, but nothing else about their end
SHORT = 0.2  # of a class's videos that may be missing before the summary names it
FEW = 20  # names per line of the summary
PUBLISHED = {kinetics.NAME: kinetics.PUBLISHED, ssv2.NAME: ssv2.PUBLISHED}
FAULTS = ("missing", "empty", "undecodable", "truncated", "duplicate")
"""What makes a video unusable, worst first. Other remarks are in the column ``notes``."""


def scan(manifests: Iterable[Manifest], out: Path, full: bool, workers: int | None = None) -> pd.DataFrame:
    """Look at every video of some splits.

    Args:
        manifests: the splits of one copy.
        out: folder of the scan.
        full: decode every frame and hash every byte; else the header, the first and the last frame, and both ends of
            the file. A full scan does not go on from a quick one, nor a quick one from a full one.
        workers: processes; all cores that this process may use when None.

    Returns:
        One row per annotated video: id, split, label, class, path, bytes, content (hash), frames by the header, frames
        by decoding (full only), fps, width, height, codec, fault (one of ``FAULTS`` or ''), detail of the fault, notes.

    Raises:
        OutputError: the folder cannot be written, or another scan is at work on it.
        DataError: the folder is inside the copy.
    """
    manifests = list(manifests)
    for m in manifests:
        if out.resolve().is_relative_to(Path(m.root).resolve()):
            raise DataError(f"--out={out} lies in the copy {m.root}, where nothing is written; choose another folder")
    with held(out):
        found = _look(manifests, out / "journal.jsonl", full, workers)
        rows = []
        for m in manifests:
            for v in m.videos:
                row = found.get(str(m.path(v)), dict(fault="missing", detail="no such file", notes=""))
                rows.append(
                    dict(id=v.id, split=m.split, label=v.label, classname=m.classes[v.label], path=v.path) | row
                )
        table = _with_duplicates(pd.DataFrame(rows).drop(columns=["key"], errors="ignore"))
        table = table.convert_dtypes()
        write_atomic(out / "manifest.parquet", lambda path: table.to_parquet(path, index=False))
        return table


def _look(manifests: list[Manifest], journal: Path, full: bool, workers: int | None) -> dict[str, dict]:
    """Absolute path -> what was found, for all files that are there; from the journal where they have not changed."""
    done, found, todo = read_journal(journal), {}, []
    for m in manifests:
        for v in m.videos:
            file = str(m.path(v))
            key = key_of(file, full)
            if key is None:
                continue
            if file in done and done[file]["key"] == key:
                found[file] = done[file]
            else:
                todo.append((file, key, full))
    workers = workers or len(os.sched_getaffinity(0))
    total = len(found) + len(todo)
    label = "full scan" if full else "quick scan"
    with open(journal, "a") as log, Progress(label, total, len(found)) as progress:
        log.write("\n")  # the last line may be cut off
        with contextlib.ExitStack() as stack:
            rows = map(_examine, todo)
            if min(workers, len(todo)) > 1:
                pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(min(workers, len(todo))))
                rows = pool.imap_unordered(_examine, todo, chunksize=max(1, min(8, len(todo) // (4 * workers))))
            for row in rows:
                found[row["file"]] = row
                log.write(json.dumps(row) + "\n")
                log.flush()
                progress.step(note=Path(row["file"]).name)
    return {file: {k: v for k, v in row.items() if k != "file"} for file, row in found.items()}


def read_journal(path: Path) -> dict[str, dict]:
    """File -> the last row about it, of a journal of one JSON object a line."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # cut off by an interruption
            row = json.loads(line)
            done[row["file"]] = row
    return done


def key_of(file: str | Path, kind: int) -> list | None:
    """A key that changes with the file and with what is done to it; None: the file is missing."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, kind]


def _examine(job: tuple[str, list, bool]) -> dict:
    """Examine one file, in a worker."""
    file, key, full = job
    path = Path(file)
    row = dict(file=file, key=key, fault="", detail="", notes="")
    try:
        if path.is_dir():
            row |= _frames_folder(path, full)
        else:
            row |= dict(bytes=key[0], content=_content(path, full))
            row |= dict(fault="empty", detail="no bytes") if key[0] == 0 else _video(path, full)
    except OSError as error:
        row |= dict(fault="undecodable", detail=error.strerror or str(error))
    if not path.name.isascii():
        row["notes"] = ", ".join(filter(None, [row["notes"], "name not ASCII"]))
    return row


def _content(path: Path, full: bool) -> str:
    """Hash of all bytes, or of the size and both ends."""
    with open(path, "rb") as file:
        if full:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
        size = os.fstat(file.fileno()).st_size
        ends = file.read(EDGE)
        file.seek(max(0, size - EDGE))
        return "ends:" + hashlib.sha256(f"{size}\n".encode() + ends + file.read(EDGE)).hexdigest()


def _video(path: Path, full: bool) -> dict:
    import av

    av.logging.set_level(av.logging.PANIC)  # the scan itself reports faults, by file
    try:
        seen = _every_frame(path) if full else _both_ends(path)
        with opened(path) as (container, stream):
            return _verdict(path, container, stream, seen, full)
    except (av.error.FFmpegError, DecodeError) as error:
        return dict(fault="undecodable", detail=reason(error))


def _every_frame(path: Path, end: bool = False) -> dict:
    """What is decoded: frames, the end of the last one in seconds, rotation, and the error that ended it.

    Args:
        path: of the video.
        end: only the frames after the last key frame.
    """
    import av

    frames, last, rotation, error = 0, None, 0, ""
    with opened(path) as (container, stream):
        if container.format.name == "mpegts":  # states no length; an incomplete frame shows a cut
            stream.codec_context.options = {"err_detect": "explode"}
        try:
            if end:
                start = (stream.start_time or 0) * stream.time_base
                length = stream.duration * stream.time_base if stream.duration else _length(container)
                container.seek(int((start + length) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                frames += 1
                rotation = rotation or frame.rotation
                last = frame.time if last is None else max(last, frame.time or 0.0)
            check_whole(path, container, stream, stream.frames if end else frames)
        except (av.error.FFmpegError, Truncated) as failure:
            error = reason(failure)
    return dict(frames=frames, end=last, rotation=rotation, error=error)


def _both_ends(path: Path) -> dict:
    """As ``_every_frame``, but of the first frame and of those after the last key frame only."""
    with opened(path) as (container, stream):
        first = next(iter(container.decode(stream)), None)
        rotation = first.rotation if first else 0
        # Other containers cannot be read from near their end, or do not state where it is.
        indexed = container.format.name.startswith("matroska") or (
            container.format.name.startswith("mov") and stream.frames > 0
        )
    if first is None:
        return dict(frames=0, end=None, rotation=0, error="")
    tail = _every_frame(path, end=True) if indexed else _every_frame(path)
    if indexed and (tail["error"] or not tail["frames"]):  # the index points to no key frame: read from the start
        tail = _every_frame(path)
    return tail | dict(rotation=rotation)


def _length(container) -> Fraction:
    import av

    return Fraction(container.duration or 0, av.time_base)


def _cut_off(path: Path, name: str) -> str:
    """What shows that the file was longer, in containers that state a length: Matroska, RIFF, transport streams."""
    size = path.stat().st_size
    if name.startswith("matroska"):
        announced = _segment_end(path) or 0
        return f"{size} of {announced} bytes are there" if size < announced else ""
    if name == "mpegts" and all(size % packet for packet in (188, 192, 204)):
        return "ends within a packet"
    return ""


def _segment_end(path: Path) -> int | None:
    """Where a Matroska file ends, as its header states; None if the header states no length."""
    with open(path, "rb") as file:
        head = file.read(1 << 12)

    def number(at: int) -> tuple[int, int, bool]:
        width = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + width], "big") & (1 << 7 * width) - 1
        return value, at + width, value == (1 << 7 * width) - 1

    length, at, _ = number(4)  # behind the magic number
    at += length
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    length, at, unknown = number(at + 4)
    return None if unknown else at + length


def _verdict(path: Path, container, stream, seen: dict, full: bool) -> dict:
    name = container.format.name
    fps = stream.average_rate or stream.guessed_rate or Fraction(0)
    start = float((stream.start_time or 0) * stream.time_base)
    length = float(stream.duration * stream.time_base if stream.duration else _length(container))
    if name.startswith("matroska"):  # its length counts from 0, not from its first frame
        length -= start
    expected = stream.frames or round(length * fps)  # the container may not state it, as webm
    row = dict(
        frames_header=expected,
        frames_decoded=seen["frames"] if full else None,
        fps=round(float(fps), 3),
        width=stream.width,
        height=stream.height,
        codec=stream.codec_context.name,
    )
    if seen["frames"] == 0:
        return row | dict(fault="undecodable", detail=seen["error"] or "no frame can be decoded")
    cut = _cut_off(path, name)
    if not cut and name in TIMED and seen["end"] is not None and fps:
        # Frames up to the last one, by its time; a short count alone may be a variable frame rate.
        last = max(round(seen["end"] * fps) + 1, seen["frames"])
        cut = f"ends after {last} of {expected} frames" if last < expected * (1 - SLACK) - 1 else ""
    if cut or seen["error"]:
        row |= dict(fault="truncated", detail=f"{cut or 'decoding stops before its end'} {seen['error']}".strip())
    notes = []
    family = FAMILIES.get(path.suffix.lower())
    if family and not container.format.name.startswith(family):
        notes.append(f"{container.format.name.split(',')[0]} inside {path.suffix}")
    if expected == 1:
        notes.append("one frame")
    if fps < LOW_FPS:
        notes.append(f"{float(fps):g} fps")
    if stream.width % 2 or stream.height % 2:
        notes.append(f"odd size {stream.width}x{stream.height}")
    if seen["rotation"] % 360:
        notes.append(f"rotated by {seen['rotation'] % 360}")
    return row | dict(notes=", ".join(notes))


def _frames_folder(path: Path, full: bool) -> dict:
    """Examine extracted frames: whether they are images, and whether a number is missing."""
    import cv2

    try:
        names = frame_files(path)
    except Truncated as error:
        return dict(bytes=0, fault="truncated", detail=str(error))
    except DecodeError as error:
        fault = "undecodable" if any(path.iterdir()) else "empty"
        return dict(bytes=0, fault=fault, detail=str(error))
    digest, size = hashlib.sha256(), 0
    for name in names:
        content = (path / name).read_bytes() if full else b""
        length = (path / name).stat().st_size
        digest.update(f"{name}\n{length}\n".encode() + content)
        size += length
    row = dict(
        bytes=size, content=("" if full else "ends:") + digest.hexdigest(), frames_header=len(names), codec="images"
    )
    read = names if full else [names[0], names[-1]]
    pictures = [cv2.imread(str(path / n)) for n in read]
    bad = next((n for n, picture in zip(read, pictures, strict=True) if picture is None), None)
    if bad:
        return row | dict(fault="undecodable", detail=f"{bad} is no image")
    height, width = pictures[0].shape[:2]
    row |= dict(frames_decoded=len(names) if full else None, width=width, height=height)
    return row


def _with_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Mark a video with the same bytes as an earlier one as a fault: in train twice, or in train and val."""
    if "content" not in table:
        return table
    whole = table[(table.fault == "") & table.content.notna()]
    first = whole.groupby("content").head(1).set_index("content")
    for i, row in whole[whole.duplicated("content")].iterrows():
        original = first.loc[row.content]
        table.loc[i, ["fault", "detail"]] = "duplicate", f"the same bytes as {original.split} {original.id}"
    return table


def summary(manifests: Iterable[Manifest], table: pd.DataFrame, out: Path) -> str:
    """Counts per split and class beside those of the annotation and the published ones; also as ``summary.json``."""
    lines, data = [], {}
    for i, m in enumerate(manifests):
        rows = table[table.split == m.split]
        faults = {f: int((rows.fault == f).sum()) for f in FAULTS if (rows.fault == f).any()}
        notes = Counter(note.split(" ")[0] for text in rows.notes.dropna() for note in text.split(", ") if note)
        usable = rows[rows.fault.isin(("", "duplicate"))]
        per_class = {c: [0, 0] for c in m.classes}
        for name, n in rows.classname.value_counts().items():
            per_class[name] = [int(n), int((usable.classname == name).sum())]
        published = {source: counts[i] for source, counts in PUBLISHED.get(m.dataset, {}).items()}
        data[m.split] = dict(
            dataset=m.dataset, root=str(m.root), annotated=len(rows), usable=len(usable), faults=faults,
            notes=dict(notes), published=published, classes=per_class,
        )  # fmt: skip
        lines.append(f"{m.dataset} {m.split}: {len(usable)} of {len(rows)} annotated videos are usable")
        lines += [f"  {source}: {n} videos; here {100 * len(usable) / n:.1f} %" for source, n in published.items()]
        empty = [c for c, (_, n) in per_class.items() if n == 0]
        if empty:
            lines.append(f"  {len(empty)} of {len(m.classes)} classes have no usable video: {few(empty)}")
        short = [f"{c} ({n} of {of})" for c, (of, n) in per_class.items() if 0 < n < (1 - SHORT) * of]
        if short:
            lines.append(f"  {len(short)} classes lack over {SHORT:.0%} of their videos: {few(short)}")
        for fault in faults:
            named = [f"{r.path} ({r.detail})" for r in rows[rows.fault == fault].itertuples()]
            lines.append(f"  {fault}: {len(named)}: {few(named)}")
        odd = [f"{r.path} ({r.notes})" for r in rows[rows.notes.fillna("") != ""].itertuples()]
        if odd:
            lines.append(f"  odd, but usable unless named above: {len(odd)}: {few(odd)}")
    write_json(out / "summary.json", data)
    return "\n".join(lines)


def few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return "; ".join(names[:FEW]) + (f"; and {len(names) - FEW} more, see the manifest" if len(names) > FEW else "")
