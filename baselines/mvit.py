"""MViT v1 (Fan et al., 2021): a transformer whose tokens get fewer and wider. https://arxiv.org/abs/2104.11227

Blocks are mmaction2's ``MultiScaleBlock``, an MViT v2 block reduced to v1: no relative positions, no residual pooling,
width doubled by the MLP, queries pooled only where they stride. Their attention is torch's fused one on GPUs. Embedding
and head follow PySlowFast (``slowfast/models/video_model_builder.py``): one position embedding for space, one for time.
Parameter names of the blocks are mmaction2's.

B clips, T frames, H W pixels, L tokens, C channels, N classes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.registry import Knob, register_family
from baselines import upstream

PATCH_STRIDE = (2, 4, 4)
_NORM = {"type": "LN", "eps": 1e-6}
_POOL_NORM_EPS = 1e-5  # the norms after a pooling keep torch's default, in PySlowFast as in pytorchvideo


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by two products, as mmaction2 writes it: queries, keys and values B heads L C."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same to rounding by one kernel, which does not write the weights L × L to memory."""
    return F.scaled_dot_product_attention(q, k, v)


def attend(attn: nn.Module, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """Attention of a v1 block; on a CPU bit by bit what mmaction2's forward gives, so that old records stay comparable.

    Args:
        attn: mmaction2's ``MultiScaleAttention`` without relative positions and residual pooling.
        x: tokens B L C, the class token first.
        grid: T H W of the others.

    Returns:
        Tokens B L' C, and the grid of the pooled queries.
    """
    qkv = attn.qkv(x).reshape(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3 B heads L C
    pools = (attn.pool_q, attn.norm_q), (attn.pool_k, attn.norm_k), (attn.pool_v, attn.norm_v)
    pooled = [
        upstream.attention_pool(tokens, pool, grid, norm=norm, with_cls_token=True)
        for tokens, (pool, norm) in zip(qkv.unbind(), pools, strict=True)
    ]
    (q, grid), (k, _), (v, _) = pooled
    x = (fused if x.is_cuda else explicit)(q, k, v)
    return attn.proj(x.transpose(1, 2).flatten(2)), grid


class MViT(nn.Module):
    """Patches, positions, blocks of four scales, classifier on the class token.

    Args:
        num_classes: N.
        clip_shape: T, H, W.
        embed_dim: channels of the first scale, and of every head; doubles at each scale.
        depth: blocks.
        downscale: blocks at which the heads double and the grid is halved in space.
        kv_stride: stride in space of the pooling of keys and values in the first scale; halved at each scale.
        mlp_ratio: inner over outer channels of an MLP.
        drop_path: probability of dropping the branches of the last block; falls linearly to 0 at the first.
        dropout: probability of a dropout before the classifier.
    """

    fixed_frames = True

    def __init__(
        self,
        num_classes: int,
        clip_shape: tuple[int, int, int],
        embed_dim: int,
        depth: int,
        downscale: tuple[int, ...],
        kv_stride: int,
        mlp_ratio: float,
        drop_path: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.clip_shape = clip_shape
        self.grid = grid = tuple(size // stride for size, stride in zip(clip_shape, PATCH_STRIDE, strict=True))
        self.patch_embed = nn.Conv3d(3, embed_dim, (3, 7, 7), stride=PATCH_STRIDE, padding=(1, 3, 3))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, grid[1] * grid[2], embed_dim))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, grid[0], embed_dim))
        self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.ModuleList()
        chs, heads = embed_dim, 1
        for i in range(depth):
            stride_q = 1
            if i in downscale:
                stride_q, heads, kv_stride = 2, 2 * heads, max(kv_stride // 2, 1)
            out_chs = 2 * chs if i + 1 in downscale else chs
            block = upstream.MultiScaleBlock(
                chs,
                out_chs,
                heads,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path * i / max(depth - 1, 1),
                norm_cfg=_NORM,
                stride_q=(1, stride_q, stride_q),
                stride_kv=(1, kv_stride, kv_stride),
                rel_pos_embed=False,
                residual_pooling=False,
                dim_mul_in_attention=False,
            )
            for norm in (block.attn.norm_q, block.attn.norm_k, block.attn.norm_v):
                norm.eps = _POOL_NORM_EPS
            if stride_q == 1:
                block.attn.pool_q, block.attn.norm_q = nn.Identity(), nn.Identity()
            block.attn.forward = partial(attend, block.attn)
            self.blocks.append(block)
            chs = out_chs
        self.norm = nn.LayerNorm(chs, eps=_NORM["eps"])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(chs, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        # As PySlowFast; its convolutions keep torch's initialisation.
        for embedding in (self.cls_token, self.pos_embed_spatial, self.pos_embed_temporal, self.pos_embed_class):
            nn.init.trunc_normal_(embedding, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``.

        Raises:
            ValueError: the clips have another T, H or W than the net was built for.
        """
        if clips.shape[2:] != self.clip_shape:
            got = tuple(clips.shape[2:])
            raise ValueError(f"MViT built for clips of {self.clip_shape} got {got}; pass frames= and crop= to build")
        x = self.patch_embed(clips).flatten(2).transpose(1, 2)  # B THW/32 C
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)  # B L C
        positions = (self.pos_embed_temporal.unsqueeze(2) + self.pos_embed_spatial.unsqueeze(1)).flatten(1, 2)
        x = x + torch.cat((self.pos_embed_class, positions), dim=1)
        grid = self.grid
        for block in self.blocks:
            x, grid = block(x, grid)
        return self.fc(self.dropout(self.norm(x[:, 0])))


@register_family(Knob("embed_dim", 4, 256, 1), Knob("mlp_ratio", 2, 6, 0.01))
def mvit(
    *,
    num_classes: int,
    frames: int = 16,
    crop: int = 224,
    embed_dim: int = 96,
    mlp_ratio: float = 4.0,
    depth: int = 16,
    downscale: tuple[int, ...] = (1, 3, 14),
    kv_stride: int = 8,
    drop_path: float = 0.2,
    dropout: float = 0.5,
) -> nn.Module:
    """MViT v1; the defaults are MViT-B 16x4.

    ::

        clip B 3 T H W -> 3x7x7, stride 2x4x4 -> + positions -> blocks, at three of which the grid is halved, the
             heads doubled and the channels with them -> norm -> class token -> linear -> logits B N

    Args:
        num_classes: N.
        frames: T, fixed at building; even.
        crop: side of the frames in pixels, fixed at building; a multiple of 4.
        embed_dim: knob; channels of the first scale and of every head, so that any integer will do.
        mlp_ratio: knob; inner over outer channels of an MLP.
        depth: blocks.
        downscale: blocks at which the grid is halved in space.
        kv_stride: stride in space of the pooling of keys and values in the first scale.
        drop_path: of the last block, see ``MViT``.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: ``frames`` or ``crop`` is no multiple of the stride of the patches.
    """
    clip_shape = (frames, crop, crop)
    if any(size % stride for size, stride in zip(clip_shape, PATCH_STRIDE, strict=True)):
        raise ValueError(f"mvit: frames={frames} must be a multiple of 2 and crop={crop} of 4; change them")
    return MViT(num_classes, clip_shape, embed_dim, depth, tuple(downscale), kv_stride, mlp_ratio, drop_path, dropout)


# PySlowFast's configs/Kinetics/MVIT_B_{16x4,32x3}_CONV.yaml; train and test crop.
VARIANTS = {
    "mvit_b_16x4": (mvit, {"num_classes": 400, "frames": 16, "crop": 224}),
    "mvit_b_32x3": (mvit, {"num_classes": 400, "frames": 32, "crop": 224, "drop_path": 0.3}),
}
