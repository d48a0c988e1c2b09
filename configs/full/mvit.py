"""mvit, full recipe."""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.full import *

net = dict(type=mvit, drop_path=0.1)
