"""GloRe's 3D networks (Chen et al., 2019): a lite pre-activation ResNet with reasoning units in its middle.

Structure and initialisation follow ``facebookresearch/GloRe``: ``network/resnet{50,101}_3d_gcn_x5.py``,
``network/initializer.py``. Their weights start from an inflated 2D network, ours from scratch.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from autotsnet.registry import Knob, register_family
from baselines.residual import stage_widths
from baselines.transforms.glore import GloReUnit

EXPANSION = 4
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
UNITS = {50: ((), (1, 3), (1, 3, 5), ()), 101: ((), (1, 3), (6, 12, 18), ())}  # blocks before a unit, the first is 1


def norm_act_conv(in_chs: int, out_chs: int, kernel: tuple[int, int, int], stride: tuple[int, ...]) -> nn.Sequential:
    """Batch norm, ReLU, convolution with "same" padding."""
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(in_chs, out_chs, kernel, stride, padding, bias=False)
    return nn.Sequential(nn.BatchNorm3d(in_chs, eps=1e-4), nn.ReLU(inplace=True), conv)


class PreActivationBlock(nn.Module):
    """Bottleneck whose norms and ReLUs are before its convolutions.

    Args:
        in_chs: of the input.
        inner: channels between reduction and expansion.
        stride: (t, h, w).
        temporal: the first convolution has a temporal kernel of 3.
        shortcut: project the input, by a norm of its own.
    """

    def __init__(self, in_chs: int, inner: int, stride: tuple[int, int, int], temporal: bool, shortcut: bool) -> None:
        super().__init__()
        out_chs, still = EXPANSION * inner, (1, 1, 1)
        self.residual = nn.Sequential(
            norm_act_conv(in_chs, inner, (3 if temporal else 1, 1, 1), still),
            norm_act_conv(inner, inner, (1, 3, 3), stride),
            norm_act_conv(inner, out_chs, still, still),
        )
        self.shortcut = norm_act_conv(in_chs, out_chs, still, stride) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B 4·inner T/s H/s W/s."""
        return self.residual(x) + self.shortcut(x)


class GloReNet(nn.Module):
    """Stem, stages of blocks and units, classifier.

    Args:
        num_classes: N.
        channels: inner channels of the first stage; doubles at each stage.
        blocks: residual blocks of each of the four stages.
        units: of each stage, the blocks that a unit follows; the first block is 1.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        normalize: see ``GloReUnit``.
        dropout: probability of a dropout before the classifier.
    """

    fixed_frames = True
    head = ("fc", "dropout")

    def __init__(
        self,
        num_classes: int,
        channels: float,
        blocks: tuple[int, ...],
        units: tuple[tuple[int, ...], ...],
        strides: tuple[int, ...],
        normalize: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        in_chs = max(1, round(channels / 2))
        self.stem = nn.Sequential(
            nn.Conv3d(3, in_chs, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False),
            nn.BatchNorm3d(in_chs, eps=1e-4),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        stages = zip(stage_widths(channels), blocks, units, strides, strict=True)
        for stage, (inner, number, followed, stride) in enumerate(stages, 1):
            layers = []
            for i in range(1, number + 1):
                # All blocks of the first stage are temporal, every second one of the next two, and one of the last.
                temporal = (True, i % 2 == 1, i % 2 == 1, i == 2)[stage - 1]
                strided = (2 if stage == 2 else 1, stride, stride) if i == 1 else (1, 1, 1)
                layers.append(PreActivationBlock(in_chs, inner, strided, temporal, shortcut=i == 1))
                in_chs = EXPANSION * inner
                if i in followed:
                    layers.append(GloReUnit(in_chs, normalize=normalize))
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.tail = nn.Sequential(nn.BatchNorm3d(in_chs, eps=1e-4), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_chs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.fc.bias)

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T/2 H/32 W/32``."""
        return self.tail(self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips))))))

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        return self.fc(self.dropout(self.pool(self.features(clips)).flatten(1)))


@register_family(Knob("channels", 4, 160, 0.125))
def glore(
    *,
    num_classes: int,
    frames: int = 8,
    crop: int = 224,
    channels: float = 64,
    depth: int = 50,
    blocks: tuple[int, ...] | None = None,
    units: tuple[tuple[int, ...], ...] | None = None,
    strides: tuple[int, ...] = (1, 2, 2, 2),
    normalize: bool = False,
    dropout: float = 0.5,
) -> nn.Module:
    """GloRe's 3D network; the defaults are R50 with five units.

    ::

        clip B 3 T H W -> 3x5x5, max-pool -> stage -> stage + units, T/2 -> stage + units -> stage -> pool -> linear
             -> logits B N

    Args:
        num_classes: N.
        frames: T; the second stage halves it.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        channels: knob; inner channels of the first stage. Fractions are welcome, see ``stage_widths``.
        depth: 50 or 101.
        blocks: residual blocks of each of the four stages, in place of those of ``depth``.
        units: of each stage, the blocks that a unit follows, in place of those of ``depth``; the first block is 1.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        normalize: see ``GloReUnit``.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.
    """
    blocks, units = tuple(blocks or BLOCKS[depth]), tuple(map(tuple, UNITS[depth] if units is None else units))
    return GloReNet(num_classes, channels, blocks, units, tuple(strides), normalize, dropout)


VARIANTS = {
    "glore_r50_8f": (glore, {"num_classes": 400, "frames": 8, "crop": 224}),
    "glore_r101_8f": (glore, {"num_classes": 400, "frames": 8, "crop": 224, "depth": 101}),
}
