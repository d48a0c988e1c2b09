"""Embedded videos at full size on a GPU, an hour or so per model."""

from mmengine.config import read_base

with read_base():
    from .quick import *

epochs = 20
batch = 64
amp = "bf16"
workers = 12
