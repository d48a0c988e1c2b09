"""Kinetics-400 recipe, the same for every model: SGD from scratch, cosine, long.

After X3D's and SlowFast's public recipes (facebookresearch/SlowFast, configs/Kinetics/X3D_M.yaml and
SLOWFAST_4x16_R50.yaml): learning rate 0.1 per 128 clips, scaled linearly; 35 of 300 epochs of warm-up; weight decay
5e-5, none on batch norm. Batch norm's statistics are over 8 clips, as on each GPU of SlowFast's recipe (64 clips on 8
GPUs), whatever the number of GPUs here: 128 clips are 16 GPUs of one pass, 8 of two, one of sixteen.
"""

from mmengine.optim import OptimWrapper
from torch.optim import SGD

epochs = 300
batch = 128  # clips per step, all devices together; the rate below is scaled with it
reference_batch = 128  # the one that the rate is stated for
sub_batch = 8  # clips per pass and batch norm; the gradients of a step's passes are accumulated
amp = "bf16"
warmup = 35 / 300
threads = 8  # on a CPU; a second run beside it is no reason for other sums
workers = 12
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=5e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=40.0),  # mmaction2's SlowFast
)
precise_bn = 200
ema = None
checkpoint = 1000
