"""slowfast, full recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.full import *

net = dict(type=slowfast, depth=18, alpha=4)
