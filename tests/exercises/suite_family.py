"""The exercise's family in a suite."""

from mmengine.config import read_base

with read_base():
    from .base import *

nets = dict(one_layer=dict(type="autotsnet.one_layer"))
entries = [dict(name="one_layer")]
