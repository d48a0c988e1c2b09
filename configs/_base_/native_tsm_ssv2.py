"""TSM on Something-Something-V2 as mmaction2 re-trained it; differs as on Kinetics-400, see ``native_tsm``.

Weight decay 5e-4. Horizontal flips exchange the labels of left and right. Tested as mmaction2's README says, two clips
× three crops of 256²; our two clips are a quarter of a segment before and after its middle, theirs at its middle and
at its start.
"""

from mmengine.config import read_base

with read_base():
    from .native_tsm import *

optim_wrapper.optimizer.update(weight_decay=5e-4)
sampling = dict(kind="segment", frames=8, clips=2)
crops = dict(size=224, short_side=256, jitter=(256, 340), flip=0.5, crops=3, test_size=256)
