"""The search, ssv2 recipe. Its length is ours: the paper's is not public."""

from mmengine.config import read_base

with read_base():
    from .._base_.ssv2 import *

method = "auto_tsnet"
space = "m"
fair = False  # fair channel selection
strategy = "fpnas"
options = dict(warmup=20_000, steps=40_000, type_steps=15_000)
fpnas = dict(lr=0.025)  # Auto-X3D: 0.025; a shorter search needs a larger step
warmup = 0.03
