"""X3D-XS, its authors' recipe (configs/Kinetics/X3D_XS.yaml)."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .._base_.native_x3d import *

net = dict(type=x3d)
sampling = dict(kind="dense", frames=4, stride=12, clips=10)
crops = dict(size=160, short_side=182, jitter=(182, 228), flip=0.5, crops=3, test_size=182)
