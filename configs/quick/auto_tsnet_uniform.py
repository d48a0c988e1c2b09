"""auto_tsnet_uniform, quick recipe."""

from mmengine.config import read_base

from autotsnet.models import auto_tsnet_uniform

with read_base():
    from .._base_.quick import *

net = dict(type=auto_tsnet_uniform, space="tiny", dropout=0.0)
