"""Gradient search of the PV-NAS-style space in seconds: for tests of the machinery."""

from mmengine.config import read_base

with read_base():
    from ..quick.search_pvnas import *

options = dict(warmup=2, steps=4, alpha=0.1, diverse=True, cost_weight=1.0, temperature=1.0)
batch = 4
workers = 0
checkpoint = 1
