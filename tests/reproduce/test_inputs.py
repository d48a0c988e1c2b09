"""Named inputs: a user's family of RGB frames and their differences goes the whole way, no file of ours edited."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autotsnet.inputs import INPUTS, example, made, register_input
from autotsnet.registry import FAMILIES, MODELS, family, register_family
from reproduce.data.datasets import TestVideos, TrainClips
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.rebuild import trained
from reproduce.evidence.temporal import reordered
from reproduce.export import _session, export_run
from reproduce.measure.macs import count
from reproduce.run import execute
from reproduce.spec import RunSpec
from reproduce.user_model import OwnModelError, own_entry

BOTH = ("rgb", "difference")
SIZE = dict(frames=8, crop=32)
FILE = """
import numpy as np
import torch
from torch import nn

from autotsnet.inputs import register_input
from autotsnet.registry import Knob, register_family


@register_input("difference", channels=1)
def difference(clip):
    grey = clip.mean(-1, keepdims=True)
    return (127.5 + np.diff(grey, axis=0, prepend=grey[:1]) / 2).astype(np.uint8)


@register_family(Knob("width", 4, 256, 1), inputs=("rgb", "difference"))
class TwoInputs(nn.Module):
    def __init__(self, *, num_classes, frames, crop, width=8):
        super().__init__()
        self.rgb = nn.Conv3d(3, width, 3, (1, 4, 4), 1)
        self.motion = nn.Conv3d(1, width, 3, (1, 4, 4), 1)
        self.norm = nn.BatchNorm3d(2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, rgb, difference):
        both = torch.cat([self.rgb(rgb), self.motion(difference)], 1)
        return self.head(self.norm(both).relu().mean((2, 3, 4)))
"""


@pytest.fixture(scope="module")
def entry(tiny, tmp_path_factory):
    """The family as an entry of the tiny suite; other tests find the families and inputs that they expect."""
    path = tmp_path_factory.mktemp("mine") / "two_inputs.py"
    path.write_text(FILE)
    yield own_entry(path, tiny[0])
    del FAMILIES["TwoInputs"], MODELS.module_dict["TwoInputs"], INPUTS["difference"]


class Seen(nn.Module):
    """Keeps the clips that it is called with; logits of two classes."""

    inputs = BOTH

    def __init__(self):
        super().__init__()
        self.clips = defaultdict(list)

    def forward(self, rgb, difference):
        self.clips["rgb"].append(rgb)
        self.clips["difference"].append(difference)
        return rgb.mean((2, 3, 4))[:, :2]


def test_it_is_counted_and_solved_by_all_its_inputs(tiny, entry):
    found, solution = family("TwoInputs"), tiny[0].solution(entry)
    assert [tuple(clip.shape) for clip in found.example(**SIZE, batch=2)] == [(2, 3, 8, 32, 32), (2, 1, 8, 32, 32)]
    counted = count(lambda: found.build(num_classes=4, **SIZE, **solution.kwargs), **SIZE)
    width = solution.kwargs["width"]
    assert counted.macs == width * 27 * (3 + 1) * 8 * 8 * 8 + 2 * width * 4
    assert counted.gmacs == solution.gmacs
    assert solution.matched
    assert "1x3x8x32x32 and 1x1x8x32x32" in counted.table()


def test_it_is_trained_tested_timed_and_exported(tiny, entry, tmp_path):
    suite, train, test = tiny
    spec = RunSpec.of(suite, entry, 0, train, test)
    assert "inputs" not in spec.model_dump_json(exclude={"source"})
    short = spec.recipe | dict(epochs=2 * spec.recipe["batch"] / len(train.videos), precise_bn=1)  # two steps
    spec = spec.model_copy(update=dict(recipe=short))
    record = execute(suite, entry, spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert record.training.steps == 2
    assert record.result.n == len(test.videos)
    assert record.throughput.clips_per_s > 0
    folder = spec.folder(tmp_path / "runs")
    done, net = export_run(folder, trust=True), trained(spec, folder).net
    assert done.shape == "B×3×T×32×32 and B×1×T×32×32"
    clips = example(BOTH, 11, 32, batch=5, device="cpu")
    with torch.no_grad():
        expected = net(*clips)
        assert not torch.allclose(expected, net(clips[0], -clips[1]), atol=1e-4), "both matter"
    torch.testing.assert_close(torch.export.load(done.program).module()(*clips), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(_session(done.graph)(*clips), expected, atol=1e-4, rtol=0)


def test_inputs_are_made_of_the_same_crop_and_flip_and_rgb_stays_what_it_is(tiny, entry):
    suite, train, test = tiny
    protocol = replace(suite.protocol, crops=replace(suite.protocol.crops, flip=0.5))
    for videos in (
        lambda inputs: TrainClips(train, protocol, seed=0, inputs=inputs),
        lambda inputs: TestVideos(test, protocol, inputs=inputs),
    ):
        for n in range(4):
            rgb, both = videos(("rgb",))[n]["clips"], videos(BOTH)[n]["clips"]
            assert both.dtype == torch.uint8
            assert both[..., :3].equal(rgb)
            for clip, difference in zip(rgb.numpy(), both[..., 3:].numpy(), strict=True):
                assert np.array_equal(difference, INPUTS["difference"].make(clip))
            assert both[..., 3:].float().std() > 0.5
            assert videos(("difference",))[n]["clips"].equal(both[..., 3:])


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_gets_a_normalised_clip_for_each(entry, channels_last):
    model = VideoClassifier(Seen(), channels_last=channels_last)
    clips = torch.randint(256, (2, 3, 4, 8, 8, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert model(clips).shape == (6, 2)
    order = torch.channels_last_3d if channels_last else torch.contiguous_format
    for name, channels in (("rgb", slice(3)), ("difference", slice(3, 4))):
        (seen,) = model.net.clips[name]
        expected = (clips[..., channels].flatten(0, 1).movedim(-1, 1).float() - model.mean) / model.std
        torch.testing.assert_close(seen, expected)
        assert seen.is_contiguous(memory_format=order)


def test_frames_in_another_order_have_other_differences(tiny, entry):
    suite, _, test = tiny
    model = VideoClassifier(Seen()).eval()
    reordered(model, test.subset(test.videos[:1]), suite.protocol)
    natural, _, backwards, frozen, *_ = model.net.clips["difference"]
    assert frozen.unique().numel() == 1, "nothing moves in a frozen clip"
    assert natural.unique().numel() > 10
    assert not natural[:, :, 1:].flip(2).equal(backwards[:, :, 1:])  # what came is what goes: of the other sign
    still = frozen.flatten()[0]
    torch.testing.assert_close(natural[:, :, 1:].flip(2) - still, still - backwards[:, :, 1:], atol=0.03, rtol=0)


def test_what_is_wrong_is_said_in_one_line(entry, tmp_path, tiny):
    message = r"^unknown input 'flow'; known: difference, rgb; see register_input$"
    with pytest.raises(ValueError, match=message):
        register_family(inputs=("rgb", "flow"))(Seen)
    net = Seen()
    net.inputs = ("flow",)
    for use in (lambda: count(net, **SIZE), lambda: VideoClassifier(net)):
        with pytest.raises(ValueError, match=message):
            use()
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace('"rgb", "difference")', '"rgb", "flow")'))
    with pytest.raises(OwnModelError, match=r"mine\.py cannot be imported: .*unknown input 'flow'; known: "):
        own_entry(path, tiny[0])
    for taken in BOTH:
        with pytest.raises(ValueError, match=rf"^input '{taken}' is registered already; choose another name$"):
            register_input(taken, channels=3)(np.copy)
    INPUTS["broken"] = replace(INPUTS["difference"], name="broken", make=lambda clip: clip / 2)
    try:
        with pytest.raises(ValueError, match=r"^input 'broken' is float64 \(8, 4, 4, 3\), .* uint8 \(8, 4, 4, 1\);"):
            made(np.zeros((2, 8, 4, 4, 3), np.uint8), ("rgb", "broken"))
    finally:
        del INPUTS["broken"]


def test_a_class_may_name_its_inputs_itself(entry):
    register_family()(Seen)
    try:
        assert family("Seen").inputs == BOTH
    finally:
        del FAMILIES["Seen"], MODELS.module_dict["Seen"]
