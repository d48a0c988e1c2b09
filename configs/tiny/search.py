"""The search in seconds: for tests of the machinery."""

from mmengine.config import read_base

with read_base():
    from ..quick.search import *

options = dict(warmup=2, steps=4, type_steps=2, judge_batches=1, finalists=2)
batch = 4
workers = 0
checkpoint = 1
