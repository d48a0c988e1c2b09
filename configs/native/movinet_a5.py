"""MoViNet-A5, its authors' recipe as far as this suite supports it.

The authors train with 32 frames and test with 120, here both are 120.
"""

from mmengine.config import read_base

from baselines.movinet import movinet

with read_base():
    from .._base_.native_movinet import *

net = dict(type=movinet, size="a5")
sampling = dict(kind="dense", frames=120, stride=2, clips=1)
crops = dict(size=320, short_side=368, jitter=(368, 460), flip=0.5, crops=1, test_size=320)
