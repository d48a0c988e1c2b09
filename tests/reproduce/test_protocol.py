"""Sampling in time and space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.protocol import Crops, Protocol, Sampling

kinds = st.sampled_from(["dense", "segment"])


@given(kinds, st.integers(1, 400), st.integers(1, 32), st.integers(1, 8), st.integers(1, 10), st.integers(0, 9))
def test_indices_are_in_the_video_and_in_order(kind, total, frames, stride, clips, seed):
    sampling = Sampling(kind, frames, stride, clips)
    train, test = sampling.train(total, np.random.default_rng(seed)), sampling.test(total)
    assert train.shape == (1, frames)
    assert test.shape == (clips, frames)
    for index in (train, test):
        assert index.min() >= 0
        assert index.max() < total
        assert (np.diff(index, axis=1) >= 0).all()


def test_dense_clips_span_the_video():
    clips = Sampling("dense", frames=4, stride=5, clips=3).test(100)
    assert clips.tolist() == [[0, 5, 10, 15], [42, 47, 52, 57], [84, 89, 94, 99]]
    assert Sampling("dense", frames=4, stride=5).test(100).tolist() == [[42, 47, 52, 57]]
    assert Sampling("dense", frames=4, stride=5).test(8).tolist() == [[0, 5, 7, 7]]


def test_dense_training_clips_start_anywhere_that_they_fit():
    sampling, rng = Sampling("dense", frames=4, stride=5), np.random.default_rng(0)
    clips = np.concatenate([sampling.train(25, rng) for _ in range(900)])
    starts, counts = np.unique(clips[:, 0], return_counts=True)
    assert starts.tolist() == list(range(10))
    assert counts.min() > 60, "each a tenth of the time"
    assert (np.diff(clips, axis=1) == 5).all()


def test_training_takes_any_frame_of_each_segment():
    sampling, rng = Sampling("segment", frames=4), np.random.default_rng(0)
    clips = np.concatenate([sampling.train(40, rng) for _ in range(400)])
    for part, frames in enumerate(clips.T):
        assert np.unique(frames).tolist() == list(range(10 * part, 10 * part + 10))


def test_segments_are_sampled_at_their_middles():
    assert Sampling("segment", frames=4).test(40).tolist() == [[5, 15, 25, 35]]
    assert Sampling("segment", frames=4, clips=2).test(40).tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]


def test_cropping_before_resizing_shows_the_same_pixels():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), (0, 0), 3)
    crops = Crops(size=40, short_side=48, jitter=(48, 60), crops=3)
    views = np.stack(crops.test(frame[None]))
    resized = cv2.resize(frame, (72, 48), interpolation=cv2.INTER_LINEAR)
    for view, x in zip(views[:, 0], (0, 16, 32), strict=True):
        expected = resized[4:44, x : x + 40].astype(int)
        assert np.abs(view.astype(int) - expected).max() <= 2
    (centre,) = Crops(size=40, short_side=48, jitter=(48, 60)).test(frame[None])
    assert np.array_equal(centre, views[1])


def test_training_crops_mirror_move_and_change_their_scale():
    frames = np.arange(2 * 50 * 70 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 50, 70, 3)
    crops = [Crops(32, 36, (36, 40), flip=p) for p in (0.0, 1.0)]
    (plain, no), (mirror, yes) = (c.train(frames, np.random.default_rng(3)) for c in crops)
    assert (no, yes) == (False, True)
    forbidden, flipped = crops[1].train(frames, np.random.default_rng(3), may_flip=False)
    assert not flipped
    assert np.array_equal(forbidden, plain)
    assert np.abs(plain[:, :, ::-1].astype(int) - mirror.astype(int)).max() <= 1
    ramps = np.stack([*np.meshgrid(np.arange(70), np.arange(50)), np.zeros((50, 70))], -1)[None].astype(np.uint8)
    rng, seen = np.random.default_rng(0), []
    for _ in range(300):  # the ramps tell where a crop lies and how large it is
        crop, _ = crops[0].train(ramps, rng)
        x, y = crop[0, :, :, 0].astype(int), crop[0, :, :, 1].astype(int)
        seen.append((x[0, 0], y[0, 0], x[0, -1] - x[0, 0] + 1, y[-1, 0] - y[0, 0] + 1))
    left, top, width, height = np.array(seen).T
    assert (left.min(), top.min()) == (0, 0)
    assert (left + width).max() >= 69
    assert (top + height).max() >= 49
    assert abs(width - height).max() <= 1
    # 32 of a short side of 36 to 40, in pixels of 50: 40 to 44.4, less the half pixel of the crop at each end
    assert (width.min(), width.max()) == (39, 44)


def test_views_and_impossible_protocols():
    protocol = Protocol(Sampling("dense", 8, 2, clips=10), Crops(224, 256, (256, 320), crops=3))
    assert (protocol.views, protocol.view_text) == (30, "10×3")
    with pytest.raises(ValueError, match="a crop of 224 does not fit a short side of 200"):
        Crops(224, 200, (256, 320))
    with pytest.raises(ValueError, match="crops=2"):
        Crops(224, 256, (256, 320), crops=2)
    with pytest.raises(ValueError, match="'sparse' is neither"):
        Sampling("sparse", 8)
