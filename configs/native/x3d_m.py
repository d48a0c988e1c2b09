"""X3D-M, its authors' recipe (configs/Kinetics/X3D_M.yaml)."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.native_x3d import *

net = dict(type=x3d)
sampling = dict(kind="dense", frames=16, stride=5, clips=10)
crops = dict(size=224, short_side=256, jitter=(256, 320), flip=0.5, crops=3, test_size=256)
