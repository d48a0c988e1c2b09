"""X3D (Feichtenhofer, 2020): one stream of thin, deep, channel-wise 3D blocks. https://arxiv.org/abs/2004.04730

Blocks are mmaction2's ``BlockX3D``. Stem, stages and head follow PySlowFast
(``slowfast/models/video_model_builder.py``, ``head_helper.py``); parameter names of the backbone are
mmaction2's.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from autotsnet.registry import Knob, register_family
from baselines import upstream
from baselines.residual import init_weights, stage_widths

_CONV = {"conv_cfg": {"type": "Conv3d"}}
_NORM = {**_CONV, "norm_cfg": {"type": "BN3d"}}
SE_RATIO = 1 / 16  # of the inner channels, rounded to 8, in every other block


def make_stage(in_chs: int, out_chs: int, inner_chs: int, blocks: int, stride: int) -> nn.Sequential:
    """A stage: ``blocks`` residual blocks, the first of which strides in space; Swish in one pass over memory."""
    shortcut = None
    if stride != 1 or in_chs != out_chs:
        shortcut = upstream.ConvModule(
            in_chs, out_chs, 1, stride=(1, stride, stride), bias=False, act_cfg=None, **_NORM
        )
    stage = nn.Sequential(
        *(
            upstream.BlockX3D(
                in_chs if i == 0 else out_chs,
                inner_chs,
                out_chs,
                spatial_stride=stride if i == 0 else 1,
                downsample=shortcut if i == 0 else None,
                se_ratio=SE_RATIO if i % 2 == 0 else None,
            )
            for i in range(blocks)
        )
    )
    for block in stage:  # mmcv's Swish multiplies by a sigmoid, and keeps both for the backward pass
        if block.se_ratio is None:  # where nothing is between, the norm's module may do it, see ``quicken``
            block.conv2.with_activation, block.conv2.activate, block.swish = True, nn.SiLU(), nn.Identity()
        else:
            block.swish = nn.SiLU()
    return stage


class X3D(nn.Module):
    """Stem, four stages, projected pooling, classifier.

    Args:
        num_classes: N.
        width: channels of the stem and of the first stage; doubles at each stage.
        bottleneck: inner channels of a block are ``int(bottleneck * out_chs)``.
        blocks: residual blocks of each stage.
        strides: spatial stride of each stage; the stem has another 2.
        head_width: channels between pooling and classifier.
        dropout: probability of a dropout before the classifier.
    """

    head = ("lin5", "dropout", "fc")

    def __init__(
        self,
        num_classes: int,
        width: float,
        bottleneck: float,
        blocks: tuple[int, ...],
        strides: tuple[int, ...],
        head_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = stage_widths(width, len(blocks))
        stem = widths[0]
        # The authors factorise the stem's 5x3x3: spatial first, then temporal and channel-wise, no norm
        # between.
        self.conv1_s = upstream.ConvModule(
            3, stem, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False, act_cfg=None, **_CONV
        )
        self.conv1_t = upstream.ConvModule(stem, stem, (5, 1, 1), padding=(2, 0, 0), groups=stem, bias=False, **_NORM)
        in_chs = stem
        for i, (out_chs, n, stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
            inner_chs = int(bottleneck * out_chs)
            self.add_module(f"layer{i}", make_stage(in_chs, out_chs, inner_chs, n, stride))
            in_chs = out_chs
        self.num_stages = len(blocks)
        self.conv5 = upstream.ConvModule(in_chs, inner_chs, 1, bias=False, **_NORM)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.lin5 = nn.Conv3d(inner_chs, head_width, 1, bias=False)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(head_width, num_classes)
        init_weights(self, classifier_std=0.01, zero_init=(upstream.BlockX3D,))  # slowfast/utils/weight_init_helper.py

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T H/32 W/32``."""
        x = self.conv1_t(self.conv1_s(clips))  # B C T H/2 W/2
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.conv5(x)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = self.pool(self.features(clips))  # B C 1 1 1
        x = self.relu(self.lin5(x)).flatten(1)  # B head_width
        return self.fc(self.dropout(x))


@register_family(Knob("width", 4, 128, 0.125), Knob("bottleneck", 1.5, 3.0, 0.01))
def x3d(
    *,
    num_classes: int,
    frames: int = 16,
    crop: int = 224,
    width: float = 24,
    bottleneck: float = 2.25,
    blocks: tuple[int, ...] = (3, 5, 11, 7),
    strides: tuple[int, ...] = (2, 2, 2, 2),
    head_width: int = 2048,
    dropout: float = 0.5,
) -> nn.Module:
    """X3D; the defaults are X3D-M (width factor 2 of 12, depth factor 2.2, bottleneck factor 2.25).

    ::

        clip B 3 T H W -> 1x3x3, 5x1x1 -> 4 x stage -> 1x1x1 -> pool -> 1x1x1 -> linear -> logits B N

    Args:
        num_classes: N.
        frames: T; nothing in the net strides in time, any T will do.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        width: knob; channels of stem and first stage. Fractions are welcome, see ``stage_widths``.
        bottleneck: knob; inner over outer channels of a block.
        blocks: residual blocks of each stage.
        strides: spatial stride of each stage; the stem has another 2.
        head_width: channels between pooling and classifier.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.
    """
    return X3D(num_classes, width, bottleneck, tuple(blocks), tuple(strides), head_width, dropout)


# Frames and training crop of PySlowFast's configs/Kinetics/X3D_*.yaml; their 10-view test has the same crop.
VARIANTS = {
    "x3d_xs": (x3d, {"num_classes": 400, "frames": 4, "crop": 160}),
    "x3d_s": (x3d, {"num_classes": 400, "frames": 13, "crop": 160}),
    "x3d_m": (x3d, {"num_classes": 400, "frames": 16, "crop": 224}),
    "x3d_l": (x3d, {"num_classes": 400, "frames": 16, "crop": 312, "blocks": (5, 10, 25, 15)}),
}
