"""MoViNet's own recipe, in part (tensorflow/models official/projects/movinet/configs/yaml/movinet_*_k600_8x8.yaml).

RMSprop (decay 0.9, momentum 0.9, epsilon 1), 1024 clips a step at a learning rate of 1.8, a cosine over 240 epochs
(the authors' 85 785 steps on Kinetics-600) after 2.5 % of warm-up, weight decay 3e-5 on kernels, gradients clipped at
1, label smoothing 0.1; one clip of the whole video, one crop.

The recipe is that of Kinetics-600. The authors use, and this suite does not have: AutoAugment, crops of random area
(0.08 to 1) and aspect, batch norm over all devices (here of 16 clips), pixels from 0 to 1 (here of mean 0.45 and
deviation 0.225). Their RMSprop has its epsilon inside the root; with 1 and gradients of length 1 at most, the two are
nearly the same.
"""

from mmengine.optim import OptimWrapper
from torch.optim import RMSprop

epochs = 240
batch = 1024
reference_batch = 1024  # of the learning rate; another batch scales it
sub_batch = 16  # clips that batch norm sees together
warmup = 2145 / 85785
threads = 8
workers = 12
label_smoothing = 0.1
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=RMSprop, lr=1.8, alpha=0.9, eps=1.0, momentum=0.9, weight_decay=3e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"scale": dict(decay_mult=0.0)}),  # ReZero
    clip_grad=dict(max_norm=1.0),
)
precise_bn = 0
ema = None
checkpoint = 500
