"""Searched or random graphs of AssembleNet, ssv2 recipe; connection weights are learned with the rest."""

from mmengine.config import read_base

from baselines.assemblenet import assemblenet

with read_base():
    from .._base_.ssv2 import *

net = dict(type=assemblenet, learn_connections=True)
