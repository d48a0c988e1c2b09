"""mvit, quick recipe.

A transformer from scratch needs longer: after these 450 steps it is still at chance on synthetic-kinetics (n = 400), at
a learning rate of 5e-3 (12.5 %) as at 1e-3 (12.0 %) and 3e-4 (14.8 %).
"""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.quick import *

net = dict(type=mvit, depth=7, downscale=(2, 5), kv_stride=4, drop_path=0.0, dropout=0.0)
