"""MViT-B's own recipe on Kinetics-400, in part (facebookresearch/SlowFast configs/Kinetics/MVIT_B_16x4_CONV.yaml).

AdamW, 16 clips a step on 8 GPUs at a learning rate of 1e-4 (linear in the number of such machines), half a cosine over
200 epochs after 30 of warm-up, weight decay 0.05 except on norms and biases, gradients clipped at 1; 1 crop, 5 clips.

The authors use, and this suite does not have: RandAugment (magnitude 7, 4 layers) on two samples of each video, mixup
0.8 and cutmix 1.0 (here only their label smoothing), random erasing 0.25, crops of random area (0.08 to 1) and aspect.
A transformer from scratch needs them: expect far less than their 78.4 %. The rate ends at 0, theirs at 1e-6.
"""

from mmengine.optim import OptimWrapper
from torch.optim import AdamW

epochs = 200
batch = 16
reference_batch = 16  # of the learning rate; another batch scales it
warmup = 30 / 200
threads = 8
workers = 12
label_smoothing = 0.1
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
precise_bn = 0
ema = None
checkpoint = 1000
sampling = dict(kind="dense", frames=16, stride=4, clips=5)
crops = dict(size=224, short_side=256, jitter=(256, 320), flip=0.5, crops=1, test_size=224)
