"""Slow R50 8x8, its authors' recipe (configs/Kinetics/SLOW_8x8_R50.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slow

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slow)
sampling.update(dict(frames=8, stride=8))
