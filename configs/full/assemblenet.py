"""AssembleNet-50's graph, full recipe."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.full import *

net = dict(type=assemblenet)
