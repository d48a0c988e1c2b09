"""Process groups under torchrun."""

from __future__ import annotations

import os

import torch


def start() -> None:
    """Join the process group that torchrun's environment describes; nothing without it, nothing twice."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
