"""Searched or random architectures of Auto-TSNet's space, quick recipe."""

from mmengine.config import read_base

from autotsnet.models import auto_tsnet

with read_base():
    from .._base_.quick import *

net = dict(type=auto_tsnet, dropout=0.0)
