"""x3d, quick recipe."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.quick import *

net = dict(type=x3d, blocks=(1, 1, 2, 1), head_width=256, dropout=0.0)
