"""tsm, quick recipe."""

from mmengine.config import read_base

from baselines.tsm import tsm

with read_base():
    from .._base_.quick import *

# Layers of a few channels on clips of 48 pixels: a quarter of the channels shifts, and the second stage keeps its
# resolution. With an eighth, whether a training of this length finds the direction of time depends on its seed.
net = dict(type=tsm, depth=50, blocks=(1, 2, 2, 1), strides=(1, 1, 2, 2), shift_div=4, dropout=0.0)
