"""Searched or random graphs of AssembleNet, kinetics recipe; connection weights are learned with the rest."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.kinetics import *

net = dict(type=assemblenet, learn_connections=True)
