"""What single frames tell: a probe that picks one frame of a clip and answers by it alone.

After ATP (Buch et al., CVPR 2022; StanfordVL/atp-video-language): features of frames, in no order, pass a small
transformer, which picks one; the answer comes from that frame's feature. ATP's features are those of a strong image
network; these are the tested network's own, of clips that show one frame over and over. So the probe bounds from below
what image understanding can do on these videos. The width of the answer's layer and the training are ours.

Symbols: N clips, T frames, D features, C classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from autotsnet.inputs import example, made
from reproduce.data.datasets import TestVideos
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.retune import Listener
from reproduce.progress import Progress
from reproduce.protocol import Protocol

EPOCHS, BATCH, LR = 30, 64, 1e-3  # of AdamW, by half a cosine to zero


class AtemporalProbe(nn.Module):
    """Features N T D of frames to logits N C, by one frame; equal for any order of the frames.

    Args:
        features: D.
        classes: C.
        width: of the transformer: 2 layers, 2 heads, as ATP's.
    """

    def __init__(self, features: int, classes: int, width: int = 128) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, 2, width, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.score = nn.Linear(width, 1)
        self.answer = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """In training the choice is drawn (Gumbel-softmax, straight through), in a test it is the best."""
        scores = self.score(self.encoder(self.enter(x)))[..., 0]  # N T
        if self.training:
            chosen = F.gumbel_softmax(scores, hard=True)
        else:
            chosen = F.one_hot(scores.argmax(1), x.shape[1]).to(x.dtype)
        return self.answer((chosen[..., None] * x).sum(1))


@torch.no_grad()
def frame_features(
    model: VideoClassifier, manifest: Manifest, protocol: Protocol, classes: int, batch_size: int, what: str
) -> tuple[Tensor, Tensor, list[str]]:
    """Features N T D of the frames of each video's first test clip, labels N, and ids, of those that can be read."""
    device = next(model.net.parameters()).device
    frames = protocol.sampling.frames
    listen = Listener(model, classes, example(model.inputs, frames, protocol.crops.test_size, 2, device))
    rows, label, ids = [], [], []
    with Progress(f"frames, {what}", len(manifest.videos)) as progress:
        for batch in DataLoader(TestVideos(manifest, protocol), batch_size):
            there = [i for i, error in enumerate(batch["error"]) if not error]
            progress.step(len(batch["id"]))
            if not there:
                continue
            clips = batch["clips"][there, 0].numpy()  # B T H W 3
            frozen = np.stack([[made(clip[[t] * frames], model.inputs) for t in range(frames)] for clip in clips])
            rows.append(listen(torch.from_numpy(frozen).to(device)).cpu())  # a frame is a view
            label.append(batch["label"][there])
            ids += [batch["id"][i] for i in there]
    return torch.cat(rows), torch.cat(label), ids


def fit(x: Tensor, label: Tensor, classes: int, seed: int, epochs: int = EPOCHS) -> AtemporalProbe:
    """Train a probe on features N T D and labels N; a function of the seed."""
    torch.manual_seed(seed)
    net, rng = AtemporalProbe(x.shape[-1], classes), np.random.default_rng(seed)
    adam = torch.optim.AdamW(net.parameters(), LR)
    steps = math.ceil(epochs * len(x) / BATCH)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        mine = torch.from_numpy(rng.integers(len(x), size=BATCH))
        adam.zero_grad()
        F.cross_entropy(net(x[mine]), label[mine]).backward()
        adam.step()
        rate.step()
    return net.eval()


def probe(
    model: VideoClassifier,
    train: Manifest,
    test: Manifest,
    protocol: Protocol,
    classes: int,
    seed: int,
    batch_size: int = 8,
) -> dict[str, int]:
    """Train a probe on the frames of training videos; its answers on the test videos that can be read, by id.

    Args:
        model: trained, in eval mode.
        train: training videos.
        test: test videos.
        protocol: sampling and crops.
        classes: C.
        seed: of the probe.
        batch_size: videos at once.
    """
    x, label, _ = frame_features(model, train, protocol, classes, batch_size, "train")
    middle, spread = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    net = fit((x - middle) / spread, label, classes, seed)
    y, _, ids = frame_features(model, test, protocol, classes, batch_size, "test")
    with torch.no_grad():
        return dict(zip(ids, net((y - middle) / spread).argmax(1).tolist(), strict=True))
