"""Scans of copies with planted rot: every fault found and named, nothing else accused. Copies compared."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from reproduce.cli import app
from reproduce.data import kinetics, ssv2
from reproduce.data.manifest import DataError
from reproduce.data.scan import scan, summary
from reproduce.evidence.copies import diff, score
from reproduce.evidence.tables import table
from reproduce.records import RunRecord
from reproduce.suites import SUITES
from reproduce.whole_files import OutputError

ROOT = Path(__file__).resolve().parents[3]


def rot(root: Path, load, clips: Path) -> dict[str, tuple[str, str]]:
    """Spoil sixteen videos of a copy; id -> (fault, note) that a scan must find."""
    train = {v.id[:3].strip("-"): v for v in load(root, "train").videos}
    train = dict(zip(sorted(train), (train[k] for k in sorted(train)), strict=True))
    videos = list(train.values())
    paths = [load(root, "train").path(v) for v in videos]
    suffix = paths[0].suffix
    other = {".mp4": "webm", ".webm": "mp4"}[suffix]
    webm = (clips / "long.webm").read_bytes()
    contents = {
        1: ("empty", "", b""),
        2: ("truncated", "" if suffix == ".webm" else "matroska inside .mp4", webm[: len(webm) // 2]),
        3: ("", f"{'matroska' if other == 'webm' else 'mov'} inside {suffix}", clips / f"3.{other}"),
        4: ("", f"avi inside {suffix}", clips / "old.avi"),
        5: ("", "one frame", clips / "one.mp4"),
        6: ("", "4 fps", clips / "slow.mp4"),
        7: ("", "odd size 81x63", clips / "odd.webm"),
        8: ("", "rotated by 90", clips / "rotated.mp4"),
        10: ("undecodable", "", b"<html>429 Too Many Requests</html>" * 20),
        11: ("undecodable", "", (clips / "11.mp4").read_bytes()[:400]),
        12: ("undecodable", "", webm[:80]),
        14: ("duplicate", "", paths[13]),
    }
    found = {}
    for i, (fault, note, content) in contents.items():
        paths[i].write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        found[videos[i].id] = fault, note
    paths[0].unlink()
    found[videos[0].id] = "missing", ""
    leaked = load(root, "val").videos[5]
    shutil.copy(paths[15], load(root, "val").path(leaked))
    found[leaked.id] = "duplicate", ""
    rename(root, videos[9].id, paths[9])
    found[unusual(videos[9].id)] = "", "name not ASCII"
    return found


def unusual(identity: str) -> str:
    """An id with an accent in it."""
    return identity.replace("kinetic", "kinétic") if "kinetic" in identity else identity + "é"


def rename(root: Path, identity: str, path: Path) -> None:
    """Give a video a name that is not ASCII, in its annotation too."""
    name = path.stem.replace("kinetic", "kinétic") if "kinetic" in path.stem else path.stem + "é"
    path.rename(path.with_name(name + path.suffix))
    old, new = (
        (identity[:11], unusual(identity)[:11])
        if "kinetic" in identity
        else (f'"id": "{identity}"', f'"id": "{identity}é"')
    )
    for file in (*root.glob("*.*"), *root.glob("annotations/*.*"), *root.glob("labels/*.*")):
        file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("layout", ["official", "flat", "cvdf", "mmaction2", "pyslowfast", "webm", "mp4"])
def test_every_planted_fault_is_found_and_no_other(kinetics_copy, ssv2_copy, clips, tmp_path, layout):
    copy, load = (ssv2_copy, ssv2.load) if layout in ("webm", "mp4") else (kinetics_copy, kinetics.load)
    root = copy(tmp_path / "copy", layout)
    planted = rot(root, load, clips)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    for folder in (root, *(p for p in before if p.is_dir())):
        os.chmod(folder, 0o555)
    manifests = [load(root, "train"), load(root, "val")]
    for full in (False, True):
        rows = scan(manifests, tmp_path / f"scan-{full}", full, workers=1).set_index("id")
        assert len(rows) == 60
        for identity, (fault, note) in planted.items():
            assert rows.fault[identity] == fault, (identity, rows.detail[identity])
            if note:
                assert note in rows.notes[identity]
        sound = rows.drop(index=list(planted))
        assert (sound.fault == "").all(), "no false alarm"
        extension = "mov inside .webm" if layout == "webm" else ""
        assert set(sound.notes) == {""}
        assert not extension or any(extension in n for n in rows.notes)
        whole = rows[rows.fault == ""]
        if full:
            assert (whole.frames_decoded == whole.frames_header).all()
        else:
            assert "frames_decoded" not in whole or whole.frames_decoded.isna().all()
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before, "nothing is written to a copy"
    text = summary(manifests, scan(manifests, tmp_path / "scan-True", True), tmp_path / "scan-True")
    assert "train: 34 of 40 annotated videos are usable" in text
    assert "classes have no usable video: " in text
    assert "truncated: 1: " in text
    data = json.loads((tmp_path / "scan-True" / "summary.json").read_text())
    assert data["train"]["faults"] == dict(missing=1, empty=1, undecodable=3, truncated=1, duplicate=1)
    assert sum(n for _, n in data["train"]["classes"].values()) == 34


def test_faults_of_extracted_frames(ssv2_copy, tmp_path):
    root = ssv2_copy(tmp_path / "copy", "frames")
    frames = root / "rawframes"
    (frames / "100" / "img_00001.jpg").write_bytes(b"no image")
    (frames / "101" / "img_00004.jpg").unlink()
    shutil.rmtree(frames / "102")
    shutil.rmtree(frames / "103")
    (frames / "103").mkdir()
    shutil.rmtree(frames / "104")
    shutil.copytree(frames / "105", frames / "104")
    for full in (False, True):
        rows = scan([ssv2.load(root, "train")], tmp_path / f"{full}", full, workers=1).set_index("id")
        expected = {"100": "undecodable", "101": "truncated", "102": "missing", "103": "empty", "105": "duplicate"}
        assert {i: f for i, f in rows.fault.items() if f} == expected
        assert rows.detail["101"] == "12 of the frames 1 to 13"


def test_a_scan_goes_on_where_it_was_stopped(kinetics_copy, tmp_path, monkeypatch):
    root, out = kinetics_copy(tmp_path / "copy", "official"), tmp_path / "scan"
    manifests = [kinetics.load(root, "train"), kinetics.load(root, "val")]
    expected = scan(manifests, out, True, workers=1)
    journal = (out / "journal.jsonl").read_text().splitlines()
    assert len([line for line in journal if line]) == 60
    (out / "journal.jsonl").write_text("\n".join(journal[:31]) + journal[31][:40])  # killed while writing
    (out / "manifest.parquet").unlink()
    changed = manifests[0].path(manifests[0].videos[0])
    changed.write_bytes(b"")
    again = scan(manifests, out, True, workers=1)
    looked = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()[32:] if line]
    assert 30 <= len(looked) <= 32, "those that the journal lacks, and the one that has changed"
    assert again.fault[0] == "empty"
    pd.testing.assert_frame_equal(again.drop(index=0), expected.drop(index=0))
    with pytest.raises(DataError, match=r"--out=.* lies in the copy"):
        scan(manifests, root / "scan", True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        scan(manifests, tmp_path / "file" / "scan", True)


def test_two_copies_are_compared(kinetics_copy, clips, tmp_path):
    for name, layout in (("a", "official"), ("b", "mmaction2")):
        root = kinetics_copy(tmp_path / name, layout)
        videos = kinetics.load(root, "val").videos
        if name == "a":
            (root / videos[0].path).unlink()
        else:
            shutil.copy(clips / "slow.mp4", root / videos[1].path)  # as if encoded anew
            lines = (root / "kinetics400_val_list_videos.txt").read_text().splitlines()
            (root / "kinetics400_val_list_videos.txt").write_text("\n".join(lines[:-2]))
        scan([kinetics.load(root, "val")], tmp_path / f"scan-{name}", False, workers=1)
    text = diff(tmp_path / "scan-a", tmp_path / "scan-b", "val", tmp_path / "common.txt")
    assert "20 videos in" in text
    assert "usable in both, with the same label: 17" in text
    assert "of the same bytes: 16" in text
    assert "only in the first: 2" in text
    assert "not usable in the first: 1" in text
    ids = (tmp_path / "common.txt").read_text().split()
    assert len(ids) == 17
    assert ids == sorted(ids)
    with pytest.raises(DataError, match="holds no finished scan"):
        diff(tmp_path / "scan-a", tmp_path, "val")


def test_results_are_scored_on_a_list_of_videos(tmp_path):
    suite, results = SUITES["ssv2-quick"], tmp_path / "results"
    suite = replace(suite, entries=(suite.entry("x3d"),))
    folder = results / "records" / "ssv2-quick"
    folder.mkdir(parents=True)
    for name in ("x3d-s0.json", "x3d-s0.parquet"):
        shutil.copy(ROOT / "results" / "records" / "ssv2-quick" / name, folder)
    record = RunRecord.load(folder / "x3d-s0.json")
    predictions = pd.read_parquet(folder / "x3d-s0.parquet")
    right = [s.argmax() == label for s, label in zip(predictions.scores, predictions.label, strict=True)]
    (tmp_path / "all.txt").write_text("\n".join(predictions.id))
    (tmp_path / "right.txt").write_text("\n".join(predictions.id[right]))
    (tmp_path / "none.txt").write_text("nothing")
    (whole,) = table(suite, [record], folder)["top-1 % [95 %]"]
    # the interval is another one: how runs spread is known of the whole split alone
    assert f"| {whole.split()[0]} [" in next(
        line for line in score(suite, results, tmp_path / "all.txt").splitlines() if "x3d" in line
    )
    best = next(line for line in score(suite, results, tmp_path / "right.txt").splitlines() if line.startswith("| x3d"))
    assert "| 100.0 [" in best
    assert f"| {sum(right)} " in best
    with pytest.raises(DataError, match="has none of the 1 videos of the list"):
        score(suite, results, tmp_path / "none.txt")
    with pytest.raises(DataError, match="holds no records"):
        score(suite, tmp_path, tmp_path / "all.txt")


def test_the_commands(kinetics_copy, clips, tmp_path, monkeypatch):
    """README, "Is the copy whole?"."""
    monkeypatch.setenv("KINETICS_ROOT", str(kinetics_copy(tmp_path / "k400", "official")))
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSV2_ROOT", raising=False)
    done = CliRunner().invoke(app, ["data", "scan", "kinetics", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "Kinetics-400 val: 20 of 20 annotated videos are usable" in done.output
    assert "mmaction2's copy: 19796 videos; here 0.1 %" in done.output
    scanned = str(tmp_path / "cache" / "scan-kinetics")
    done = CliRunner().invoke(app, ["data", "scan", "kinetics", "--full", "--workers", "2"])
    assert "Kinetics-400 train: 40 of 40 annotated videos are usable" in done.output
    ids = str(tmp_path / "common.txt")
    done = CliRunner().invoke(app, ["data", "diff", scanned, scanned, "--out", ids])
    assert "usable in both, with the same label: 20" in done.output
    done = CliRunner().invoke(app, ["data", "score", "kinetics", "--ids", ids, "--results", str(tmp_path)])
    assert isinstance(done.exception, DataError)
    done = CliRunner().invoke(app, ["data", "scan", "ssv2"])
    assert "SSV2_ROOT is not set and no --root is given" in str(done.exception)
    done = CliRunner().invoke(app, ["data", "scan", "imagenet"])
    assert "unknown data layout 'imagenet'; known: kinetics, ssv2" in str(done.exception)


def test_a_wrong_root_is_one_line(tmp_path):
    command = [sys.executable, "-m", "reproduce", "data", "scan", "kinetics", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: KINETICS_ROOT={tmp_path} has no annotation of its train split")
    assert len(done.stderr.splitlines()) == 1
