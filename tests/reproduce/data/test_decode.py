"""Decoders, on generated files, on rot, and on real clips where there are some."""

import re
import shutil

import numpy as np
import pytest

from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.data.decode import DECODERS, DecodeError, decode
from reproduce.data.manifest import DataError, Manifest, Video
from reproduce.protocol import Crops, Protocol, Sampling

PROTOCOLS = {
    "kinetics": Protocol(Sampling("dense", 8, 4, clips=3), Crops(64, 72, (72, 90), crops=3)),
    "ssv2": Protocol(Sampling("segment", 8, clips=2), Crops(64, 72, (72, 90), flip=0.0)),
}
# what the folder of real clips holds; the damaged one must fail with a clear error, not hang or crash
CLIPS = ["arm_wrestling.mp4", "flipping_a_pancake.mkv", "test.avi", "part_0.mp4", "rotated_90.mov", "unordered_pts.mov"]


@pytest.mark.parametrize("layout", ["kinetics", "ssv2"])
def test_decoders_agree_frame_by_frame(cache, layout):
    root = cache / f"synthetic-{layout}-tiny"
    path = next(p for p in sorted(root.rglob("*")) if p.suffix in (".mp4", ".webm"))
    (a, n), (b, m) = (decode(path, lambda total: np.arange(total), d) for d in DECODERS)
    assert n == m == len(a)
    assert a.dtype == np.uint8
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 3  # two colour conversions of the same frames


def test_indices_of_any_order_and_shape(kinetics_root):
    path = next(kinetics_root.rglob("*.mp4"))
    whole, total = decode(path, lambda total: np.arange(total))
    index = np.array([[total - 1, 0, 3], [3, 3, 1]])
    some, _ = decode(path, lambda total: index)
    assert np.array_equal(some, whole[index])


@pytest.mark.parametrize("decoder", DECODERS)
def test_rot_is_an_error_that_names_the_file(kinetics_root, tmp_path, decoder):
    good = next(kinetics_root.rglob("*.mp4"))
    files = {"empty.mp4": b"", "text.mp4": b"this is no video" * 99, "cut.mp4": good.read_bytes()[:200]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "missing.mp4"]:
        with pytest.raises(DecodeError, match=name) as caught:
            decode(tmp_path / name, lambda total: np.arange(total), decoder)
        assert not re.search(r"\[\d\d:", str(caught.value)), "no time stamps: equal runs, equal records"
    with pytest.raises(ValueError, match="unknown decoder 'eyes'; known: decord, pyav"):
        decode(good, lambda total: np.arange(total), "eyes")


def rotten(kinetics_root, tmp_path) -> Manifest:
    """Four videos: whole, missing, empty, no video."""
    good = next(kinetics_root.rglob("*.mp4"))
    shutil.copy(good, tmp_path / "a.mp4")
    (tmp_path / "c.mp4").write_bytes(b"")
    (tmp_path / "d.mp4").write_bytes(b"no video" * 100)
    videos = tuple(Video(i, f"{i}.mp4", label % 2) for label, i in enumerate("abcd"))
    return Manifest("rotten", "val", tmp_path, ("x", "y"), videos)


def test_a_failed_test_video_is_marked_and_a_failed_training_video_replaced(kinetics_root, tmp_path, caplog):
    manifest = rotten(kinetics_root, tmp_path)
    test = [TestVideos(manifest, PROTOCOLS["kinetics"])[i] for i in range(4)]
    assert [bool(t["error"]) for t in test] == [False, True, True, True]
    assert "b.mp4" in test[1]["error"]
    assert str(tmp_path) not in test[1]["error"]
    assert all(t["clips"].shape == (9, 8, 64, 64, 3) for t in test)
    train = TrainClips(manifest, PROTOCOLS["ssv2"], seed=0)
    first = [train[n] for n in range(8)]
    assert all(item["label"] == 0 for item in first), "only video a can be read"
    assert caplog.text.count("skipped in training") == 3, "each once"
    again = TrainClips(manifest, PROTOCOLS["ssv2"], seed=0)
    assert all((a["clips"] == again[n]["clips"]).all() for n, a in enumerate(first))


def test_training_gives_up_when_nothing_can_be_read(tmp_path):
    videos = tuple(Video(i, f"{i}.mp4", 0) for i in "ab")
    manifest = Manifest("gone", "train", tmp_path, ("x",), videos)
    with pytest.raises(DataError, match="20 videos in a row cannot be decoded"):
        TrainClips(manifest, PROTOCOLS["ssv2"], seed=0)[0]
    with pytest.raises(DataError, match="class 'y' has no training video"):
        TrainClips(Manifest("gone", "train", tmp_path, ("x", "y"), videos), PROTOCOLS["ssv2"], seed=0)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_flow_through(real_clips, name, protocol, decoder):
    manifest = Manifest("real clips", "val", real_clips, ("some action",), (Video("one", name, 0),))
    test = TestVideos(manifest, protocol, decoder)[0]
    assert test["error"] == ""
    assert test["frames"] > 0
    assert test["clips"].shape == (protocol.views, 8, 64, 64, 3)
    if name != "unordered_pts.mov":  # four white frames
        assert test["clips"].float().std() > 1, "a picture, not a plain colour"
    train = TrainClips(manifest, protocol, seed=1, decoder=decoder)[5]
    assert train["clips"].shape == (1, 8, 64, 64, 3)


def test_decoders_agree_on_rotation(real_clips):
    (a, _), (b, _) = (decode(real_clips / "rotated_90.mov", lambda total: np.arange(total), d) for d in DECODERS)
    assert a.shape == b.shape == (3, 568, 320, 3)
    assert np.abs(a.astype(int) - b.astype(int)).mean() < 2


def test_a_damaged_real_clip_fails_cleanly_or_gives_frames(real_clips):
    manifest = Manifest("real clips", "val", real_clips, ("x",), (Video("one", "corrupted.mp4", 0),))
    item = TestVideos(manifest, PROTOCOLS["ssv2"])[0]
    assert "corrupted.mp4: decord cannot decode it" in item["error"]
