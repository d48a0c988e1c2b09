"""The search, full recipe. Its length is ours: the paper's is not public."""

from mmengine.config import read_base

with read_base():
    from .._base_.full import *

method = "auto_tsnet"
space = "s"
fair = False  # fair channel selection
strategy = "fpnas"
options = dict(warmup=1000, steps=2000, type_steps=800)
fpnas = dict(lr=0.05)  # Auto-X3D: 0.025; a shorter search needs a larger step
warmup = 0.03
