"""Search of AssembleNet's graphs, quick recipe: minutes on a CPU.

``connections``: the dense graph is trained once and its weak connections pruned, as AssembleNet++ does. ``evolution``,
as AssembleNet: ``python -m reproduce search ssv2 --entry assemblenet_searched --strategy evolution``.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.quick import *

method = "assemblenet"
strategy = "connections"
options = dict(
    keep=0.35,  # share of the connections, as in AssembleNet-50
    evaluations=24,  # from here on of evolution: graphs trained
    population=8,
    tournament=3,
    epochs=0.3,  # of half of the videos, for each graph
    judge_batches=8,
)
