"""Searched or random graphs of AssembleNet, tiny recipe; connection weights are learned with the rest."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.tiny import *

net = dict(type=assemblenet, modules=(1, 1, 1, 1), flow_iterations=2, learn_connections=True)
