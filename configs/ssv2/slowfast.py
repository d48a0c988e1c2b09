"""slowfast, ssv2 recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.ssv2 import *

net = dict(type=slowfast, alpha=4)  # 4 slow frames of 16
