"""Decoders, on generated files, on rot, and on real clips where there are some."""

import re
import shutil

import numpy as np
import pytest

from reproduce.data import decode as decoding
from reproduce.data.datasets import TestVideos, TrainClips, skipped_videos
from reproduce.data.decode import DECODERS, DEFAULT, DecodeError, decode
from reproduce.data.manifest import DataError, Manifest, Video
from reproduce.data.synthetic.writer import encode
from reproduce.protocol import Crops, Protocol, Sampling

PROTOCOLS = {
    "kinetics": Protocol(Sampling("dense", 8, 4, clips=3), Crops(64, 72, (72, 90), crops=3)),
    "ssv2": Protocol(Sampling("segment", 8, clips=2), Crops(64, 72, (72, 90), flip=0.0)),
}
# what the folder of real clips holds; the damaged one must fail with a clear error, not hang or crash
CLIPS = ["arm_wrestling.mp4", "flipping_a_pancake.mkv", "test.avi", "part_0.mp4", "rotated_90.mov", "unordered_pts.mov"]


@pytest.mark.parametrize("decoder", [d for d in DECODERS if d != "decord"])
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_decoders_agree_frame_by_frame(clips, b_frames, kind, decoder):
    for path in [clips / f"{i}.{kind}" for i in range(6)] + ([b_frames] if kind == "mp4" else []):
        for pick in (np.arange, lambda total: np.array([total - 2, 1, 7]), lambda total: np.array([total - 1])):
            (a, _, n), (b, _, m) = (DECODERS[d](path, pick) for d in ("decord", decoder))
            assert n == m
            assert a.dtype == np.uint8
            assert np.array_equal(a, b), f"{path.name}: the same frames, to the bit"


@pytest.fixture(scope="module")
def b_frames(clips, tmp_path_factory):
    """H.264 as on the web: frames out of order, some that no other refers to, several key frames."""
    import av

    path = tmp_path_factory.mktemp("b") / "b.mp4"
    with av.open(str(clips / "0.mp4")) as source:
        frames = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    with av.open(str(path), "w") as target:
        options = {"preset": "medium", "g": "15", "bf": "3", "threads": "1"}
        stream = target.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames * 5:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        target.mux(stream.encode(None))
    return path


def test_of_each_group_no_more_is_decoded_than_up_to_its_last_wanted_frame(b_frames, monkeypatch):
    given, needed = [], decoding.needed
    monkeypatch.setattr(decoding, "needed", lambda *of: given.append(needed(*of)) or given[0])
    index = np.array([3, 33, 32])  # key frames are 0, 15, 30, 45
    frames, total = decode(b_frames, lambda _: index)
    assert total == 60
    assert np.array_equal(frames, decode(b_frames, np.arange)[0][index])
    groups = [p.is_keyframe for p in given[0]]
    assert sum(groups) == 2, "of four"
    assert len(groups) <= 2 * 8, "the frames wanted, those before, and those that come before in the file"


def test_decord_leaves_vp9_encoding_alone(tmp_path, clips):
    import av

    decode(clips / "0.webm", np.arange)
    with av.open(str(tmp_path / "new.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=12)
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 80, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert len(decode(tmp_path / "new.webm", np.arange)[0]) == 1


def test_narrow_frames_fall_back_to_pyav(clips):
    with pytest.raises(Exception, match="from_size == to_size"):
        DECODERS["decord"](clips / "narrow.mp4", np.arange)
    frames, total = decode(clips / "narrow.mp4", np.arange)
    assert frames.shape == (12, 64, 72, 3)
    assert total == 12


def test_a_file_is_tried_twice_and_no_more(clips, monkeypatch):
    tried = []

    def fails(name):
        def read(path, pick):
            tried.append(name)
            raise RuntimeError(f"{name} says no")

        return read

    monkeypatch.setattr(decoding, "DECODERS", {d: fails(d) for d in ("decord", "pyav")})
    with pytest.raises(DecodeError, match=r"0\.mp4: pyav cannot decode it: pyav says no"):
        decode(clips / "0.mp4", np.arange, "decord")
    assert tried == ["decord", "pyav"]
    with pytest.raises(DecodeError, match="pyav says no"):
        decode(clips / "0.mp4", np.arange, "pyav")
    assert tried[2:] == ["pyav"], "nobody checks what another decoder makes of a file that PyAV cannot read"


def test_a_file_cut_after_its_header_is_no_shorter_video(clips, tmp_path):
    """The index of an mp4 first, as for streaming: all frames are announced, half of them are there."""
    import av

    whole = tmp_path / "whole.mp4"
    with av.open(str(clips / "0.mp4")) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert decode(whole, np.arange)[1] == 12
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    for decoder in ("decord", "pyav"):
        with pytest.raises(DecodeError, match=r"cut\.mp4"):
            decode(tmp_path / "cut.mp4", np.arange, decoder)


def test_extracted_frames_are_a_video(ssv2_copy, clips, tmp_path):
    root = ssv2_copy(tmp_path, "frames")
    folder = root / "rawframes" / "100"
    frames, total = decode(folder, lambda total: np.array([[0, total - 1]]))
    original, n = decode(clips / "0.webm", lambda total: np.array([[0, total - 1]]))
    assert total == n
    assert frames.shape == original.shape
    assert np.abs(frames.astype(int) - original).mean() < 4, "up to JPEG"
    (folder / "img_00001.jpg").write_bytes(b"no image")
    with pytest.raises(DecodeError, match=r"img_00001\.jpg is no image"):
        decode(folder, np.arange)


def test_views_of_a_video_are_the_crops_of_its_clips(clips):
    for protocol in PROTOCOLS.values():
        manifest = Manifest("d", "val", clips, ("x",), (Video("v", "3.mp4", 0),))
        frames, _ = decode(clips / "3.mp4", protocol.sampling.test)
        expected = np.concatenate([protocol.crops.test(clip) for clip in frames])
        assert np.array_equal(TestVideos(manifest, protocol)[0]["clips"].numpy(), expected)


def test_a_clip_of_a_short_video_repeats_its_last_frame(clips):
    videos = Manifest("d", "train", clips, ("x",), (Video("v", "3.mp4", 0),))
    dense = Sampling("dense", 8, 4)
    item = TrainClips(videos, Protocol(dense, Crops(64, 72, (72, 90))), 0)[5]
    rng = np.random.default_rng((0, 1, 5))
    frames, total = decode(clips / "3.mp4", lambda total: dense.train(total, rng)[0])
    assert total < 29
    assert np.array_equal(item["clips"][0], Crops(64, 72, (72, 90)).train(frames, rng)[0])


def test_a_square_of_the_right_size_is_only_cut_out():
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 51, 3), dtype=np.uint8)
    crops = Crops(32, 40, (40, 40), crops=3)
    left, centre, right = crops.test(frames)
    assert np.array_equal(left, frames[:, 4:36, :32])
    assert np.array_equal(right, frames[:, 4:36, 19:])
    neighbours = (frames[:, 4:36, 9:41].astype(int) + frames[:, 4:36, 10:42]) / 2  # half a pixel: resampled
    assert np.abs(centre - neighbours).max() <= 1


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
    with pytest.raises(ValueError, match=r"unknown decoder 'eyes'; known: decord, pyav.*"):
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


def test_skipped_videos_are_reported_once_per_run_and_listed(kinetics_root, tmp_path, caplog):
    manifest, path = rotten(kinetics_root, tmp_path), tmp_path / "run" / "skipped.txt"
    assert skipped_videos(path) == []
    for _ in range(3):  # three workers, or sessions, of one run
        worker = TrainClips(manifest, PROTOCOLS["ssv2"], seed=0, skipped=path)
        for n in range(8):
            worker[n]
    assert caplog.text.count("skipped in training") == 3
    assert skipped_videos(path) == ["b", "c", "d"]


def test_training_gives_up_when_nothing_can_be_read(tmp_path):
    videos = tuple(Video(i, f"{i}.mp4", 0) for i in "ab")
    manifest = Manifest("gone", "train", tmp_path, ("x",), videos)
    with pytest.raises(DataError, match="20 videos in a row cannot be decoded"):
        TrainClips(manifest, PROTOCOLS["ssv2"], seed=0)[0]
    with pytest.raises(DataError, match="class 'y' has no training video"):
        TrainClips(Manifest("gone", "train", tmp_path, ("x", "y"), videos), PROTOCOLS["ssv2"], seed=0)
    TrainClips(Manifest("gone", "train", tmp_path, ("x", "y"), videos, partial=True), PROTOCOLS["ssv2"], seed=0)


def test_the_label_follows_a_flip(tmp_path):
    """Bright on the right; class 0 turns into 1 and 1 into 0, 2 into itself, and 3 is not to be flipped."""
    encode(np.broadcast_to(np.linspace(0, 255, 96, dtype=np.uint8)[:, None], (8, 80, 96, 3)), 12, tmp_path / "v.mp4")
    videos = tuple(Video(f"v{label}", "v.mp4", label) for label in range(4))
    manifest = Manifest("sides", "train", tmp_path, tuple("abcd"), videos, partners=(1, 0, 2, -1))
    protocol = Protocol(Sampling("segment", 4), Crops(64, 72, (72, 80), flip=0.5))
    train, seen = TrainClips(manifest, protocol, seed=0), set()
    for n in range(80):
        item = train[n]
        label = train._epoch[1][n % 4]
        clip = item["clips"].float()
        seen.add((label, bool(clip[..., :32, :].mean() > clip[..., 32:, :].mean()), item["label"]))
    assert seen == {
        (0, False, 0),
        (0, True, 1),
        (1, False, 1),
        (1, True, 0),
        (2, False, 2),
        (2, True, 2),
        (3, False, 3),
    }


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
    assert f"corrupted.mp4: {DEFAULT} cannot decode it" in item["error"]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_reopening_leaves_memory_flat(clips, decoder, kind):
    from reproduce.studies.decoding import memory

    assert memory(clips / f"0.{kind}", 1000, decoder)["growth_mib"] < 8
