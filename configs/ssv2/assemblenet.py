"""AssembleNet-50's graph, ssv2 recipe."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.ssv2 import *

net = dict(type=assemblenet)
