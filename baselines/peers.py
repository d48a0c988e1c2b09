"""The peers' own eager networks: tests compare ours with them in logits, ``make bench`` in speed.

``PEERS[source, variant]`` builds pytorchvideo's or mmaction2's network of one of our ``VARIANTS``, from clips B 3 T H W
to logits B N, with random weights and with the parameter names of the source's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmaction.models.backbones.mobilenet_v2_tsm import MobileNetV2TSM
from mmaction.models.backbones.resnet3d_slowfast import ResNet3dSlowFast
from mmaction.models.backbones.resnet3d_slowonly import ResNet3dSlowOnly
from mmaction.models.backbones.resnet_tsm import ResNetTSM
from mmaction.models.backbones.x3d import X3D
from mmaction.models.heads import SlowFastHead, TSMHead, X3DHead
from mmaction.models.heads.i3d_head import I3DHead
from mmengine.registry import DefaultScope
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn


class MMAction(nn.Module):
    """Backbone and head, with the parameter names of mmaction2's recognizers."""

    def __init__(self, backbone: nn.Module, head: nn.Module, frames: int = 0) -> None:
        super().__init__()
        self.backbone, self.cls_head, self.frames = backbone, head, frames

    def forward(self, clips: Tensor) -> Tensor:
        """B 3 T H W -> B N."""
        if self.frames:  # of a 2D net
            clips = clips.transpose(1, 2).flatten(0, 1)
        return self.cls_head(self.backbone(clips), num_segs=self.frames)

    def train(self, mode: bool = True) -> MMAction:
        """Return the module, which mmaction2's backbones do not do."""
        super().train(mode)
        return self


class SlowFastOfOneClip(nn.Module):
    """pytorchvideo's SlowFast, which takes both inputs as a list and changes the list."""

    def __init__(self, model: nn.Module, alpha: int) -> None:
        super().__init__()
        self.model, self.alpha = model, alpha

    def state_dict(self, **_) -> dict[str, Tensor]:
        """The state dict with pytorchvideo's names."""
        return self.model.state_dict()

    def forward(self, clips: Tensor) -> Tensor:
        """B 3 T H W -> B N."""
        frames = clips.shape[2]
        slow = clips[:, :, torch.linspace(0, frames - 1, frames // self.alpha).long()]
        return self.model([slow, clips.clone()])


def _ptv_x3d(classes: int, frames: int, crop: int, depth: float) -> nn.Module:
    return create_x3d(
        input_clip_length=frames,
        input_crop_size=crop,
        depth_factor=depth,
        model_num_class=classes,
        head_activation=None,
    )


def _ptv_slow(classes: int, frames: int, crop: int) -> nn.Module:
    pool = (frames, crop // 32, crop // 32)
    return create_resnet(model_num_class=classes, stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=pool)


def _ptv_slowfast(
    classes: int, frames: int, crop: int, alpha: int, kernel: int, depth: int = 50, temporal: int = 0
) -> nn.Module:
    kernels = {}
    if temporal:  # of the 23 blocks of the third stage
        third = ((3, 1, 1),) * temporal + ((1, 1, 1),) * (23 - temporal)
        kernels["stage_conv_a_kernel_sizes"] = (
            ((1, 1, 1), (1, 1, 1), third, (3, 1, 1)),
            ((3, 1, 1), (3, 1, 1), third, (3, 1, 1)),
        )
    side = crop // 32
    model = create_slowfast(
        model_num_class=classes,
        model_depth=depth,
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        head_pool_kernel_sizes=((frames // alpha, side, side), (frames, side, side)),
        **kernels,
    )
    return SlowFastOfOneClip(model, alpha)


def _ptv_mvit(classes: int, frames: int, crop: int) -> nn.Module:
    doubled = [[1, 2.0], [3, 2.0], [14, 2.0]]
    return create_multiscale_vision_transformers(
        spatial_size=crop,
        temporal_size=frames,
        embed_dim_mul=doubled,
        atten_head_mul=doubled,
        pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 8, 8],
        pool_kvq_kernel=[3, 3, 3],
        head_num_classes=classes,
    )


def _mm_x3d(classes: int, frames: int, crop: int) -> nn.Module:
    return MMAction(X3D(gamma_b=2.25, gamma_d=2.2), X3DHead(classes, 432))


def _mm_slow(classes: int, frames: int, crop: int) -> nn.Module:
    backbone = ResNet3dSlowOnly(
        depth=50, pretrained=None, conv1_kernel=(1, 7, 7), conv1_stride_t=1, pool1_stride_t=1, inflate=(0, 0, 1, 1)
    )
    return MMAction(backbone, I3DHead(classes, 2048))


def _mm_slowfast(classes: int, frames: int, crop: int, alpha: int, kernel: int, lateral_norm: bool) -> nn.Module:
    pathway = dict(type="resnet3d", depth=50, pretrained=None, conv1_stride_t=1, pool1_stride_t=1, norm_eval=False)
    slow = dict(lateral=True, lateral_norm=lateral_norm, fusion_kernel=kernel, conv1_kernel=(1, 7, 7))
    backbone = ResNet3dSlowFast(
        None,
        resample_rate=alpha,
        speed_ratio=alpha,
        slow_pathway=dict(**pathway, **slow, inflate=(0, 0, 1, 1), dilations=(1, 1, 1, 1)),
        fast_pathway=dict(**pathway, lateral=False, base_channels=8, conv1_kernel=(5, 7, 7)),
    )
    return MMAction(backbone, SlowFastHead(classes, 2304))


def _mm_tsm(classes: int, frames: int, crop: int, depth: int) -> nn.Module:
    backbone = ResNetTSM(depth, num_segments=frames, pretrained=None, pretrained2d=False)
    return MMAction(backbone, TSMHead(classes, 2048, num_segments=frames), frames)


def _mm_tsm_mobilenet(classes: int, frames: int, crop: int) -> nn.Module:
    backbone = MobileNetV2TSM(num_segments=frames, pretrained2d=False)
    return MMAction(backbone, TSMHead(classes, 1280, num_segments=frames), frames)


def _with(build: Callable[..., nn.Module], **options) -> Callable[..., nn.Module]:
    def peer(*, num_classes: int, frames: int, crop: int) -> nn.Module:
        # mmaction2's heads look for their losses in the default scope
        with DefaultScope.overwrite_default_scope("mmaction"):
            return build(num_classes, frames, crop, **options)

    return peer


PEERS: dict[tuple[str, str], Callable[..., nn.Module]] = {
    ("pytorchvideo", "x3d_xs"): _with(_ptv_x3d, depth=2.2),
    ("pytorchvideo", "x3d_s"): _with(_ptv_x3d, depth=2.2),
    ("pytorchvideo", "x3d_m"): _with(_ptv_x3d, depth=2.2),
    ("pytorchvideo", "x3d_l"): _with(_ptv_x3d, depth=5.0),
    ("pytorchvideo", "slow_8x8_r50"): _with(_ptv_slow),
    ("pytorchvideo", "slowfast_4x16_r50"): _with(_ptv_slowfast, alpha=8, kernel=5),
    ("pytorchvideo", "slowfast_8x8_r50"): _with(_ptv_slowfast, alpha=4, kernel=7),
    ("pytorchvideo", "slowfast_8x8_r101"): _with(_ptv_slowfast, alpha=4, kernel=5, depth=101),
    ("pytorchvideo", "slowfast_16x8_r101_50_50"): _with(_ptv_slowfast, alpha=4, kernel=5, depth=101, temporal=6),
    ("pytorchvideo", "mvit_b_16x4"): _with(_ptv_mvit),
    ("mmaction2", "x3d_m"): _with(_mm_x3d),
    ("mmaction2", "slow_8x8_r50"): _with(_mm_slow),
    ("mmaction2", "slowfast_8x8_r50"): _with(_mm_slowfast, alpha=4, kernel=7, lateral_norm=True),
    ("mmaction2", "slowfast_4x16_r50_mmaction2"): _with(_mm_slowfast, alpha=8, kernel=5, lateral_norm=False),
    ("mmaction2", "tsm_r50_8f"): _with(_mm_tsm, depth=50),
    ("mmaction2", "tsm_r101_8f_ssv2"): _with(_mm_tsm, depth=101),
    ("mmaction2", "tsm_mobilenetv2_8f"): _with(_mm_tsm_mobilenet),
}
