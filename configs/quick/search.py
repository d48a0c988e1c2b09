"""The search, quick recipe: minutes on a CPU. Shared weights learn at a constant rate, as later stages add new ones."""

from mmengine.config import read_base

with read_base():
    from .._base_.quick import *

method = "auto_tsnet"
space = "tiny"
fair = False  # fair channel selection
strategy = "fpnas"
options = dict(warmup=360, steps=120, type_steps=70)  # cheap steps first: weights that have not learnt rank nothing
fpnas = dict(lr=0.1)  # so short a search needs a large step, see FPNASOptions
warmup = 0.03
checkpoint = 50
