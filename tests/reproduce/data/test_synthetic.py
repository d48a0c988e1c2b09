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
from reproduce.data.layouts import LAYOUTS
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


# ---- sizes that differ from a named one

JOINT = synthetic.changed("tiny", dict(classes=16, train=32, val=16, holdout=16, joint=True))
ORDER = synthetic.changed("quick", dict(steps=3))


@pytest.mark.parametrize("steps", [1, 3])
def test_of_a_joint_label_each_part_comes_with_all_of_the_other(steps):
    pairs = scenes.time_order_pairs(16, joint=True, steps=steps)
    plain = [(" or ".join(p.shapes), text) for p in pairs for text in (p.forwards, p.backwards)]
    for classes in (
        scenes.appearance_motion_classes(16, joint=True, steps=steps),
        [(group, text.replace(group, "something")) for group, text in plain],
    ):
        groups, motions = map(set, zip(*classes, strict=True))
        assert len(groups) == len(motions) == 4
        assert len(classes) == 16
        assert set(classes) == {(group, motion) for group in groups for motion in motions}


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_actors_of_a_joint_label_are_all_of_its_group_and_no_others(name, monkeypatch):
    seen = []
    monkeypatch.setattr(scenes, "_object", lambda shape, *rest: seen.append(shape) or [])
    monkeypatch.setattr(scenes, "distractors", lambda *rest: [])
    size, groups = synthetic.changed("quick", dict(joint=True, classes=16)), {}
    for index in range(160):
        spec = video.video_spec(name, size, 0, "train", index)
        seen.clear()
        video.scene_of(spec)
        groups.setdefault(spec.label, set()).update(seen)
    assert set(map(frozenset, groups.values())) == set(map(frozenset, scenes.SHAPE_GROUPS.values()))


def test_only_the_order_of_steps_makes_the_class():
    motions = [motion.split(" then ") for _, motion in scenes.appearance_motion_classes(8, steps=3)]
    assert len({frozenset(steps) for steps in motions}) == 1
    assert len({tuple(steps) for steps in motions}) == 4
    u = np.linspace(0, 1, 31)
    for order in scenes.sequences(3):
        path, back = (scenes._excursions(np.random.default_rng(0), u, 1.0, either) for either in (order, order[::-1]))
        assert np.allclose(np.abs(path.x), np.abs(back.x[::-1]))
        assert np.allclose(path.scale, back.scale[::-1])


@pytest.mark.parametrize("size", [JOINT, ORDER])
def test_partner_class_of_another_size_is_the_same_video_backwards(size):
    for label in range(0, synthetic.presets.preset(size).classes, 2):
        spec = video.video_spec(SSV2, size, 0, "train", label)
        frames = synthetic.render_spec(spec)
        assert np.array_equal(frames, synthetic.render_spec(dataclasses.replace(spec, label=label + 1))[::-1])
        assert not np.array_equal(frames, frames[::-1])


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_other_difficulty_other_videos_and_more_videos_the_same_ones(name):
    more = synthetic.changed("quick", dict(val=2_000, holdout=400))
    for split in ("train", "val"):
        frames, _ = synthetic.render(name, "quick", 0, split, 5)
        assert np.array_equal(frames, synthetic.render(name, more, 0, split, 5)[0])
        for changes in (dict(difficulty=dict(clutter=20)), dict(difficulty=dict(amplitude=(0.2, 0.3))), dict(steps=3)):
            other, _ = synthetic.render(name, synthetic.changed("quick", changes), 0, split, 5)
            assert frames.shape == other.shape
            assert not np.array_equal(frames, other)
    apart = [synthetic.render(name, more, 0, split, 5)[0] for split in ("train", "val", "holdout")]
    assert len({frames.tobytes() for frames in apart}) == 3


@pytest.mark.parametrize("name", synthetic.NAMES)
def test_held_out_videos_are_read_as_a_split_of_their_own(name, tmp_path):
    manifest = synthetic.generate(name, tmp_path, size=JOINT)
    assert manifest["size"] == JOINT
    load = LAYOUTS.named(name.removeprefix("synthetic-"))
    splits = {split: load(tmp_path, split, name) for split in ("train", "val", "holdout")}
    assert [len(s.videos) for s in splits.values()] == [32, 16, 16]
    assert len({v.id for s in splits.values() for v in s.videos}) == 64
    assert all(Counter(v.label for v in s.videos).keys() == set(range(16)) for s in splits.values())
    assert all(s.path(v).is_file() for s in splits.values() for v in s.videos)


def test_a_size_is_a_name_and_what_is_different():
    assert synthetic.changed("quick", {}) == synthetic.short("quick") == "quick"
    assert len({synthetic.short(size) for size in (*synthetic.SIZES, JOINT, ORDER)}) == 5
    assert all(" " not in synthetic.short(size) for size in (JOINT, ORDER))
    with pytest.raises(ValueError, match="Difficulty has no clutterr; known: amplitude, clutter"):
        synthetic.classes(KINETICS, synthetic.changed("quick", dict(difficulty=dict(clutterr=1))))


# ---- determinism

PIXELS = {  # of videos 0, 5 and 7 of both splits, since generator version 2
    (KINETICS, "tiny"): "b2275458ba2fb97d",
    (KINETICS, "quick"): "2a1f9e83edea15b2",
    (KINETICS, "full"): "b1f894ec2a9f9f42",
    (SSV2, "tiny"): "e696ad49490dfc4d",
    (SSV2, "quick"): "58d1b7d0152ca37e",
    (SSV2, "full"): "6d02627eb46572a4",
}


@pytest.mark.parametrize(("name", "size"), PIXELS)
def test_videos_are_as_ever(name, size):
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for index in (0, 5, 7):
            frames, spec = synthetic.render(name, size, 0, split, index)
            digest.update(frames)
            digest.update(json.dumps(dataclasses.asdict(spec)).encode())
    assert digest.hexdigest()[:16] == PIXELS[name, size]


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
