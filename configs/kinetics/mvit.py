"""mvit, kinetics recipe."""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.kinetics import *

net = dict(type=mvit)
