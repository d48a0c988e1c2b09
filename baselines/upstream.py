"""Layers of mmaction2 and mmcv, each imported when it is first asked for: ``upstream.ConvModule``.

Their import takes half as long as torch's, most of it for optimizers of ``torch.distributed``. Whoever builds no
network, as a table does, does not wait for it.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

_BACKBONES = "mmaction.models.backbones"
_MODULES = {
    "BasicBlock": f"{_BACKBONES}.resnet",
    "BasicBlock3d": f"{_BACKBONES}.resnet3d",
    "BlockX3D": f"{_BACKBONES}.x3d",
    "Bottleneck": f"{_BACKBONES}.resnet",
    "Bottleneck3d": f"{_BACKBONES}.resnet3d",
    "ConvModule": "mmcv.cnn",
    "DropPath": "mmcv.cnn.bricks",
    "InvertedResidual": f"{_BACKBONES}.mobilenet_v2",
    "MobileNetV2": f"{_BACKBONES}.mobilenet_v2",
    "MultiScaleBlock": f"{_BACKBONES}.mvit",
    "ResNet3d": f"{_BACKBONES}.resnet3d",
    "attention_pool": f"{_BACKBONES}.mvit",
    "make_divisible": f"{_BACKBONES}.mobilenet_v2",
    "make_res_layer": f"{_BACKBONES}.resnet",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    with warnings.catch_warnings():
        # mmcv-lite has no compiled operators and says so once, on import; none of these layers needs them.
        warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
        return getattr(import_module(_MODULES[name]), name)
