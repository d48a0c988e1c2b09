"""One supernet step with one sample against one training step of the same static model."""

import numpy as np
import pytest
import torch

from autotsnet.models import SuperNet, TwoStreamNet
from autotsnet.spaces import preset

SPACE = preset("tiny")


def step(model, forward, labels):
    """Forward, backward, update."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)

    def run():
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(forward(), labels).backward()
        optimiser.step()

    return run


@pytest.mark.parametrize("kind", ["static", "supernet"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_step(benchmark, kind, seed):
    benchmark.group = f"training step of random architecture {seed}, batch 16"
    torch.manual_seed(0)
    architecture = SPACE.decode(SPACE.sample(1, np.random.default_rng(seed))[0])
    macro = SPACE.macro
    clip = torch.randn(16, 3, macro.frames, macro.crop, macro.crop).to(memory_format=torch.channels_last_3d)
    labels = torch.arange(16) % 8
    if kind == "static":
        net = TwoStreamNet(architecture, 8).train().to(memory_format=torch.channels_last_3d)
        run = step(net, lambda: net(clip), labels)
    else:
        net = SuperNet(SPACE, 8).train()
        inner = step(net, lambda: net(clip, architecture), labels)

        def run():
            net._skeletons.clear()  # in a search nearly every sample is an architecture not seen before
            inner()

    run()
    benchmark.pedantic(run, rounds=10, warmup_rounds=2)
