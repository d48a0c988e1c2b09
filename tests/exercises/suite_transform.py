"""X3D, and X3D on blurred clips by the exercise's transform."""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from .base import *

suite["gmacs"] = 0.001
nets = dict(
    x3d=dict(type=x3d, blocks=(1, 1, 1, 1), head_width=32),
    x3d_blurred=dict(type=x3d, blocks=(1, 1, 1, 1), head_width=32, transforms=[dict(type="blur", size=3)]),
)
entries = [dict(name="x3d"), dict(name="x3d_blurred")]
