"""auto_tsnet_uniform, ssv2 recipe."""

from mmengine.config import read_base

from autotsnet.models import auto_tsnet_uniform

with read_base():
    from .._base_.ssv2 import *

net = dict(type=auto_tsnet_uniform)
