"""The exercise's space: searched, then trained."""

from mmengine.config import read_base

with read_base():
    from .base import *

suite["gmacs"] = 0.0002
nets = dict(kernel_net=dict(type="autotsnet.kernel_net"))
searches = dict(
    kernels=dict(
        method="supernet",
        space="kernels",
        strategy="fpnas",
        warmup=0.1,
        options=dict(warmup=1, steps=3, type_steps=1, judge_batches=1, finalists=2),
    )
)
entries = [dict(name="kernel_net", search="kernels")]
