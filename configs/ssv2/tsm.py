"""tsm, ssv2 recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.ssv2 import *

net = dict(type=tsm)
