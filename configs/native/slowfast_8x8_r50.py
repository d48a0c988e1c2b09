"""SlowFast R50 8x8, its authors' recipe (configs/Kinetics/SLOWFAST_8x8_R50.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slowfast, alpha=4, lateral_kernel=7)
