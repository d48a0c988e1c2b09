"""tsm, kinetics recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.kinetics import *

net = dict(type=tsm)
