"""AssembleNet-50's graph, kinetics recipe."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.kinetics import *

net = dict(type=assemblenet)
