"""Gradient search of the PV-NAS-style space, quick recipe: minutes on a CPU."""

from mmengine.config import read_base

with read_base():
    from .._base_.quick import *

method = "pvnas"
strategy = "gradient"
options = dict(
    warmup=500,  # steps of the weights alone, before
    steps=450,  # of weights and distribution
    alpha=0.02,  # mean learning rate of the distribution
    diverse=True,  # rates in opposite phase, see DiverseRates
    cost_weight=1.0,  # of |expected / budget - 1|, beside the loss in nats
    temperature=1.0,  # of the Gumbel-softmax
)
