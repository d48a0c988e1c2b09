"""slowfast, tiny recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.tiny import *

net = dict(type=slowfast, depth=18, blocks=(1, 1, 1, 1), alpha=4)
