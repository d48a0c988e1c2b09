"""The model around a network: pixels, losses, and the mean over the views of a video."""

import pytest
import torch
from torch import nn

from reproduce.engine import classifier
from reproduce.engine.classifier import VideoClassifier

CLIPS = torch.randint(0, 256, (3, 5, 2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([1, 0, 2])


class Tones(nn.Module):
    """Logits that differ from view to view: the mean of each colour."""

    calls = 0

    def forward(self, clip):
        self.calls += 1
        return 3 * clip.mean((2, 3, 4))


def views() -> torch.Tensor:
    """Probabilities by hand, videos x views x classes."""
    pixels = (CLIPS.float() - 0.45 * 255) / (0.225 * 255)
    return (3 * pixels.mean((2, 3, 4))).softmax(-1)


@pytest.mark.parametrize("at_once", [1, 4, 32])
def test_scores_of_a_video_are_the_mean_over_all_its_views(monkeypatch, at_once):
    monkeypatch.setattr(classifier, "VIEWS", at_once)
    model = VideoClassifier(Tones())
    rows = model(CLIPS, LABEL, mode="predict", id=["a", "b", "c"])
    assert model.net.calls == -(-15 // at_once)
    torch.testing.assert_close(torch.stack([row["scores"] for row in rows]), views().mean(1))
    assert [(row["id"], row["label"].item()) for row in rows] == [("a", 1), ("b", 0), ("c", 2)]
    assert (views().mean(1) - views()[:, 0]).abs().min() > 1e-3, "one view would say something else"


def test_the_loss_is_the_smoothed_cross_entropy_of_each_view():
    one = CLIPS[:, :1]
    p = views()[:, 0]
    target = torch.full((3, 3), 0.3 / 3).scatter(1, LABEL[:, None], 1 - 0.3 + 0.3 / 3)
    out = VideoClassifier(Tones(), label_smoothing=0.3)(one, LABEL, mode="loss")
    torch.testing.assert_close(out["loss"], -(target * p.log()).sum(1).mean())
    torch.testing.assert_close(out["top1"], (p.argmax(1) == LABEL).float().mean())


def test_clips_are_copied_to_a_gpu_while_it_is_at_work():
    calls = []

    class Clips(torch.Tensor):
        def to(self, *args, **kwargs):
            calls.append(kwargs)
            return super().to(*args, **kwargs)

    model = VideoClassifier(Tones())
    model.data_preprocessor(dict(clips=CLIPS.as_subclass(Clips), id=["a", "b", "c"]), True)
    assert calls == [dict(non_blocking=True)]
