"""auto_tsnet_uniform, full recipe."""

from mmengine.config import read_base

from autotsnet.models import auto_tsnet_uniform

with read_base():
    from .._base_.full import *

net = dict(type=auto_tsnet_uniform, space="s")
