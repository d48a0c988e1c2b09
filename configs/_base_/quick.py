"""Quick recipe: the embedded videos on a laptop CPU, a minute or two per model.

AdamW because it is fast out of the gate: in so few steps SGD at 0.02 reached less than half of its accuracy, and AdamW
at 2e-3 or 1e-2 less than at 5e-3 (X3D on synthetic-ssv2: 27, 30 and 40 %). No dropout: 450 steps do not overfit.
"""

from mmengine.optim import OptimWrapper
from torch.optim import AdamW

epochs = 3
batch = 16  # clips per step, all devices together
warmup = 0.1  # share of the steps with a linearly rising rate; cosine to zero after that
threads = 1  # of a training and a test on a CPU: another number rounds sums otherwise
workers = 1
label_smoothing = 0.0
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),  # batch norm without weight decay
    clip_grad=dict(max_norm=5.0),
)
precise_bn = 0  # batches to recalibrate batch norm with at the end
ema = None  # or a momentum, 0.0002
checkpoint = 100  # steps between checkpoints at the most; at least every five minutes
