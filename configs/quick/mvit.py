"""mvit, quick recipe."""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.quick import *

net = dict(type=mvit, depth=7, downscale=(2, 5), kv_stride=4, drop_path=0.0, dropout=0.0)
