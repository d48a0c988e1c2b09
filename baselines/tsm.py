"""TSM (Lin et al., 2019): a 2D ResNet whose channels move along time. https://arxiv.org/abs/1811.08383

Residual blocks are mmaction2's 2D ``Bottleneck`` / ``BasicBlock`` / ``InvertedResidual``; widths, shift and
head follow the authors (``mit-han-lab/temporal-shift-module``: ``ops/temporal_shift.py``, ``ops/models.py``).
Parameter names of the backbone are mmaction2's.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from autotsnet.registry import Knob, register_family
from baselines import upstream
from baselines.residual import init_weights, stage_widths

RESNETS = {
    18: ("BasicBlock", (2, 2, 2, 2)),
    34: ("BasicBlock", (3, 4, 6, 3)),
    50: ("Bottleneck", (3, 4, 6, 3)),
    101: ("Bottleneck", (3, 4, 23, 3)),
}


def temporal_shift(x: Tensor, frames: int, shift_div: int = 8) -> Tensor:
    """Frame t takes its first C // shift_div channels from t+1 and the next as many from t-1; zeros at the ends.

    Args:
        x: features ``BT C H W``, frames of a clip next to each other.
        frames: T.
        shift_div: one in so many channels moves each way; with fewer channels, none moves.

    Returns:
        A new tensor ``BT C H W`` of the same memory format.
    """
    if has_torch_function_unary(x):  # features of several parts: each is shifted
        return handle_torch_function(temporal_shift, (x,), x, frames, shift_div)
    x = x.unflatten(0, (-1, frames))  # B T C H W
    fold = x.shape[2] // shift_div
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.flatten(0, 1)


class TemporalShift(nn.Module):
    """A layer that sees shifted features; ``net`` is the layer, ``frames`` the T of its clips."""

    def __init__(self, net: nn.Module, frames: int, shift_div: int = 8) -> None:
        super().__init__()
        self.net = net
        self.frames, self.shift_div = frames, shift_div

    def forward(self, x: Tensor) -> Tensor:
        """Features ``BT C H W`` through shift and layer."""
        return self.net(temporal_shift(x, self.frames, self.shift_div))


class FrameNet(nn.Module):
    """A 2D network over the frames of a clip: ``of_frames``, classifier per frame, mean over frames.

    Args:
        frames: T.
    """

    fixed_frames = True
    head = ("fc", "dropout")

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def add_head(self, in_chs: int, num_classes: int, dropout: float) -> None:
        """Put pooling and classifier after features of ``in_chs`` channels, and initialise the whole net."""
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_chs, num_classes)
        init_weights(self, classifier_std=0.001)

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T H/32 W/32``."""
        return self._features(clips).unflatten(0, (-1, self.frames)).transpose(1, 2)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = self.fc(self.dropout(self.pool(self._features(clips)).flatten(1)))  # BT N
        return x.unflatten(0, (-1, self.frames)).mean(1)

    def _features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``BT C H/32 W/32``.

        Raises:
            ValueError: the clips have another T than the net was built for.
        """
        if clips.shape[2] != self.frames:
            raise ValueError(f"TSM built for {self.frames} frames got clips of {clips.shape[2]}; pass frames= to build")
        return self.of_frames(clips.transpose(1, 2).flatten(0, 1))  # BT 3 H W; channels_last if the clips are


class TSM(FrameNet):
    """2D ResNet with shifts in front of the residual branches, classifier per frame, mean over frames.

    Args:
        num_classes: N.
        frames: T.
        base_channels: inner channels of the first stage; doubles at each stage.
        stem_channels: channels of the stem.
        depth: a ResNet of ``RESNETS``.
        blocks: residual blocks of each stage, in place of those of ``depth``.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        shift_div: see ``temporal_shift``.
        dropout: probability of a dropout before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        frames: int,
        base_channels: float,
        stem_channels: int,
        depth: int,
        blocks: tuple[int, ...] | None,
        strides: tuple[int, ...],
        shift_div: int,
        dropout: float,
    ) -> None:
        super().__init__(frames)
        block, depth_blocks = RESNETS[depth]
        block = getattr(upstream, block)
        blocks = blocks or depth_blocks
        layer = {
            "conv_cfg": {"type": "Conv"},
            "norm_cfg": {"type": "BN"},
            "act_cfg": {"type": "ReLU", "inplace": True},
        }
        self.conv1 = upstream.ConvModule(3, stem_channels, 7, stride=2, padding=3, bias=False, **layer)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        in_chs = stem_channels
        for i, (planes, n, stride) in enumerate(
            zip(stage_widths(base_channels, len(blocks)), blocks, strides, strict=True), 1
        ):
            self.add_module(f"layer{i}", upstream.make_res_layer(block, in_chs, planes, n, stride=stride, **layer))
            in_chs = planes * block.expansion
        self.num_stages = len(blocks)
        self._insert_shifts(shift_div, every=2 if max(blocks) >= 23 else 1)
        self.add_head(in_chs, num_classes, dropout)

    def _insert_shifts(self, shift_div: int, every: int) -> None:
        # The authors' "blockres" placement; in a ResNet-101 only every second block shifts.
        for i in range(1, self.num_stages + 1):
            for residual in getattr(self, f"layer{i}")[::every]:
                residual.conv1.conv = TemporalShift(residual.conv1.conv, self.frames, shift_div)

    def of_frames(self, x: Tensor) -> Tensor:
        """Frames ``BT 3 H W`` to features ``BT C H/32 W/32``."""
        x = self.maxpool(self.conv1(x))
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return x


class TSMMobileNetV2(FrameNet):
    """MobileNetV2 with shifts in front of the inverted residuals that have a skip, classifier per frame, mean.

    Args:
        num_classes: N.
        frames: T.
        width: factor on all channels, rounded to multiples of 8.
        shift_div: see ``temporal_shift``.
        dropout: probability of a dropout before the classifier.
    """

    def __init__(self, num_classes: int, frames: int, width: float, shift_div: int, dropout: float) -> None:
        super().__init__(frames)
        layer = {
            "conv_cfg": {"type": "Conv"},
            "norm_cfg": {"type": "BN"},
            "act_cfg": {"type": "ReLU6", "inplace": True},
        }
        in_chs = upstream.make_divisible(32 * width, 8)
        self.conv1 = upstream.ConvModule(3, in_chs, 3, stride=2, padding=1, bias=False, **layer)
        for i, (expansion, chs, n, stride) in enumerate(upstream.MobileNetV2.arch_settings, 1):
            out_chs = upstream.make_divisible(chs * width, 8)
            stage = nn.Sequential()
            for j in range(n):
                block = upstream.InvertedResidual(in_chs, out_chs, stride if j == 0 else 1, expansion, **layer)
                if block.use_res_connect and expansion > 1:
                    block.conv[0] = TemporalShift(block.conv[0], frames, shift_div)
                stage.append(block)
                in_chs = out_chs
            self.add_module(f"layer{i}", stage)
        self.num_stages = len(upstream.MobileNetV2.arch_settings)
        feature_chs = int(1280 * max(width, 1))
        self.conv2 = upstream.ConvModule(in_chs, feature_chs, 1, bias=False, **layer)
        self.add_head(feature_chs, num_classes, dropout)

    def of_frames(self, x: Tensor) -> Tensor:
        """Frames ``BT 3 H W`` to features ``BT C H/32 W/32``."""
        x = self.conv1(x)
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.conv2(x)


@register_family(Knob("base_channels", 4, 192, 0.125), Knob("stem_channels", 2, 192, 1))
def tsm(
    *,
    num_classes: int,
    frames: int = 8,
    crop: int = 224,
    base_channels: float = 64,
    stem_channels: int | None = None,
    depth: int = 50,
    blocks: tuple[int, ...] | None = None,
    strides: tuple[int, ...] = (1, 2, 2, 2),
    shift_div: int = 8,
    dropout: float = 0.5,
) -> nn.Module:
    """TSM; the defaults are TSM-R50 of 8 frames.

    ::

        clip B 3 T H W -> frames BT 3 H W -> 7x7, max-pool -> 4 x stage of shifted blocks -> pool -> linear
             -> mean over T -> logits B N

    The authors start from ImageNet weights. From scratch, the backbone is initialised as torchvision's ResNets, without
    zeros in the last norms: only the residual branches shift, and a net whose branches start at zero does not see time
    at first and learns motion much later. The classifier is the authors', N(0, 0.001).

    Args:
        num_classes: N.
        frames: T, fixed at building.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        base_channels: knob; inner channels of the first stage. Fractions are welcome, see ``stage_widths``.
        stem_channels: knob; channels of the stem, by default ``base_channels``.
        depth: 18, 34, 50 or 101.
        blocks: residual blocks of each stage, in place of those of ``depth``.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        shift_div: one in so many channels moves forward in time, and one backward.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.
    """
    if stem_channels is None:
        stem_channels = round(base_channels)
    blocks = tuple(blocks) if blocks else None
    return TSM(num_classes, frames, base_channels, stem_channels, depth, blocks, tuple(strides), shift_div, dropout)


@register_family(Knob("width", 0.1, 4, 0.01))
def tsm_mobilenetv2(
    *,
    num_classes: int,
    frames: int = 8,
    crop: int = 224,
    width: float = 1.0,
    shift_div: int = 8,
    dropout: float = 0.5,
) -> nn.Module:
    """TSM on MobileNetV2.

    Args:
        num_classes: N.
        frames: T, fixed at building.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        width: knob; factor on all channels, which stay multiples of 8: the cost moves in steps.
        shift_div: one in so many channels moves forward in time, and one backward.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.
    """
    return TSMMobileNetV2(num_classes, frames, width, shift_div, dropout)


# Crop of training and of the efficient (one view) test.
VARIANTS = {
    "tsm_r50_8f": (tsm, {"num_classes": 400, "frames": 8, "crop": 224}),
    "tsm_r50_16f": (tsm, {"num_classes": 400, "frames": 16, "crop": 224}),
    "tsm_mobilenetv2_8f": (tsm_mobilenetv2, {"num_classes": 400, "frames": 8, "crop": 224}),
    "tsm_r50_8f_ssv2": (tsm, {"num_classes": 174, "frames": 8, "crop": 224}),
    "tsm_r50_16f_ssv2": (tsm, {"num_classes": 174, "frames": 16, "crop": 224}),
    "tsm_r101_8f_ssv2": (tsm, {"num_classes": 174, "frames": 8, "crop": 224, "depth": 101}),
}
