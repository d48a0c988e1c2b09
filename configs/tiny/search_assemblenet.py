"""Search of AssembleNet's graphs in seconds: for tests of the machinery."""

from mmengine.config import read_base

with read_base():
    from ..quick.search_assemblenet import *

epochs = 0.5
options = dict(keep=0.35, evaluations=3, population=2, tournament=1, epochs=1, judge_batches=1)
batch = 4
workers = 0
checkpoint = 1
