"""SlowFast R50 4x16, its authors' recipe (configs/Kinetics/SLOWFAST_4x16_R50.yaml)."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast import *

net = dict(type=slowfast)
