"""Forward passes beside the peers' own networks, and videos to views."""

import pytest
import torch

from reproduce.data.datasets import TestVideos
from reproduce.evidence.bench import subjects
from reproduce.measure.throughput import Mode
from reproduce.suites import SUITES

SUITE = SUITES["kinetics-tiny"]


@pytest.mark.parametrize(
    "subject", subjects(["x3d_s", "slow_4x16_r50", "tsm_mobilenetv2_8f"]), ids=lambda s: f"{s.name}-{s.source}"
)
def test_forward_pass(benchmark, subject):
    benchmark.group = f"forward pass of {subject.name}, one clip"
    net = Mode().prepared(subject.build(**subject.arguments))
    clips = Mode().clips(net, *subject.size, batch=1)
    with torch.inference_mode():
        benchmark.pedantic(net, args=clips, rounds=10, warmup_rounds=2)


def test_views_of_all_test_videos(benchmark, cache):
    videos = TestVideos(SUITE.manifest("val", SUITE.data_root(cache)), SUITE.protocol)
    out = benchmark.pedantic(lambda: [videos[n] for n in range(len(videos))], rounds=5, warmup_rounds=1)
    assert not any(item["error"] for item in out)
