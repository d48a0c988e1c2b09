"""Clips per second of a model's forward pass."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from reproduce.records import Throughput, device_name


def forward_throughput(
    net: nn.Module, frames: int, crop: int, *, batch: int = 16, repeats: int = 20, warmup: int = 3
) -> Throughput:
    """Time forward passes of one batch, fp32, channels-last, in evaluation mode, on the device of the network.

    Args:
        net: B 3 T H W -> B N.
        frames: T.
        crop: H and W.
        batch: clips per pass.
        repeats: passes timed; the median and the interquartile range over the median are reported.
        warmup: passes before that.
    """
    device = next(net.parameters()).device
    clip = torch.randn(batch, 3, frames, crop, crop, device=device).to(memory_format=torch.channels_last_3d)
    net.eval()
    seconds = []
    with torch.inference_mode():
        for i in range(warmup + repeats):
            start = time.perf_counter()
            net(clip)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= warmup:
                seconds.append(time.perf_counter() - start)
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Throughput(
        clips_per_s=batch / median,
        spread=(high - low) / median,
        batch=batch,
        repeats=repeats,
        device=device_name(),
        precision="fp32, TF32 convolutions" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "fp32",
        threads=torch.get_num_threads(),
    )
