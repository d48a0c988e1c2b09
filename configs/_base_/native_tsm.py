"""TSM as mmaction2 re-trained it (configs/recognition/tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_*.py).

128 clips a step on 8 GPUs at a learning rate of 0.02, a tenth from epoch 25 and a hundredth from epoch 45 of 50, 5
epochs of warm-up, gradients clipped at 20; biases learn twice as fast, the classifier's weights five times and its
biases ten times, as in the authors' code; batch norm of each GPU alone, not recalibrated.

Differs in four things: trained from scratch, where both start from ImageNet (so expect less than their accuracy: 50
epochs are short for that); random crops of random size, where theirs are corner crops of four sizes; mean and standard
deviation 0.45 and 0.225 of all channels, theirs are ImageNet's; the warm-up starts at a hundredth, theirs at a tenth.
"""

from mmaction.engine.optimizers import TSMOptimWrapperConstructor
from mmengine.optim import OptimWrapper
from torch.optim import SGD

epochs = 50
batch = 128
reference_batch = 128  # of the learning rate; another batch scales it
sub_batch = 16  # clips that batch norm sees together
warmup = 5 / 50
milestones = (25 / 50, 45 / 50)  # shares of the training at which the learning rate falls to a tenth
threads = 8
workers = 12
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=TSMOptimWrapperConstructor,
    optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(fc_lr5=True),
    clip_grad=dict(max_norm=20.0),
)
precise_bn = 0
ema = None
checkpoint = 1000
# The authors' efficient test, one view; mmaction2's figures are of ten crops (corners, centre, flips), not built here.
sampling = dict(kind="segment", frames=8, clips=1)
crops = dict(size=224, short_side=256, jitter=(256, 340), flip=0.5, crops=1, test_size=224)  # 224 / 0.66 = 340
