"""slowfast, quick recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.quick import *

net = dict(type=slowfast, depth=50, blocks=(1, 1, 1, 1), alpha=4, dropout=0.0)
