"""Kinetics' and Something-Something's layouts, and what is wrong with copies of them."""

import json
import shutil

import pytest

from reproduce.data import kinetics, ssv2
from reproduce.data.manifest import DataError, Manifest, Video


@pytest.mark.parametrize(("layout", "load"), [("kinetics", kinetics.load), ("ssv2", ssv2.load)])
def test_embedded_copies_are_whole(cache, layout, load):
    root = cache / f"synthetic-{layout}-tiny"
    train, val = load(root, "train"), load(root, "val")
    assert (len(train.videos), len(val.videos)) == (24, 8)
    assert train.classes == val.classes
    assert len(train.classes) == 4
    assert not train.empty_classes
    assert all(m.path(v).is_file() for m in (train, val) for v in m.videos)
    assert not {v.id for v in train.videos} & {v.id for v in val.videos}


def test_hash_is_of_the_content_not_of_the_place(kinetics_root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(kinetics_root, copy)
    a, b = kinetics.load(kinetics_root, "val"), kinetics.load(copy, "val")
    assert a.hash == b.hash
    b.path(b.videos[0]).write_bytes(b"other")
    assert kinetics.load(copy, "val").hash != a.hash
    b.path(b.videos[0]).unlink()
    missing = kinetics.load(copy, "val")
    assert missing.hash != a.hash
    assert len(missing.videos) == len(a.videos), "a row without a file stays, and will be counted wrong"


def test_wrong_roots_are_named(tmp_path):
    with pytest.raises(DataError, match=r"KINETICS_ROOT=.* has no annotations/ or train/; see README"):
        kinetics.load(tmp_path, "train")
    with pytest.raises(DataError, match=r"has no 20bn-something-something-v2/; see README"):
        ssv2.load(tmp_path, "train")
    (tmp_path / ssv2.FOLDER).mkdir()
    with pytest.raises(DataError, match=r"has none of something-something-v2-labels.json, labels.json"):
        ssv2.load(tmp_path, "train")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(DataError, match=r"labels\.json is not JSON"):
        ssv2.load(tmp_path, "train")


def test_wrong_annotations_are_named(kinetics_root, cache, tmp_path):
    copy = tmp_path / "k"
    shutil.copytree(kinetics_root, copy)
    csv = copy / "annotations" / "val.csv"
    text = csv.read_text()
    csv.write_text(text.replace(text.splitlines()[1].split(",")[0], "juggling geese", 1))
    with pytest.raises(DataError, match=r"val.csv:2: label 'juggling geese' is no class"):
        kinetics.load(copy, "val")
    csv.write_text("path,label\n")
    with pytest.raises(DataError, match="lacks"):
        kinetics.load(copy, "val")
    csv.unlink()
    with pytest.raises(DataError, match=r"val\.csv is missing"):
        kinetics.load(copy, "val")
    copy = tmp_path / "s"
    shutil.copytree(cache / "synthetic-ssv2-tiny", copy)
    labels = copy / "something-something-v2-labels.json"
    labels.write_text(json.dumps(dict(list(json.loads(labels.read_text()).items())[:-1])))
    with pytest.raises(DataError, match="which the labels file does not list"):
        ssv2.load(copy, "train")


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
