"""tsm, full recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.full import *

net = dict(type=tsm, depth=18)
