"""MoViNet-A4, its authors' recipe as far as this suite supports it.

The authors train with 32 frames and test with 80, here both are 80.
"""

from mmengine.config import read_base

from baselines.movinet import movinet

with read_base():
    from .._base_.native_movinet import *

net = dict(type=movinet, size="a4")
sampling = dict(kind="dense", frames=80, stride=3, clips=1)
crops = dict(size=290, short_side=320, jitter=(320, 400), flip=0.5, crops=1, test_size=290)
