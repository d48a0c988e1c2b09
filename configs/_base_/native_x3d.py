"""X3D's own recipe on Kinetics-400 (facebookresearch/SlowFast configs/Kinetics/X3D_{XS,S,M}.yaml).

128 clips a step on 8 GPUs at a learning rate of 0.1 (linear in the number of such machines), half a cosine over 300
epochs, the first 35 of them warm-up, Nesterov momentum (slowfast/config/defaults.py), no clipping; batch norm of 16
clips per GPU, recalibrated with 200 batches; tested with 10 clips × 3 crops.

Differs in four things: the warm-up starts at 0.001, not at 0.01, and follows the cosine while it rises; clips here are
windows of the video's own frames, theirs of 30 frames a second; the ten test clips begin evenly from the first to the
last possible frame, as theirs with TEST.USE_OFFSET_SAMPLING; by default, their last clip begins a tenth earlier.
"""

from mmengine.optim import OptimWrapper
from torch.optim import SGD

epochs = 300
batch = 128
reference_batch = 128  # of the learning rate; another batch scales it
sub_batch = 16  # clips that batch norm sees together
warmup = 35 / 300
cosine_from_start = True
threads = 8
workers = 12
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
precise_bn = 200
ema = None
checkpoint = 1000
