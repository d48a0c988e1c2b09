"""slowfast, kinetics recipe."""

from mmengine.config import read_base

from baselines.slowfast import slowfast

with read_base():
    from .._base_.kinetics import *  # noqa: F403

net = dict(type=slowfast)
