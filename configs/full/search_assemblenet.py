"""Search of AssembleNet's graphs, full recipe: ``connections`` or ``evolution``. Lengths are ours."""

from mmengine.config import read_base

with read_base():
    from .._base_.full import *

method = "assemblenet"
strategy = "connections"
epochs = 5
options = dict(
    keep=0.35,  # share of the connections, as in AssembleNet-50
    # of evolution
    evaluations=100,
    population=20,
    tournament=5,
    epochs=1,
    judge_batches=16,
)
