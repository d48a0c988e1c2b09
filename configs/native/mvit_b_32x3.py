"""MViT-B 32x3, its authors' recipe as far as this suite supports it.

The authors' configs/Kinetics/MVIT_B_32x3_CONV.yaml has 24 blocks; their model zoo's and pytorchvideo's 32x3 has the 16
blocks and 36.6 M parameters that are built here.
"""

from mmengine.config import read_base

from baselines.mvit import mvit

with read_base():
    from .._base_.native_mvit import *

net = dict(type=mvit, drop_path=0.3)
sampling.update(dict(frames=32, stride=3))
