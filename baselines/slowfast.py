"""SlowFast (Feichtenhofer et al., 2019): a wide slow and a thin fast pathway. https://arxiv.org/abs/1812.03982

Residual stages are mmaction2's. Its backbone differs from the authors' in three ways, which are not followed
here: lateral connections without norm and ReLU, slow frames by nearest interpolation (so without the last
frame), lateral widths tied to ``slow // ratio``. Here these three follow PySlowFast
(``slowfast/models/video_model_builder.py``, ``slowfast/datasets/utils.py``). The first two are arguments, for
mmaction2's own checkpoints. Parameter names of the pathways are mmaction2's.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotsnet.models.two_stream import slow_frames
from autotsnet.registry import Knob, register_family
from baselines import upstream
from baselines.residual import init_weights, stage_widths

LATERAL_RATIO = 2  # channels that a lateral connection delivers, over those of the fast pathway
_LAYER = {
    "conv_cfg": {"type": "Conv3d"},
    "norm_cfg": {"type": "BN3d"},
    "act_cfg": {"type": "ReLU", "inplace": True},
}
_BARE = {"conv_cfg": {"type": "Conv3d"}, "act_cfg": None}


class Pathway(nn.Module):
    """Stem and residual stages of one pathway.

    Args:
        depth: of the ResNet: 18, 34, 50 or 101.
        blocks: residual blocks of each stage.
        strides: spatial stride of each stage.
        channels: inner channels of the first stage; doubles at each stage.
        lateral_chs: channels that join the input of each stage.
        stem_kernel_t: temporal kernel of the stem.
        temporal_blocks: leading blocks of each stage with a temporal kernel of 3; the others have 1.
    """

    def __init__(
        self,
        depth: int,
        blocks: tuple[int, ...],
        strides: tuple[int, ...],
        channels: float,
        lateral_chs: list[int],
        stem_kernel_t: int,
        temporal_blocks: tuple[int, ...],
    ) -> None:
        super().__init__()
        block, _ = upstream.ResNet3d.arch_settings[depth]
        widths = stage_widths(channels, len(blocks))
        self.conv1 = upstream.ConvModule(
            3,
            widths[0],
            (stem_kernel_t, 7, 7),
            stride=(1, 2, 2),
            padding=(stem_kernel_t // 2, 3, 3),
            bias=False,
            **_LAYER,
        )
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.out_chs = [widths[0]]  # of the stem and of each stage
        for i, (planes, n) in enumerate(zip(widths, blocks, strict=True)):
            inflate = tuple(int(j < temporal_blocks[i]) for j in range(n))
            stage = upstream.ResNet3d.make_res_layer(
                block,
                self.out_chs[-1] + lateral_chs[i],
                planes,
                n,
                spatial_stride=strides[i],
                inflate=inflate,
                **_LAYER,
            )
            self.add_module(f"layer{i + 1}", stage)
            self.out_chs.append(planes * block.expansion)


class SlowFast(nn.Module):
    """Two pathways, lateral connections from fast to slow, one classifier.

    Args:
        num_classes: N.
        alpha: frames of the fast pathway per frame of the slow one.
        slow_channels: inner channels of the slow pathway's first stage.
        fast_channels: the same of the fast pathway.
        lateral_kernel: temporal kernel of the lateral connections.
        depth: of both ResNets.
        blocks: residual blocks of each stage.
        temporal_blocks: per stage, leading blocks that may have a temporal kernel.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.
        lateral_norm: the lateral connections have norm and ReLU.
        slow_ends: the slow pathway sees the last frame.
    """

    fixed_frames = True
    head = ("fc", "dropout")

    def __init__(
        self,
        num_classes: int,
        alpha: int,
        slow_channels: float,
        fast_channels: float,
        lateral_kernel: int,
        depth: int,
        blocks: tuple[int, ...],
        temporal_blocks: tuple[int, ...],
        strides: tuple[int, ...],
        dropout: float,
        lateral_norm: bool,
        slow_ends: bool,
    ) -> None:
        super().__init__()
        self.alpha, self.slow_ends = alpha, slow_ends
        self.fast_path = Pathway(depth, blocks, strides, fast_channels, [0] * len(blocks), 5, temporal_blocks)
        fast_chs = self.fast_path.out_chs
        # The slow pathway is temporal only where it is deep: not in the first two stages.
        slow_temporal = tuple(0 if i < 2 else n for i, n in enumerate(temporal_blocks))
        lateral_chs = [LATERAL_RATIO * chs for chs in fast_chs[:-1]]
        self.slow_path = Pathway(depth, blocks, strides, slow_channels, lateral_chs, 1, slow_temporal)
        self.laterals = nn.ModuleList(
            upstream.ConvModule(
                in_chs,
                out_chs,
                (lateral_kernel, 1, 1),
                stride=(alpha, 1, 1),
                padding=(lateral_kernel // 2, 0, 0),
                bias=False,
                **(_LAYER if lateral_norm else _BARE),
            )
            for in_chs, out_chs in zip(fast_chs[:-1], lateral_chs, strict=True)
        )
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.slow_path.out_chs[-1] + fast_chs[-1], num_classes)
        # As slowfast/utils/weight_init_helper.py.
        init_weights(self, classifier_std=0.01, zero_init=(upstream.Bottleneck3d, upstream.BasicBlock3d))

    def slow_frames(self, clips: Tensor) -> Tensor:
        """The T/alpha frames of ``B 3 T H W`` that the slow pathway sees: first, last and evenly between.

        Without ``slow_ends`` every alpha-th from the first.
        """
        if not self.slow_ends:
            return clips[:, :, :: self.alpha]
        return slow_frames(clips, self.alpha)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = torch.cat([self.pool(x) for x in self.pathways(clips)], dim=1).flatten(1)  # B C
        return self.fc(self.dropout(x))

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to ``B C T/alpha H/32 W/32``, slow before fast; their mean is what the head gets."""
        slow, fast = self.pathways(clips)
        return torch.cat((slow, fast.unflatten(2, (slow.shape[2], -1)).mean(3)), dim=1)

    def pathways(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Clips ``B 3 T H W`` to slow ``B C T/alpha H/32 W/32`` and fast ``B C' T H/32 W/32``.

        Raises:
            ValueError: T is not a multiple of alpha.
        """
        if clips.shape[2] % self.alpha:
            raise ValueError(f"SlowFast got clips of {clips.shape[2]} frames; need a multiple of alpha={self.alpha}")
        slow = self.slow_path.maxpool(self.slow_path.conv1(self.slow_frames(clips)))  # B C T/alpha H/4 W/4
        fast = self.fast_path.maxpool(self.fast_path.conv1(clips))  # B C T H/4 W/4
        for i, lateral in enumerate(self.laterals, 1):
            slow = torch.cat((slow, lateral(fast)), dim=1)
            slow = getattr(self.slow_path, f"layer{i}")(slow)
            fast = getattr(self.fast_path, f"layer{i}")(fast)
        return slow, fast


@register_family(Knob("slow_channels", 4, 160, 0.125), Knob("fast_channels", 0.5, 40, 0.125))
def slowfast(
    *,
    num_classes: int,
    frames: int = 32,
    crop: int = 224,
    slow_channels: float = 64,
    fast_channels: float | None = None,
    alpha: int = 8,
    lateral_kernel: int = 5,
    depth: int = 50,
    blocks: tuple[int, ...] | None = None,
    temporal_blocks: tuple[int, ...] | None = None,
    strides: tuple[int, ...] = (1, 2, 2, 2),
    dropout: float = 0.5,
    lateral_norm: bool = True,
    slow_ends: bool = True,
) -> nn.Module:
    """SlowFast; the defaults are 4x16 R50.

    ::

        clip B 3 T H W ---> 5x7x7, pool ---> stage ---> ... ---> stage ---> pool ---+
                  |               | lateral    | lateral                            +--> linear ---> logits B
                  N
             T / alpha ---> 1x7x7, pool ---> stage ---> ... ---> stage ---> pool ---+

    Args:
        num_classes: N.
        frames: T of the fast pathway, a multiple of ``alpha``.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        slow_channels: knob; inner channels of the slow pathway's first stage. Fractions are welcome, see
            ``stage_widths``.
        fast_channels: knob; the same of the fast pathway, by default an eighth of the slow one (beta 1/8).
        alpha: frames of the fast pathway per frame of the slow one.
        lateral_kernel: temporal kernel of the lateral connections: 5, but 7 in 8x8 R50.
        depth: 18, 34, 50 or 101.
        blocks: residual blocks of each stage, in place of those of ``depth``.
        temporal_blocks: per stage, leading blocks that may have a temporal kernel, by default all.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.
        lateral_norm: lateral connections have norm and ReLU, as the authors'; mmaction2's have neither by default.
        slow_ends: the slow pathway sees first and last frame, as the authors'; mmaction2's sees every alpha-th.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: ``frames`` is not a multiple of ``alpha``.
    """
    if frames % alpha:
        raise ValueError(f"slowfast: frames={frames} is not a multiple of alpha={alpha}; change one of them")
    blocks = tuple(blocks or upstream.ResNet3d.arch_settings[depth][1])
    return SlowFast(
        num_classes,
        alpha,
        slow_channels,
        slow_channels / 8 if fast_channels is None else fast_channels,
        lateral_kernel,
        depth,
        blocks,
        tuple(temporal_blocks or blocks),
        tuple(strides),
        dropout,
        lateral_norm,
        slow_ends,
    )


class Slow(nn.Module):
    """The slow pathway alone, with its classifier.

    Args:
        num_classes: N.
        channels: inner channels of the first stage; doubles at each stage.
        depth: of the ResNet.
        blocks: residual blocks of each stage.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.
    """

    head = ("fc", "dropout")

    def __init__(
        self,
        num_classes: int,
        channels: float,
        depth: int,
        blocks: tuple[int, ...],
        strides: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        temporal = tuple(0 if i < 2 else n for i, n in enumerate(blocks))
        self.path = Pathway(depth, blocks, strides, channels, [0] * len(blocks), 1, temporal)
        self.num_stages = len(blocks)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.path.out_chs[-1], num_classes)
        init_weights(self, classifier_std=0.01, zero_init=(upstream.Bottleneck3d, upstream.BasicBlock3d))

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T H/32 W/32``."""
        x = self.path.maxpool(self.path.conv1(clips))  # B C T H/4 W/4
        for i in range(1, self.num_stages + 1):
            x = getattr(self.path, f"layer{i}")(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        return self.fc(self.dropout(self.pool(self.features(clips)).flatten(1)))


@register_family(Knob("channels", 4, 160, 0.125))
def slow(
    *,
    num_classes: int,
    frames: int = 8,
    crop: int = 224,
    channels: float = 64,
    depth: int = 50,
    blocks: tuple[int, ...] | None = None,
    strides: tuple[int, ...] = (1, 2, 2, 2),
    dropout: float = 0.5,
) -> nn.Module:
    """Slow-only, SlowFast without its fast pathway; the defaults are 8x8 R50.

    Args:
        num_classes: N.
        frames: T; nothing in the net strides in time, any T will do.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        channels: knob; inner channels of the first stage. Fractions are welcome, see ``stage_widths``.
        depth: 18, 34, 50 or 101.
        blocks: residual blocks of each stage, in place of those of ``depth``.
        strides: spatial stride of each stage; stem and max-pool have another 2 each.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.
    """
    blocks = tuple(blocks or upstream.ResNet3d.arch_settings[depth][1])
    return Slow(num_classes, channels, depth, blocks, tuple(strides), dropout)


# Frames, training crop and kernels of PySlowFast's configs/Kinetics/{SLOWFAST_*,c2/SLOW*,SLOW_*}.yaml and
# configs/SSv2/SLOWFAST_16x8_R50.yaml, and of pytorchvideo's hub models; the authors test at 256. In R101_50_50 only the
# first 6 of the 23 blocks of the third stage are temporal, in both pathways. The last ones are mmaction2's of the same
# names, configs/recognition/slowfast.
_8X8 = {"frames": 32, "crop": 224, "alpha": 4}
_16X8 = {"frames": 64, "crop": 224, "alpha": 4}
_MMACTION2 = {"lateral_norm": False, "slow_ends": False}
_R101_50_50 = {"depth": 101, "temporal_blocks": (3, 4, 6, 3)}
VARIANTS = {
    "slowfast_4x16_r50": (slowfast, {"num_classes": 400, "frames": 32, "crop": 224}),
    "slowfast_8x8_r50": (slowfast, {"num_classes": 400, **_8X8, "lateral_kernel": 7}),
    "slowfast_8x8_r101": (slowfast, {"num_classes": 400, **_8X8, "depth": 101}),
    "slowfast_8x8_r101_50_50": (slowfast, {"num_classes": 400, **_8X8, **_R101_50_50}),
    "slowfast_16x8_r101": (slowfast, {"num_classes": 400, **_16X8, "depth": 101}),
    "slowfast_16x8_r101_50_50": (slowfast, {"num_classes": 400, **_16X8, **_R101_50_50}),
    "slowfast_8x8_r50_ssv2": (slowfast, {"num_classes": 174, **_8X8, "lateral_kernel": 7}),
    "slowfast_16x8_r50_ssv2": (slowfast, {"num_classes": 174, **_16X8, "lateral_kernel": 7}),
    "slow_4x16_r50": (slow, {"num_classes": 400, "frames": 4, "crop": 224}),
    "slow_8x8_r50": (slow, {"num_classes": 400, "frames": 8, "crop": 224}),
    "slow_8x8_r50_ssv2": (slow, {"num_classes": 174, "frames": 8, "crop": 224}),
    "slowfast_4x16_r50_mmaction2": (slowfast, {"num_classes": 400, "frames": 32, "crop": 224, **_MMACTION2}),
    "slowfast_8x8_r50_mmaction2": (slowfast, {"num_classes": 400, **_8X8, "lateral_kernel": 7, **_MMACTION2}),
    "slowfast_8x8_r101_mmaction2": (
        slowfast,
        {"num_classes": 400, **_8X8, "depth": 101, "lateral_kernel": 7, **_MMACTION2},
    ),
}
