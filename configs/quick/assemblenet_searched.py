"""Searched or random graphs of AssembleNet, quick recipe; connection weights are learned with the rest."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.quick import *

net = dict(type=assemblenet, modules=(1, 2, 2, 1), flow_iterations=20, dropout=0.0, learn_connections=True)
