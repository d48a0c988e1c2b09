"""tsm, tiny recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.tiny import *

net = dict(type=tsm, depth=50, blocks=(1, 1, 1, 1), shift_div=4)  # narrow layers: an eighth would be none
