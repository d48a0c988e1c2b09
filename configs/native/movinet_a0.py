"""MoViNet-A0, its authors' recipe as far as this suite supports it."""

from mmengine.config import read_base

from baselines.movinet import movinet

with read_base():
    from .._base_.native_movinet import *

net = dict(type=movinet, size="a0", dropout=0.2)
sampling = dict(kind="dense", frames=50, stride=5, clips=1)
crops = dict(size=172, short_side=192, jitter=(192, 240), flip=0.5, crops=1, test_size=172)
