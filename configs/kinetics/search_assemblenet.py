"""Search of AssembleNet's graphs, kinetics recipe: ``connections`` or ``evolution``. Lengths are ours."""

from mmengine.config import read_base

with read_base():
    from .._base_.kinetics import *

method = "assemblenet"
strategy = "connections"
epochs = 60
options = dict(
    keep=0.35,  # share of the connections, as in AssembleNet-50
    # of evolution
    evaluations=200,
    population=50,
    tournament=10,
    epochs=5,
    judge_batches=50,
)
