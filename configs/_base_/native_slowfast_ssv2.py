"""SlowFast's own recipe on Something-Something-V2 (facebookresearch/SlowFast configs/SSv2/SLOWFAST_16x8_R50.yaml).

16 clips a step on 8 GPUs at a learning rate of 0.03, a tenth from epoch 14 and a hundredth from epoch 18 of 22, 0.19
epochs of warm-up, weight decay 1e-6, no flip; one view of 256².

Batch norm sees 8 clips together: theirs is synchronised over 4 GPUs of 2.

Differs in three things: trained from scratch, where the authors start from SlowFast 8x8 of Kinetics-400 (so expect far
less than their 63.0 % after 22 epochs); RGB, theirs is BGR; in training a random frame of each equal part of the video,
theirs by DATA.INV_UNIFORM_SAMPLE.
"""

from mmengine.config import read_base

with read_base():
    from .native_slowfast import *

epochs = 22
batch = 16
reference_batch = 16
warmup = 0.19 / 22
milestones = (14 / 22, 18 / 22)  # shares of the training at which the learning rate falls to a tenth
optim_wrapper.optimizer.update(lr=0.03, weight_decay=1e-6)
sampling = dict(kind="segment", frames=64, clips=1)
crops = dict(size=224, short_side=256, jitter=(256, 320), flip=0.0, crops=1, test_size=256)
