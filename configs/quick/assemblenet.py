"""AssembleNet-50's graph, quick recipe."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.quick import *

net = dict(type=assemblenet, modules=(1, 2, 2, 1), flow_iterations=20, dropout=0.0)
