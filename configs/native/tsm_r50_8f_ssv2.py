"""TSM-R50 of 8 frames on Something-Something-V2, mmaction2's recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.native_tsm_ssv2 import *

net = dict(type=tsm)
