"""The study of decoding in small: equal views are equal, and so are their logits."""

import numpy as np
import pytest
import torch
from mmaction.utils import register_all_modules
from mmengine.dataset import Compose

from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.studies import decoding


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One generated video of Kinetics' size."""
    return decoding.make("h264 340x256", tmp_path_factory.mktemp("videos"), 1)[0]


def test_views_are_those_of_mmaction2(path):
    register_all_modules(init_default_scope=True)
    theirs = Compose(decoding.TEST)(dict(filename=str(path), label=0, start_index=0, modality="RGB"))["inputs"]
    ours = TestVideos(decoding.manifest([path]), decoding.PROTOCOL)[0]["clips"].permute(0, 4, 1, 2, 3)
    assert ours.shape == theirs.shape == (30, 3, 16, 256, 256)
    assert torch.equal(ours, theirs[decoding.ORDER])


@pytest.mark.slow
def test_equal_views_give_equal_logits(path):
    register_all_modules(init_default_scope=True)
    out = decoding.thirty_views(path, 1, depth=0.5, decoder="pyav")
    assert out["largest_difference_of_logits"] < 1e-4


def test_ratios_are_of_the_last_side_to_the_others():
    out = decoding.ratios({"ours": lambda: None, "theirs": lambda: sum(range(100_000))}, 3)
    assert out["ours, processor"][1] > 1
    assert out["rounds"] == 3


@pytest.mark.parametrize("kind", ["train", "test"])
def test_the_limit_decodes_the_frames_of_the_same_clips(path, kind):
    videos = decoding.manifest([path])
    arguments = (videos, decoding.PROTOCOL)
    items = TrainClips(*arguments, seed=0) if kind == "train" else TestVideos(*arguments)
    seen, distinct = [], items.frames.distinct
    items.frames.distinct = lambda *of: seen.append(distinct(*of)) or seen[0]
    items[0]
    items.frames = asked = decoding.Asked(videos)
    items[0]
    (job,) = asked.jobs
    assert np.array_equal(seen[0][0], [frame.to_ndarray(format="rgb24") for frame in decoding.bare(*job)])
