"""The synthetic data sets: what the classes depend on, what is written, and that it is the same every time."""

import csv
import dataclasses
import hashlib
import json
from collections import Counter

import cv2
import decord
import numpy as np
import pytest

from reproduce.data import synthetic
from reproduce.data.synthetic import scenes, video, writer

KINETICS, SSV2 = synthetic.NAMES


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Both data sets at size `tiny`."""
    roots = {name: tmp_path_factory.mktemp("data") / name for name in synthetic.NAMES}
    for name, root in roots.items():
        synthetic.generate(name, root, size="tiny", workers=1)
    return roots


# ---- what makes the class


@pytest.mark.parametrize("label", range(24))
def test_partner_class_is_the_same_video_backwards(label):
    _, spec = synthetic.render(SSV2, "full", 3, "train", label)
    spec = dataclasses.replace(spec, frames=16, width=96, height=64)
    mirrored = dataclasses.replace(spec, label=synthetic.partner(label))
    frames = synthetic.render_spec(spec)
    assert np.array_equal(frames, synthetic.render_spec(mirrored)[::-1])
    assert not np.array_equal(frames, frames[::-1])


def _ridge_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a linear classifier fitted to the first."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    half, sign = len(labels) // 2, 2.0 * labels - 1
    x = features[:half]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ sign[:half])
    return float(np.mean((features[half:] @ weights > 0) == labels[half:]))


@pytest.mark.slow
def test_frames_without_order_tell_nothing_within_a_pair(tmp_path):
    """On encoded files; the same classifier does well on the same features once they are in order."""
    specs = [video.video_spec(SSV2, "quick", 0, "train", index) for index in range(800)]
    for folder in ("20bn-something-something-v2", writer._PARTIAL):
        (tmp_path / folder).mkdir()
    unordered, ordered, labels = [], [], []
    for record in sorted(writer._render_all(specs, tmp_path, workers=2), key=lambda record: record["index"]):
        reader = decord.VideoReader(str(tmp_path / record["path"]), num_threads=1)
        clip = reader.get_batch((np.arange(8) + 0.5) * len(reader) / 8).asnumpy()
        histograms = [
            np.concatenate([cv2.calcHist([frame], [c], None, [8], [0, 256]).ravel() for c in range(3)])
            for frame in clip
        ]
        histograms = np.array(histograms) / clip[0, ..., 0].size
        spread = clip.std(axis=(1, 2, 3))
        unordered.append(np.concatenate([np.sort(histograms, axis=0).ravel(), np.sort(spread)]))
        ordered.append(spread)
        labels.append(record["label"])
    labels, unordered, ordered = np.array(labels), np.array(unordered), np.array(ordered)
    pairs = [labels // 2 == pair for pair in range(4)]
    accuracies = [_ridge_accuracy(unordered[pair], labels[pair] % 2) for pair in pairs]
    assert abs(np.mean(accuracies) - 0.5) < 0.075  # three standard errors of 400 coin flips
    towards_the_camera = pairs[2]
    assert _ridge_accuracy(ordered[towards_the_camera], labels[towards_the_camera] % 2) > 0.7


@pytest.mark.parametrize("size", synthetic.SIZES)
def test_neither_shape_nor_motion_alone_makes_the_class(size):
    pairs = scenes.appearance_motion_classes(synthetic.SIZES[size].classes)
    assert len(set(pairs)) == len(pairs)
    for part in zip(*pairs, strict=True):
        repeats = set(Counter(part).values())
        assert len(repeats) == 1
        assert repeats.pop() >= 2


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_motion_is_visible_in_eight_small_frames(name):
    """Frame to frame, the picture changes by more than camera shake, light and noise make it change."""
    for label in range(8):
        spec = video.video_spec(name, "quick", 0, "train", label)
        frames = synthetic.render_spec(spec)
        picked = frames[((np.arange(8) + 0.5) * len(frames) / 8).astype(int)]
        small = np.array([cv2.resize(f, (72, 72), interpolation=cv2.INTER_AREA) for f in picked], np.float32)
        changed = np.abs(small[0] - small[-1]).max(axis=2) > 50
        middle = np.abs(small[0] - small[3]).max(axis=2) > 50
        assert max(changed.mean(), middle.mean()) > 0.01


# ---- determinism


def test_videos_do_not_depend_on_workers_or_order(roots, tmp_path):
    for name in synthetic.NAMES:
        again = synthetic.generate(name, tmp_path / name, size="tiny", workers=2)
        assert again == synthetic.load_manifest(roots[name])


def test_seed_changes_the_videos():
    one, _ = synthetic.render(KINETICS, "tiny", 0, "train", 0)
    two, _ = synthetic.render(KINETICS, "tiny", 1, "train", 0)
    assert one.shape != two.shape or not np.array_equal(one, two)


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_manifest_describes_the_videos(name, roots):
    manifest = synthetic.load_manifest(roots[name])
    videos = manifest["videos"]
    assert Counter(video["split"] for video in videos) == {"train": 24, "val": 8}
    assert len({video["id"] for video in videos}) == len({video["sha256"] for video in videos}) == 32
    for split in ("train", "val"):
        per_class = Counter(video["label"] for video in videos if video["split"] == split)
        assert len(per_class) == 4
        assert len(set(per_class.values())) == 1
    for entry in videos[::7]:
        frames, spec = synthetic.render(name, "tiny", 0, entry["split"], entry["index"])
        assert hashlib.sha256(frames).hexdigest() == entry["sha256"]
        assert spec.label == entry["label"]


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_decord_reads_what_was_rendered(name, roots):
    for entry in synthetic.load_manifest(roots[name])["videos"]:
        reader = decord.VideoReader(str(roots[name] / entry["path"]), num_threads=1)
        frames, _ = synthetic.render(name, "tiny", 0, entry["split"], entry["index"])
        assert len(reader) == entry["frames"]
        assert reader.get_avg_fps() == pytest.approx(entry["fps"], rel=1e-3)
        decoded = reader.get_batch(range(len(reader))).asnumpy()
        assert decoded.shape == frames.shape == (entry["frames"], entry["height"], entry["width"], 3)
        assert np.abs(decoded.astype(int) - frames).mean() < 10  # swapped channels or a shifted frame are far above


# ---- layouts


def test_kinetics_layout(roots):
    root = roots[KINETICS]
    names = synthetic.classes(KINETICS, "tiny")
    for split, size in (("train", 24), ("val", 8)):
        with open(root / "annotations" / f"{split}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["label", "youtube_id", "time_start", "time_end", "split"]
        assert len(rows) == size
        for row in rows:
            assert row["label"] in names
            assert row["split"] == split
            assert len(row["youtube_id"]) == 11
            span = f"{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            assert (root / split / row["label"] / f"{row['youtube_id']}_{span}.mp4").is_file()
    assert len(list(root.rglob("*.mp4"))) == 32


def test_ssv2_layout(roots):
    root = roots[SSV2]
    labels = json.loads((root / "something-something-v2-labels.json").read_text())
    assert list(labels.values()) == ["0", "1", "2", "3"]
    by_id = {video["id"]: video for video in synthetic.load_manifest(root)["videos"]}
    seen = 0
    for part in ("train", "validation"):
        for entry in json.loads((root / f"something-something-v2-{part}.json").read_text()):
            assert entry["template"].count("[something") == len(entry["placeholders"])
            assert all(thing in entry["label"] for thing in entry["placeholders"])
            assert "[" not in entry["label"]
            index = labels[entry["template"].replace("[", "").replace("]", "")]
            assert int(index) == by_id[entry["id"]]["label"]
            assert (root / "20bn-something-something-v2" / f"{entry['id']}.webm").is_file()
            seen += 1
    assert seen == len(by_id) == 32


def test_every_template_can_be_filled():
    for label, template in enumerate(synthetic.templates("full")):
        entry = video.annotation(video.video_spec(SSV2, "full", 0, "val", label))
        assert entry["template"] == template
        assert entry["template"].count("[") == len(entry["placeholders"])


# ---- resuming, refusing


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_interrupted_generation_continues(name, roots, tmp_path, monkeypatch):
    render_all, rendered = writer._render_all, []

    def counted(specs, root, workers):
        for record in render_all(specs, root, workers):
            rendered.append(record["id"])
            yield record

    def interrupted(specs, root, workers):
        for record in counted(specs, root, workers):
            if len(rendered) > 20:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(writer, "_render_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.generate(name, tmp_path, size="tiny", workers=1)
    assert not (tmp_path / "manifest.json").exists()
    with open(tmp_path / "journal.jsonl", "a") as journal:
        journal.write('{"id": "cut o')

    monkeypatch.setattr(writer, "_render_all", counted)
    del rendered[20:]
    manifest = synthetic.generate(name, tmp_path, size="tiny", workers=1)
    assert manifest == synthetic.load_manifest(roots[name])
    assert len(rendered) == len(set(rendered)) == 32

    lost = tmp_path / manifest["videos"][3]["path"]
    lost.unlink()
    assert synthetic.generate(name, tmp_path, size="tiny", workers=1) == manifest
    assert lost.is_file()
    assert len(rendered) == 33
    synthetic.generate(name, tmp_path, size="tiny", workers=1)
    assert len(rendered) == 33


def test_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="unknown synthetic data set 'kinetics'; choose one of"):
        synthetic.generate("kinetics", tmp_path)
    with pytest.raises(ValueError, match=r"unknown size 'huge'.*tiny, quick, full"):
        synthetic.generate(KINETICS, tmp_path, size="huge")
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        synthetic.load_manifest(tmp_path)
    with pytest.raises(ValueError, match="24 train videos, no index 24"):
        synthetic.render(KINETICS, "tiny", 0, "train", 24)


def test_refuses_a_folder_with_other_contents(roots, tmp_path):
    with pytest.raises(ValueError, match="seed 0, not 1"):
        synthetic.generate(KINETICS, roots[KINETICS], size="tiny", seed=1)
    with pytest.raises(ValueError, match="name 'synthetic-ssv2', not 'synthetic-kinetics'"):
        synthetic.generate(KINETICS, roots[SSV2], size="tiny")
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ValueError, match="not empty"):
        synthetic.generate(KINETICS, tmp_path, size="tiny")


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "data"
    with pytest.raises(OSError, match=f"cannot write synthetic-ssv2 to {root}.*choose another folder"):
        synthetic.generate(SSV2, root, size="tiny")


def test_failure_of_a_worker_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_folders", lambda job, names: [])  # so that there is nowhere to put a video
    with pytest.raises(OSError, match=f"cannot write synthetic-ssv2 to {tmp_path}"):
        synthetic.generate(SSV2, tmp_path, size="tiny", workers=2)
    monkeypatch.setattr(writer, "_WORKER", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match=r"a process that renders to .* died"):
        synthetic.generate(SSV2, tmp_path, size="tiny", workers=2)


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_contact_sheet(name, tmp_path):
    synthetic.contact_sheet(name, "tiny", tmp_path / "sheet.png", height=48)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] == 4 * (48 + 20)
