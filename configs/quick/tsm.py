"""tsm, quick recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.quick import *

net = dict(type=tsm, depth=50, blocks=(1, 2, 2, 1), strides=(1, 1, 2, 2), dropout=0.0)
