"""SlowFast R50 8x8 on Something-Something-V2, pytorchvideo's recipe (configs/SSv2/pytorchvideo/SLOWFAST_8x8_R50.yaml).

64 clips a step, half a cosine over 30 epochs, the first 3 of them warm-up; three crops of 256². Differs as 16x8 does,
and in two more things: their warm-up starts at 0.08, and they recalibrate batch norm with 150 batches, here it is 200.
"""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.native_slowfast_ssv2 import *

net = dict(type=slowfast, alpha=4, lateral_kernel=7)
epochs = 30
batch = 64
reference_batch = 64
warmup = 3 / 30
milestones = None  # a cosine
optim_wrapper.optimizer.update(lr=0.1, weight_decay=1e-4)
sampling.update(dict(frames=32))
crops.update(dict(crops=3))
