"""Key maps from published checkpoints to the baselines of this package.

A map is strict: each tensor of the source is used exactly once, and a name that it does not know is an error.
What ``load_state_dict(..., strict=True)`` then checks is that nothing of ours was left out.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

# The parts of a pytorchvideo residual block, in mmaction2's words.
_BLOCK = {
    "branch1_conv": "downsample.conv",
    "branch1_norm": "downsample.bn",
    "branch2.conv_a": "conv1.conv",
    "branch2.norm_a": "conv1.bn",
    "branch2.conv_b": "conv2.conv",
    "branch2.norm_b": "conv2.bn",
    "branch2.norm_b.0": "conv2.bn",  # X3D, beside its squeeze-excite
    "branch2.norm_b.1.block.0": "se_module.fc1",
    "branch2.norm_b.1.block.2": "se_module.fc2",
    "branch2.conv_c": "conv3.conv",
    "branch2.norm_c": "conv3.bn",
}
_PATHWAYS = ("slow_path", "fast_path")


def pytorchvideo_x3d(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of pytorchvideo's ``create_x3d`` as ``baselines.x3d`` does.

    pytorchvideo leaves out the norm of a shortcut that strides without changing width (the first stage of
    every X3D), PySlowFast and mmaction2 have it. It becomes the identity: variance 1 - eps, hence a division
    by 1.

    Args:
        state: state dict of the source.

    Returns:
        A new dict of the same tensors, and of the identity norms.

    Raises:
        KeyError: an unknown name.
    """
    head = {
        "pool.pre_conv": "conv5.conv",
        "pool.pre_norm": "conv5.bn",
        "pool.post_conv": "lin5",
        "proj": "fc",
    }
    last = max(int(key.split(".")[1]) for key in state)

    def rename(module: str) -> str:
        index, part = re.fullmatch(r"blocks\.(\d+)\.(.+)", module).groups()
        if index == "0":
            return {"conv.conv_t": "conv1_s.conv", "conv.conv_xy": "conv1_t.conv", "norm": "conv1_t.bn"}[part]
        if int(index) == last:
            return head[part]
        block, part = re.fullmatch(r"res_blocks\.(\d+)\.(.+)", part).groups()
        return f"layer{index}.{block}.{_BLOCK[part]}"

    ours = _renamed(state, rename)
    for key in [key for key in ours if key.endswith("downsample.conv.weight")]:
        norm = key.removesuffix("conv.weight") + "bn."
        if norm + "weight" not in ours:
            ones = torch.ones(ours[key].shape[0])
            ours |= {norm + "weight": ones, norm + "bias": 0 * ones}
            ours |= {norm + "running_mean": 0 * ones, norm + "running_var": ones - 1e-5}
            ours[norm + "num_batches_tracked"] = torch.tensor(0)
    return ours


def pytorchvideo_slowfast(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of pytorchvideo's ``create_slowfast`` as ``baselines.slowfast`` does.

    Args:
        state: state dict of the source.

    Returns:
        A new dict of the same tensors.

    Raises:
        KeyError: an unknown name.
    """
    fusion = {"conv_fast_to_slow": "conv", "norm": "bn"}

    def rename(module: str) -> str:
        index, part = re.fullmatch(r"blocks\.(\d+)\.(.+)", module).groups()
        if part == "proj":
            return "fc"
        kind, part = part.split(".", 1)
        if kind == "multipathway_fusion":
            return f"laterals.{index}.{fusion[part]}"
        pathway, part = part.split(".", 1)
        if index == "0":
            return f"{_PATHWAYS[int(pathway)]}.conv1.{ {'conv': 'conv', 'norm': 'bn'}[part] }"
        block, part = re.fullmatch(r"res_blocks\.(\d+)\.(.+)", part).groups()
        return f"{_PATHWAYS[int(pathway)]}.layer{index}.{block}.{_BLOCK[part]}"

    return _renamed(state, rename)


def _renamed(state: dict[str, Tensor], rename) -> dict[str, Tensor]:
    ours = {}
    for key, tensor in state.items():
        module, leaf = key.rsplit(".", 1)
        try:
            name = f"{rename(module)}.{leaf}"
        except (AttributeError, KeyError, IndexError, ValueError) as error:
            raise KeyError(f"{key}: not a name of the expected pytorchvideo model") from error
        if name in ours:
            raise KeyError(f"{key}: a second tensor for {name}")
        ours[name] = tensor
    return ours
