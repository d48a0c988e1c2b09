"""x3d, full recipe."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.full import *

net = dict(type=x3d, blocks=(1, 2, 4, 2), head_width=512)
