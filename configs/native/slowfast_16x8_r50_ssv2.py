"""SlowFast R50 16x8 on Something-Something-V2, its authors' recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast_ssv2 import *

net = dict(type=slowfast, alpha=4, lateral_kernel=7)
