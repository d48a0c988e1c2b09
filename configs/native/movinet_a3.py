"""MoViNet-A3, its authors' recipe as far as this suite supports it.

The authors train with 64 frames and test with 120, here both are 120.
"""

from mmengine.config import read_base

from baselines.movinet import movinet

with read_base():
    from .._base_.native_movinet import *

net = dict(type=movinet, size="a3")
sampling = dict(kind="dense", frames=120, stride=2, clips=1)
crops = dict(size=256, short_side=288, jitter=(288, 360), flip=0.5, crops=1, test_size=256)
