"""Slow R50 4x16, its authors' recipe (configs/Kinetics/SLOW_4x16_R50.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slow

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slow)
sampling.update(dict(frames=4, stride=16))
