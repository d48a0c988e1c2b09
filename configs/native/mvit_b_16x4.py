"""MViT-B 16x4, its authors' recipe as far as this suite supports it."""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.native_mvit import *

net = dict(type=mvit)
