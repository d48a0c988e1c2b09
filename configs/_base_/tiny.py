"""Seconds on a CPU: for tests of the machinery; nothing is learnt."""

from mmengine.config import read_base

with read_base():
    from .quick import *

epochs = 1
batch = 4
workers = 0
checkpoint = 1
