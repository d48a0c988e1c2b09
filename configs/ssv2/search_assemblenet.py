"""Search of AssembleNet's graphs, ssv2 recipe: ``connections`` or ``evolution``. Lengths are ours."""

from mmengine.config import read_base

with read_base():
    from .._base_.ssv2 import *

method = "assemblenet"
strategy = "connections"
epochs = 30
options = dict(
    keep=0.35,  # share of the connections, as in AssembleNet-50
    # of evolution
    evaluations=200,
    population=50,
    tournament=10,
    epochs=5,
    judge_batches=50,
)
