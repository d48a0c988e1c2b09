"""The mmengine model around a plain network: normalise, loss, views averaged."""

from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.inputs import channels, inputs_of
from autotsnet.registry import MODELS

VIEWS = 32  # views in flight at test: 30 views of a video of 16 × 224² are 0.3 GB of pixels, and far more activations
PIXELS = 2**20  # the same on a CPU, 16 × 256² of them: activations that stay in the caches, and in the process


@MODELS.register_module()
class VideoClassifier(BaseModel):
    """A network from clips B C T H W, one per input, to logits B N, trained and tested by mmengine's Runner.

    Args:
        net: the network, or its config.
        mean: of the pixel values in 0..255, one for all channels (SlowFast, X3D: 0.45).
        std: of the same (0.225).
        label_smoothing: of the cross entropy.
        channels_last: keep activations in channels-last order; 5-9× faster depthwise convolution on CPUs.
    """

    def __init__(
        self,
        net: nn.Module | dict,
        mean: float = 0.45 * 255,
        std: float = 0.225 * 255,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__(dict(type=BaseDataPreprocessor, non_blocking=True))  # from pinned memory, beside the last step
        self.net = MODELS.build(net) if isinstance(net, dict) else net
        self.inputs = inputs_of(self.net)
        self.channels = channels(self.inputs)
        self.mean, self.std, self.label_smoothing = mean, std, label_smoothing
        self.channels_last = channels_last
        if channels_last:
            for p in self.net.parameters():
                if p.dim() == 5:
                    p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
                elif p.dim() == 4:
                    p.data = p.data.contiguous(memory_format=torch.channels_last)

    def prepare(self, clips: Tensor) -> list[Tensor]:
        """uint8 V T H W C -> float V C T H W for each input, in channels-last order unless switched off."""
        order = torch.preserve_format if self.channels_last else torch.contiguous_format
        parts = clips.permute(0, 4, 1, 2, 3).split(self.channels, 1)
        return [(x.float(memory_format=order) - self.mean) / self.std for x in parts]

    @staticmethod
    def views_at_once(clips: Tensor) -> int:
        """How many views of B V T H W C pass the network together where nothing is learnt from them."""
        return VIEWS if clips.is_cuda else max(1, min(VIEWS, PIXELS // clips.shape[2:5].numel()))

    def forward(
        self, clips: Tensor, label: Tensor | None = None, mode: str = "tensor", architecture=None, **info
    ) -> object:
        """Logits (``tensor``), losses (``loss``), or one dict per video with its mean ``scores`` (``predict``).

        Args:
            clips: uint8 B V T H W C, the inputs side by side.
            label: B.
            mode: one of the three.
            architecture: which subnet, where the network is a supernet.
            info: whatever else the data set says of each video; returned by ``predict``.
        """
        parts = clips.flatten(0, 1).split(self.views_at_once(clips) if mode == "predict" else clips.shape[:2].numel())
        fixed = () if architecture is None else (architecture,)
        logits = torch.cat([self.net(*self.prepare(part), *fixed) for part in parts])
        if logits.dim() != 2 or logits.shape[0] != clips.shape[0] * clips.shape[1]:
            expected = f"({clips.shape[0] * clips.shape[1]}, classes)"
            raise ValueError(
                f"{type(self.net).__name__} returned logits of shape {tuple(logits.shape)}, not {expected}"
            )
        if mode == "tensor":
            return logits
        if mode == "loss":
            loss = F.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)
            return dict(loss=loss, top1=(logits.argmax(1) == label).float().mean())
        scores = logits.float().softmax(1).unflatten(0, clips.shape[:2]).mean(1).cpu()
        columns = dict(scores=scores, label=label.cpu(), **info)
        return [{k: v[i] for k, v in columns.items()} for i in range(len(clips))]
