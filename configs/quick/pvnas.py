"""Searched or random members of the PV-NAS-style space, quick recipe."""

from mmengine.config import read_base

from baselines.pvnas import pvnas

with read_base():
    from .._base_.quick import *

net = dict(type=pvnas, blocks=(1, 2, 2, 1), strides=(1, 1, 2, 2), dropout=0.0)
