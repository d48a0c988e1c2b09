"""Gradient search of the PV-NAS-style space, full recipe. Its length and rates are ours, the paper's unknown."""

from mmengine.config import read_base

with read_base():
    from .._base_.full import *

method = "pvnas"
strategy = "gradient"
options = dict(
    warmup=2000,  # steps of the weights alone, before
    steps=4000,  # of weights and distribution
    alpha=0.005,  # mean learning rate of the distribution
    diverse=True,  # rates in opposite phase, see DiverseRates
    cost_weight=1.0,  # of |expected / budget - 1|, beside the loss in nats
    temperature=1.0,  # of the Gumbel-softmax
)
