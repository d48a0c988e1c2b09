"""SlowFast R101_50_50 16x8, pytorchvideo's recipe (configs/Kinetics/pytorchvideo/SLOWFAST_16x8_R101_50_50.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slowfast, alpha=4, depth=101, temporal_blocks=(3, 4, 6, 3))
sampling.update(dict(frames=64))
crops.update(dict(jitter=(256, 360)))
