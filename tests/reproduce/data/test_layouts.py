"""Kinetics' and Something-Something's layouts, and what is wrong with copies of them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reproduce.data import kinetics, ssv2
from reproduce.data.manifest import DataError, Manifest, Video
from reproduce.suites import SUITES

# not imported: conftest's names are not importable by tests in pytest's importlib mode
KINETICS = ("official", "flat", "cvdf", "mmaction2", "pyslowfast")


@pytest.mark.parametrize(("layout", "load"), [("kinetics", kinetics.load), ("ssv2", ssv2.load)])
def test_embedded_copies_are_whole(cache, layout, load):
    root = cache / f"synthetic-{layout}-tiny"
    train, val = load(root, "train", "embedded"), load(root, "val", "embedded")
    assert (len(train.videos), len(val.videos)) == (24, 8)
    assert train.classes == val.classes
    assert len(train.classes) == 4
    assert not train.empty_classes
    assert all(m.path(v).is_file() for m in (train, val) for v in m.videos)
    assert not {v.id for v in train.videos} & {v.id for v in val.videos}


def test_the_official_lists():
    assert len(kinetics.CLASSES) == len({kinetics._plain(c) for c in kinetics.CLASSES}) == 400
    assert list(kinetics.CLASSES) == sorted(kinetics.CLASSES)
    underscored = [c.replace(" ", "_") for c in kinetics.CLASSES]
    assert underscored == sorted(underscored), "mmaction2 sorts names with underscores: the same order"
    from torchvision.models._meta import _KINETICS400_CATEGORIES

    assert list(kinetics.CLASSES) == _KINETICS400_CATEGORIES
    assert len(set(ssv2.CLASSES)) == 174
    assert list(ssv2.CLASSES) == sorted(ssv2.CLASSES)


@pytest.mark.parametrize("layout", KINETICS)
def test_kinetics_layouts_are_told_apart(kinetics_copy, tmp_path, layout):
    root = kinetics_copy(tmp_path / "k400", layout)
    reference = kinetics_copy(tmp_path / "reference", "official")
    for split, n in (("train", 40), ("val", 20)):
        manifest, expected = kinetics.load(root, split), kinetics.load(reference, split)
        assert len(manifest.videos) == n
        assert manifest.classes == kinetics.CLASSES
        assert manifest.hash == expected.hash, "the same videos, whatever their folders and names"
        assert all(manifest.path(v).read_bytes() == expected.path(w).read_bytes() for v, w in both(manifest, expected))
    sport = next(v for v in kinetics.load(root, "train").videos if v.id.startswith("-23"))
    assert kinetics.CLASSES[sport.label] == "hurling (sport)"


def both(a: Manifest, b: Manifest):
    """Pairs of videos of equal id."""
    theirs = {v.id: v for v in b.videos}
    return [(v, theirs[v.id]) for v in a.videos]


@pytest.mark.parametrize("generation", [0, 1])
@pytest.mark.parametrize("kind", ["webm", "mp4", "frames"])
def test_ssv2_layouts_are_told_apart(ssv2_copy, tmp_path, kind, generation):
    root = ssv2_copy(tmp_path, kind, generation)
    train, val = ssv2.load(root, "train"), ssv2.load(root, "val")
    assert (len(train.videos), len(val.videos)) == (40, 20)
    assert train.classes == val.classes == ssv2.CLASSES
    assert [v.label for v in train.videos[:4]] == [86, 87, 166, 50], "brackets of the templates are taken off"
    assert all(train.path(v).exists() for v in train.videos)
    assert train.usable(allow_partial=True).absent == 0


def test_the_parts_of_the_archive_are_joined_as_documented(ssv2_copy, tmp_path):
    root = ssv2_copy(tmp_path / "ssv2", "webm")
    expected = ssv2.load(root, "train").hash
    archive = "cd ssv2 && tar cz 20bn-something-something-v2 | split -b 20000 -d - 20bn-something-something-v2-"
    subprocess.run(archive, shell=True, cwd=tmp_path, check=True)
    assert len(list(root.glob("20bn-something-something-v2-??"))) > 2
    shutil.rmtree(root / "20bn-something-something-v2")
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    command = next(line for line in readme.splitlines() if line.startswith("cat 20bn-"))
    subprocess.run(command, shell=True, cwd=root, check=True)
    assert ssv2.load(root, "train").hash == expected


def test_hash_is_of_the_content_not_of_the_place(kinetics_root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(kinetics_root, copy)
    a, b = kinetics.load(kinetics_root, "val", "embedded"), kinetics.load(copy, "val", "embedded")
    assert a.hash == b.hash
    b.path(b.videos[0]).write_bytes(b"other")
    assert kinetics.load(copy, "val", "embedded").hash != a.hash
    b.path(b.videos[0]).unlink()
    missing = kinetics.load(copy, "val", "embedded")
    assert missing.hash != a.hash
    assert len(missing.videos) == len(a.videos), "a row without a file stays, and will be counted wrong"


def test_rows_in_another_order_are_the_same_data_set(kinetics_copy, ssv2_copy, tmp_path):
    roots = [
        (kinetics.load, kinetics_copy(tmp_path / "official", "official")),
        (kinetics.load, kinetics_copy(tmp_path / "mmaction2", "mmaction2")),
        (ssv2.load, ssv2_copy(tmp_path / "ssv2", "webm")),
    ]
    for load, root in roots:
        before = load(root, "train")
        for path in (*root.rglob("*train*.csv"), *root.rglob("*train*.txt")):
            header, *rows = path.read_text().splitlines()
            rows = [header, *rows[::-1]] if "youtube_id" in header else [*rows[::-1], header]
            path.write_text("\n".join(rows))
        for path in root.rglob("*train*.json"):
            path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
        after = load(root, "train")
        assert after.hash == before.hash
        assert after.videos == before.videos, "an equal hash is an equal order of training"
        assert [v.id for v in after.videos] == sorted(v.id for v in after.videos)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("layout", ["official", "mmaction2", "pyslowfast", "webm"])
def test_annotations_saved_on_windows_are_read(kinetics_copy, ssv2_copy, tmp_path, layout, encoding):
    copy, load = (ssv2_copy, ssv2.load) if layout == "webm" else (kinetics_copy, kinetics.load)
    root = copy(tmp_path / "copy", layout)
    before = load(root, "val")
    annotations = [p for p in root.rglob("*") if p.suffix in (".csv", ".txt", ".json")]
    for path in annotations:
        path.write_text(path.read_text(), encoding=encoding)
    after = load(root, "val")
    assert (after.videos, after.hash) == (before.videos, before.hash)
    for path in annotations:
        path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"is no text in UTF-8: .*; save it as UTF-8"):
        load(root, "val")


@pytest.mark.parametrize("layout", ["official", "mmaction2", "webm"])
def test_a_file_may_have_two_suffixes(kinetics_copy, ssv2_copy, tmp_path, layout):
    copy, load = (ssv2_copy, ssv2.load) if layout == "webm" else (kinetics_copy, kinetics.load)
    root = copy(tmp_path / "copy", layout)
    before = load(root, "val")
    for n, path in enumerate(before.path(v) for v in before.videos):
        path.rename(path.with_suffix((".mp4.mkv", ".mp4.webm", ".mpg", ".TS", ".mov")[n % 5]))
    after = load(root, "val")
    assert [(v.id, v.label) for v in after.videos] == [(v.id, v.label) for v in before.videos]
    assert min(after.sizes.values()) > 0


def test_wrong_roots_are_named(tmp_path):
    with pytest.raises(DataError, match=r"KINETICS_ROOT=.*/none is no folder; see README"):
        kinetics.load(tmp_path / "none", "train")
    with pytest.raises(DataError, match=r"KINETICS_ROOT=.* has no annotation of its train split .*; see README"):
        kinetics.load(tmp_path, "train")
    with pytest.raises(DataError, match=r"has no 20bn-something-something-v2/; see README"):
        ssv2.load(tmp_path, "train")
    (tmp_path / ssv2.FOLDERS[0]).mkdir()
    with pytest.raises(DataError, match=r"has none of something-something-v2-labels.json, labels.json"):
        ssv2.load(tmp_path, "train")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(DataError, match=r"labels\.json is not JSON"):
        ssv2.load(tmp_path, "train")
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(DataError, match=r"labels\.json is no mapping"):
        ssv2.load(tmp_path, "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nabseiling,-00_kinetic,0,10,train\n"
    )
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"has no video below train/, videos_train/ or videos/train/"):
        kinetics.load(tmp_path, "train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "abseiling",
            "acting in play",
            r"train\.csv:2: label 'acting in play' is no class of Kinetics-400; .* another",
        ),
        (",train", ",test", r"train\.csv:2: a row of split 'test' in the annotation of train"),
        ("0,10", "soon,later", r"train\.csv:2: time_start, time_end are no seconds"),
        ("youtube_id", "id", r"train\.csv: header .* lacks \['youtube_id'\]"),
    ],
)
def test_wrong_official_annotations_are_named(kinetics_copy, tmp_path, old, new, message):
    root = kinetics_copy(tmp_path / "k400", "official")
    annotation = root / "annotations" / "train.csv"
    annotation.write_text(annotation.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        kinetics.load(root, "train")


def test_wrong_lists_are_named(kinetics_copy, tmp_path):
    root = kinetics_copy(tmp_path / "k400", "mmaction2")
    path = root / "kinetics400_train_list_videos.txt"
    lines = path.read_text().splitlines()
    for line, message in (
        (
            lines[1].removesuffix(" 7") + " 8",
            r"txt:2: label 8 for a video of 'arranging_flowers', which is class 7 of the",
        ),
        (lines[1].removesuffix(" 7") + " 650", r"txt:2: label 650, outside 0\.\.399"),
        ("no label", r"txt:2: 'no label' is neither 'path label' nor"),
    ):
        path.write_text("\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(DataError, match=message):
            kinetics.load(root, "train")
    path.write_text("\n".join(lines))
    (root / "videos_train").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="lie neither below"):
        kinetics.load(root, "train")
    path.write_text("")
    with pytest.raises(DataError, match="has no rows"):
        kinetics.load(root, "train")


@pytest.mark.parametrize("layout", ["official", "mmaction2", "pyslowfast"])
def test_a_label_map_of_another_order_is_named(kinetics_copy, tmp_path, layout):
    root = kinetics_copy(tmp_path / "k400", layout)
    names = list(kinetics.CLASSES)
    (root / "label_map_k400.txt").write_text("\n".join([names[1], names[0], *names[2:]]))
    with pytest.raises(DataError, match=r"label_map_k400\.txt: class 0 is 'air drumming', officially 'abseiling'"):
        kinetics.load(root, "train")


def test_a_label_file_that_disagrees_is_named(kinetics_copy, ssv2_copy, tmp_path):
    root = kinetics_copy(tmp_path / "k400", "official")
    names = list(kinetics.CLASSES)
    (root / "label_map_k400.txt").write_text("\n".join(names))
    (root / "kinetics_classnames.json").write_text(json.dumps({f'"{c}"': i for i, c in enumerate(names)}))
    assert len(kinetics.load(root, "train").videos) == 40
    (root / "label_map_k400.txt").write_text("\n".join([*names, "zip lining"]))
    with pytest.raises(DataError, match=r"class 400 is 'zip lining', officially 'nothing'"):
        kinetics.load(root, "train")
    root = ssv2_copy(tmp_path / "ssv2", "webm")
    labels = root / "something-something-v2-labels.json"
    content = json.loads(labels.read_text())
    first, second = ssv2.CLASSES[:2]
    labels.write_text(json.dumps(content | {first: "1", second: "0"}))
    with pytest.raises(DataError, match=r"labels\.json: class 0 is 'Attaching .*, officially 'Approaching"):
        ssv2.load(root, "train")
    labels.write_text(json.dumps(dict(list(content.items())[:-1])))
    with pytest.raises(DataError, match="has 173 classes, Something-Something-V2 has 174"):
        ssv2.load(root, "train")
    labels.write_text(json.dumps(content))
    train = root / "something-something-v2-train.json"
    train.write_text(train.read_text().replace("[something] from left to right", "[something] uphill", 1))
    with pytest.raises(DataError, match="video 100 has template 'Pulling something uphill', which the labels file"):
        ssv2.load(root, "train")
    train.write_text('{"id": 1}')
    with pytest.raises(DataError, match="is no list of videos with id and template"):
        ssv2.load(root, "train")


def test_half_a_data_set_is_refused_unless_allowed(kinetics_copy, tmp_path, monkeypatch, caplog):
    root = kinetics_copy(tmp_path / "k400", "official")
    suite = SUITES["kinetics"]
    with pytest.raises(
        DataError, match=r"360 of 400 classes have no video, the first is 'air drumming'; .*ALLOW_PARTIAL=1"
    ):
        suite.manifest("train", root)
    for video in kinetics.load(root, "val").videos[::4]:
        (root / video.path).unlink()
    with pytest.raises(DataError, match=r"5 of 20 videos have no file, the first is val/abseiling/.*ALLOW_PARTIAL=1"):
        suite.manifest("val", root)
    (root / kinetics.load(root, "train").videos[3].path).unlink()
    monkeypatch.setenv("ALLOW_PARTIAL", "1")
    train, val = suite.manifest("train", root), suite.manifest("val", root)
    assert (len(train.videos), train.absent, train.partial) == (39, 1, True)
    assert (len(val.videos), val.absent, val.partial) == (20, 0, True), "test rows stay, to be counted wrong"
    assert caplog.text.count("1 of 40 videos have no file, the first is train/") == 1
    assert "left out" in caplog.text
    assert "counted as wrong" in caplog.text
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match="20 of 20 videos have no file"):
        suite.manifest("val", root)


@pytest.mark.parametrize("layout", ["official", "flat", "mmaction2", "pyslowfast"])
def test_files_may_have_other_suffixes_and_folders(kinetics_copy, tmp_path, layout):
    root = kinetics_copy(tmp_path / "k400", layout)
    before = kinetics.load(root, "val")
    for n, path in enumerate(sorted((root / v.path) for v in before.videos)):
        other = path.parent if layout == "flat" else path.parent.with_name(path.parent.name.replace("_", "-"))
        other.mkdir(exist_ok=True)
        path.rename(other / path.with_suffix((".webm", ".mkv", ".MP4")[n % 3]).name)
    after = kinetics.load(root, "val")
    assert [(v.id, v.label) for v in after.videos] == [(v.id, v.label) for v in before.videos]
    assert all((root / v.path).is_file() for v in after.videos)


@pytest.mark.parametrize("layout", ["official", "pyslowfast"])
def test_nothing_is_written_to_a_copy(kinetics_copy, tmp_path, layout):
    root = kinetics_copy(tmp_path / "k400", layout)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    for folder in (root, *(p for p in before if p.is_dir())):
        os.chmod(folder, 0o555)
    assert len(kinetics.load(root, "train").videos) == 40
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_manifest_refuses_nonsense(tmp_path):
    with pytest.raises(DataError, match="has no videos"):
        Manifest("d", "val", tmp_path, ("a",), ())
    with pytest.raises(DataError, match=r"video v has label 3, outside 0\.\.0"):
        Manifest("d", "val", tmp_path, ("a",), (Video("v", "v.mp4", 3),))
    with pytest.raises(DataError, match="video v is annotated"):
        Manifest("d", "val", tmp_path, ("a",), (Video("v", "v.mp4", 0),) * 2)


def test_flips_exchange_left_and_right():
    classes = (
        "Pushing something from left to right",
        "Pushing something from right to left",
        "Covering something",
        "Moving something left",
    )
    assert ssv2.flip_partners(classes) == (1, 0, 2, -1), "no such thing as moving right here: never flipped"
    partners = ssv2.flip_partners(ssv2.CLASSES)
    exchanged = {i: p for i, p in enumerate(partners) if p != i}
    assert exchanged == {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}, "and mmaction2's configs agree"
