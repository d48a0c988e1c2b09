"""X3D on videos of the exercise's layout."""

from mmengine.config import read_base

with read_base():
    from .suite_transform import *

suite["layout"] = "flat"
entries = [dict(name="x3d")]
