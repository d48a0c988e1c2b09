"""mvit, tiny recipe."""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.tiny import *

net = dict(type=mvit, depth=3, downscale=(1,), kv_stride=2)
