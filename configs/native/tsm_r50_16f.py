"""TSM-R50 of 16 frames, mmaction2's recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.native_tsm import *

net = dict(type=tsm)
sampling.update(dict(frames=16))
