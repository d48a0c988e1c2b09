"""slowfast, kinetics recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.kinetics import *

net = dict(type=slowfast, alpha=4)  # 4 slow frames of 16
