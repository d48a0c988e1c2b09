"""Kinetics-400 recipe, the same for every model: SGD from scratch, cosine, long.

After X3D's and SlowFast's public recipes (facebookresearch/SlowFast, configs/Kinetics/X3D_M.yaml and
SLOWFAST_4x16_R50.yaml): learning rate 0.1 per 128 clips, scaled linearly; 35 of 300 epochs of warm-up; weight decay
5e-5, none on batch norm.
"""

from mmengine.optim import OptimWrapper
from torch.optim import SGD

epochs = 300
batch = 128
warmup = 35 / 300
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
