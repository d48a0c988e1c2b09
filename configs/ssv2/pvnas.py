"""Searched or random members of the PV-NAS-style space, ssv2 recipe."""

from mmengine.config import read_base

from baselines.pvnas import pvnas

with read_base():
    from .._base_.ssv2 import *

net = dict(type=pvnas, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2))
