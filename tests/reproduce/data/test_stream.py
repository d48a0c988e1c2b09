"""The stream of training clips: another order and other crops each epoch, dealt to the ranks without overlap."""

import numpy as np
import pytest
import torch

from reproduce.data import frames
from reproduce.data.datasets import StreamSampler, TrainClips
from reproduce.data.manifest import Manifest, Video
from reproduce.protocol import Crops, Protocol, Sampling

VIDEOS = tuple(Video(f"v{i:02d}", f"v{i:02d}.mp4", i % 4) for i in range(20))
PROTOCOL = Protocol(Sampling("dense", 2, 1), Crops(8, 8, (8, 12)))


@pytest.fixture
def stream(tmp_path, monkeypatch) -> TrainClips:
    """Of twenty videos whose frames are all of the video's number, but for a ramp that shows the crop."""

    def decode(path, pick, decoder=""):
        ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, None, :, None], (30, 24, 40, 3)).copy()
        ramp[..., 1] = int(path.stem[1:])
        return ramp, pick(30), 30

    monkeypatch.setattr(frames, "decode_distinct", decode)
    return TrainClips(Manifest("d", "train", tmp_path, ("a", "b", "c", "d"), VIDEOS), PROTOCOL, seed=3)


def numbers(stream: TrainClips, epoch: int) -> list[int]:
    """Of the videos of an epoch, in its order."""
    return [int(stream[epoch * 20 + i]["clips"][0, 0, 0, 0, 1]) for i in range(20)]


def test_every_epoch_has_all_videos_in_an_order_of_its_own(stream):
    first, second = numbers(stream, 0), numbers(stream, 1)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert first != sorted(first)
    assert numbers(stream, 0) == first, "whatever was read before"
    other = TrainClips(stream.manifest, PROTOCOL, seed=4)
    assert numbers(other, 0) != first


def test_a_video_is_cropped_anew_each_epoch(stream):
    crops = [{}, {}]
    for epoch in (0, 1):
        for i in range(20):
            clip = stream[epoch * 20 + i]["clips"][0, 0]
            crops[epoch][int(clip[0, 0, 1])] = clip[..., 0]
    again = sum(torch.equal(crops[0][n], crops[1][n]) for n in range(20))
    assert again <= 1


def test_places_are_drawn_anew_at_every_place_of_the_stream(stream):
    """Item n of an epoch and item n of the next are cropped apart, whatever videos they are."""
    same = [torch.equal(stream[i]["clips"][..., 0], stream[20 + i]["clips"][..., 0]) for i in range(20)]
    assert sum(same) <= 1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_a_step_and_nothing_is_dealt_twice(world):
    samplers = [StreamSampler(None, 8 // world, 5, rank, world) for rank in range(world)]
    dealt = [list(s) for s in samplers]
    part = 8 // world
    for step in range(5):
        mine = [place for places in dealt for place in places[step * part : (step + 1) * part]]
        assert mine == list(range(step * 8, step * 8 + 8))
    for sampler in samplers:
        sampler.step = 3
        assert len(sampler) == 2 * part
    assert [place for s in samplers for place in s][:part] == list(range(24, 24 + part))
