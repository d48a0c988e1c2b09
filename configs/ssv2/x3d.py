"""x3d, ssv2 recipe."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.ssv2 import *

net = dict(type=x3d)
