"""Resized copies: the same videos, frames and times, in fewer pixels; what cannot be encoded stays as it is."""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from reproduce.cli import app
from reproduce.data import kinetics, resized, ssv2
from reproduce.data.decode import DecodeError, decode, straight_frames
from reproduce.data.frames import NoRoomError
from reproduce.data.manifest import DataError, Manifest, Video, read_marker
from reproduce.evidence.tables import title
from reproduce.records import RunRecord
from reproduce.suites import SUITES

ROOT = Path(__file__).resolve().parents[3]


def beside(name: str):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


clips_of, numbered = beside("make_clips"), beside("numbered")
SIDE = 128


def tagged(path: Path, frames: np.ndarray) -> None:
    """As of high definition, with the full range of values: colours come from the file's tags."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuvj420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuvj420p", dst_colorspace="ITU709", dst_color_range="JPEG")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def varying(k, packet):
    packet.pts, packet.dts = packet.pts * 3 + packet.pts % 7, packet.dts * 3


def late(k, packet):
    packet.pts, packet.dts = (t + round(1.3337 / packet.time_base) for t in (packet.pts, packet.dts))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A clip of 320 × 240 in the forms that copies have."""
    folder, frames = tmp_path_factory.mktemp("sources"), clips_of.picture(7, 16, 240, 320)
    clips_of.write(folder / "plain.mp4", "libx264", frames, 25)
    clips_of.write(folder / "vp9.webm", "libvpx-vp9", frames, 12)
    clips_of.write(folder / "odd.webm", "libvpx-vp9", frames[:, :237, :319], 12)
    clips_of.write(folder / "old.avi", "mpeg4", frames[:8], 25)
    for angle in (90, 180, 270):
        clips_of.write(folder / f"turned_{angle}.mp4", "libx264", frames, 25, rotation=angle)
    tagged(folder / "tagged.mp4", frames)
    numbered.copy(folder / "plain.mp4", folder / "varying.mkv", varying)
    numbered.copy(folder / "plain.mp4", folder / "late.mp4", late)
    numbered.cut(folder / "plain.mp4", folder / "cut.mp4", 5, 8)
    return folder


def made(source: Path, target: Path, side: int = SIDE) -> dict:
    return resized.make(resized.Job(source.name, source, target, side, [0, 0, side]))


def times(path: Path) -> list[float]:
    return [float(frame.pts * frame.time_base) for frame in straight_frames(path)]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("plain.mp4", 16),
        ("vp9.webm", 16),
        ("odd.webm", 16),
        ("old.avi", 8),
        ("turned_90.mp4", 16),
        ("turned_180.mp4", 16),
        ("turned_270.mp4", 16),
        ("tagged.mp4", 16),
        ("varying.mkv", 16),
        ("late.mp4", 16),
        ("cut.mp4", 10),
    ],
)
def test_the_same_frames_at_the_same_times(sources, tmp_path, name, frames):
    source, target = sources / name, tmp_path / name
    assert made(source, target)["kept"] == ""
    before, total = decode(source, np.arange)
    after, count = decode(target, np.arange)
    assert count == total == frames
    assert times(target) == times(source)
    height, width = after.shape[1:3]
    assert min(height, width) == SIDE
    assert (height > width) == name.startswith(("turned_90", "turned_270"))
    wanted = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in before])
    errors = np.square(wanted.astype(float) - after).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / errors.max()) > 35
    with av.open(str(target)) as file:
        keys = [packet.is_keyframe for packet in file.demux(video=0) if packet.size]
        assert file.format.name.startswith("mov")
        assert len(file.streams) == 1
    assert keys == [i % 12 == 0 for i in range(count)]


def test_what_is_small_or_cannot_be_encoded_is_copied(sources, clips, tmp_path):
    whole = (sources / "plain.mp4").read_bytes()
    (tmp_path / "cut_off.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    numbered.copy(sources / "plain.mp4", tmp_path / "back.mkv", lambda k, p: setattr(p, "pts", p.dts))
    for source, why in (
        (sources / "plain.mp4", resized.SMALL),
        (tmp_path / "cut_off.mp4", "pyav cannot decode it"),
        (tmp_path / "empty.mp4", "the file is empty"),
        (tmp_path / "back.mkv", "times that do not ascend"),
    ):
        target = tmp_path / "new" / source.name
        row = made(source, target, 240 if why == resized.SMALL else SIDE)
        assert why in row["kept"]
        assert str(tmp_path) not in row["kept"]
        assert target.read_bytes() == source.read_bytes()
        assert row["bytes"] == source.stat().st_size
    assert len(list((tmp_path / "new").iterdir())) == 4, "no half-written file stays"


def test_a_file_that_shows_anything_else_is_not_kept(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(resized, "_upright_planes", lambda planes, frame: np.roll(planes, 20, axis=1))
    assert "the first frame is another one" in made(sources / "plain.mp4", tmp_path / "a.mp4")["kept"]
    monkeypatch.undo()
    monkeypatch.setattr(resized, "straight_frames", lambda path: itertools.islice(straight_frames(path), 9))
    assert "9 frames for 16" in made(sources / "plain.mp4", tmp_path / "b.mp4")["kept"]


def command(*arguments) -> str:
    done = CliRunner().invoke(app, ["data", "cache", *map(str, arguments), "--workers", "1"])
    if done.exception:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize("layout", ["cvdf", "mmaction2", "absolute", "webm"])
def test_a_copy_is_found_as_its_source_is(kinetics_copy, ssv2_copy, tmp_path, monkeypatch, layout):
    root, out, name = tmp_path / "copy", tmp_path / "small", "ssv2" if layout == "webm" else "kinetics"
    if name == "ssv2":
        load = ssv2.load
        ssv2_copy(root, layout)
    else:
        load = kinetics.load
        kinetics_copy(root, "pyslowfast" if layout == "absolute" else layout)
    if layout == "absolute":
        for file in root.glob("*.csv"):
            file.write_text("".join(f"{root}/{line}\n" for line in file.read_text().splitlines()))
    videos = load(root, "train").videos
    (root / videos[9].path).write_bytes(b"no video" * 100)
    (root / videos[11].path).unlink()
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    text = command(name, "--root", root, "--out", out, "--short-side", 32)
    assert "for 59 videos; free: " in text
    assert "58 videos encoded anew, 0 copied, of a short side of 32 or less" in text
    assert f"1 copied that cannot be encoded: {videos[9].path} (pyav cannot decode it: " in text
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before, "nothing is written to the source"
    for split in ("train", "val"):
        old, new = load(root, split), load(out, split)
        assert new.videos == old.videos
        assert new.classes == old.classes
        for video in old.videos:
            if video.id == videos[11].id:
                assert not new.path(video).exists()
            elif video.id == videos[9].id:
                with pytest.raises(DecodeError):
                    decode(new.path(video), np.arange)
            else:
                frames, total = decode(new.path(video), np.arange)
                assert min(frames.shape[1:3]) == 32
                assert total == decode(old.path(video), np.arange)[1]
    marker = read_marker(out)
    assert (marker["source"], marker["short_side"], marker["complete"]) == (str(root), 32, True)
    assert marker["encoder"]["crf"] == "18"
    assert list(marker["failed"]) == [videos[9].path]
    assert f"PyAV {av.__version__}" in marker["versions"][0]

    monkeypatch.setenv("ALLOW_PARTIAL", "1")
    monkeypatch.setenv(SUITES[name].root, str(out))
    manifest = SUITES[name].manifest("val", out)
    assert manifest.resized == "short side 32, H.264, crf 18"
    assert manifest.hash != replace(manifest, resized="").hash == load(out, "val").hash


def test_a_second_time_does_nothing_and_a_changed_source_is_made_anew(kinetics_copy, clips, tmp_path, monkeypatch):
    root, out = kinetics_copy(tmp_path / "copy", "flat"), tmp_path / "small"
    arguments = ("kinetics", "--root", root, "--out", out, "--short-side", 32)
    assert "all 60" not in command(*arguments, "--plan")
    assert not out.exists()
    command(*arguments)
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")}
    assert len(files) == 60
    jobs = []
    monkeypatch.setattr(resized, "make", lambda job, make=resized.make: jobs.append(job) or make(job))
    assert "all 60 videos are there" in command(*arguments)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.mp4")} == files
    assert not jobs

    first, second = kinetics.load(root, "train").videos[:2]
    (root / first.path).write_bytes((clips / "one.mp4").read_bytes())
    (out / second.path).write_bytes(b"")
    (out / "train" / f".{Path(first.path).name}.1.part").write_bytes(b"of a process that was killed")
    with open(out / resized.WORK / "journal.jsonl", "a") as journal:
        journal.write('{"file": ')
    command(*arguments)
    assert {job.file for job in jobs} == {first.path, second.path}
    assert decode(out / first.path, np.arange)[1] == 1
    assert not list(out.rglob("*.part"))

    write = read_marker(out) | dict(complete=False)
    (out / "resized.json").write_text(json.dumps(write))
    with pytest.raises(DataError, match=r"small is a resized copy that is not complete; issue its `data cache` again"):
        SUITES["kinetics"].manifest("val", out)


def test_a_disk_without_room_is_refused_before_any_work(kinetics_copy, tmp_path, monkeypatch):
    root, out = kinetics_copy(tmp_path / "copy", "flat"), tmp_path / "small"
    monkeypatch.setattr(resized.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(NoRoomError, match=r"about \S+ GB \(±\d+ %\) for 60 videos; free: 1e-06 GB; about 1 minute"):
        command("kinetics", "--root", root, "--out", out, "--short-side", 32)
    assert not out.exists()


def test_what_cannot_be_done_is_one_line_before_any_work(kinetics_copy, tmp_path):
    root, out = kinetics_copy(tmp_path / "copy", "flat"), tmp_path / "small"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    for arguments, message in (
        (("kinetics", "--root", root, "--out", out, "--short-side", 30), "--short-side=30: it is an even number"),
        (("kinetics", "--root", root, "--out", out, "--short-side", 257), "--short-side=257: it is an even number"),
        (("kinetics", "--root", root, "--out", root), "lies in the copy"),
        (("kinetics", "--root", root, "--out", root / "small"), "lies in the copy"),
        (("kinetics", "--root", root, "--out", tmp_path / "other"), "other holds something else"),
        (("kinetics", "--root", root, "--out", tmp_path), "holds something else"),
        (("kinetics", "--root", tmp_path / "synthetic-kinetics-tiny", "--out", out), "embedded videos are small"),
        (("kinetics-quick", "--out", out), "embedded videos are small"),
    ):
        with pytest.raises(DataError, match=message):
            command(*arguments)
        assert not out.exists()
    for split in ("train", "val"):
        for video in kinetics.load(root, split).videos[1:]:
            (root / video.path).unlink()
    command("kinetics", "--root", root, "--out", out, "--short-side", 32)
    for arguments, message in (
        (("--root", root, "--out", out, "--short-side", 48), r"was begun with \{'short_side': 32\}"),
        (("--root", out, "--out", tmp_path / "smaller"), "small is a resized copy itself"),
    ):
        with pytest.raises(DataError, match=message):
            command("kinetics", *arguments)


def test_only_files_of_the_copy_are_made(clips, tmp_path):
    (tmp_path / "clips").symlink_to(clips)
    (tmp_path / "copy" / "frames").mkdir(parents=True)
    for path, message in (
        (str(clips / "0.mp4"), "lies outside of"),
        ("../clips/0.mp4", "lies outside of"),
        ("frames", "is a folder of frames"),
    ):
        manifest = Manifest("data", "train", tmp_path / "copy", ("a",), (Video("0", path, 0),))
        with pytest.raises(DataError, match=message):
            resized.Resizing("kinetics", (manifest,), tmp_path / "small", 32).plan()


def test_a_table_says_that_videos_were_encoded_anew():
    suite = SUITES["kinetics-quick"]
    record = RunRecord.load(ROOT / "results" / "records" / suite.name / "x3d-s0.json")
    assert "encoded anew" not in title(suite, [record])
    data = record.data.model_copy(update=dict(resized="short side 256, H.264, crf 18"))
    text = title(suite, [record, record.model_copy(update=dict(data=data))])
    assert "; videos **encoded anew** (short side 256, H.264, crf 18)" in text


def test_sigterm_leaves_whole_files_and_the_command_goes_on(kinetics_copy, sources, tmp_path):
    root, out = kinetics_copy(tmp_path / "copy", "flat"), tmp_path / "small"
    for video in kinetics.load(root, "train").videos:
        (root / video.path).write_bytes((sources / "plain.mp4").read_bytes())
    call = [sys.executable, "-m", "reproduce", "data", "cache", "kinetics", "--root", root, "--out", out]
    call = [*map(str, call), "--short-side", "32", "--workers", "2"]
    job = subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = out / resized.WORK / "journal.jsonl"
    try:
        while job.poll() is None and not (journal.exists() and journal.read_text().strip()):
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        _, error = job.communicate(timeout=300)
    finally:
        job.kill()
    assert job.returncode == os.EX_TEMPFAIL, error
    assert "stopped by SIGTERM; issue the command again to go on" in error
    assert "Traceback" not in error
    assert not list(out.rglob("*.part"))
    there = len(list(out.rglob("*.mp4")))
    assert 0 < there < 60
    done = command("kinetics", "--root", root, "--out", out, "--short-side", 32)
    assert "60 videos encoded anew" in done
