"""x3d, kinetics recipe."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.kinetics import *

net = dict(type=x3d)
