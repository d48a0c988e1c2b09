"""SlowFast R101 8x8 of pytorchvideo, its recipe (configs/Kinetics/pytorchvideo/SLOWFAST_8x8_R101.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slowfast, alpha=4, depth=101)
