"""Searched or random members of the PV-NAS-style space, tiny recipe."""

from mmengine.config import read_base

from baselines.pvnas import pvnas

with read_base():
    from .._base_.tiny import *

net = dict(type=pvnas, blocks=(1, 1), strides=(1, 2))
