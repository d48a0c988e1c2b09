"""X3D-L, its authors' recipe (configs/Kinetics/X3D_L.yaml)."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.native_x3d import *

net = dict(type=x3d, blocks=(5, 10, 25, 15))
epochs = 256
batch = 64
reference_batch = 64
sub_batch = 8
optim_wrapper.optimizer.update(lr=0.05)
warmup = 35 / 256
sampling = dict(kind="dense", frames=16, stride=5, clips=10)
crops = dict(size=312, short_side=356, jitter=(356, 446), flip=0.5, crops=3, test_size=356)
