"""Process groups: several ranks, one run. Rank 0 holds the folder, writes the files and speaks."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine.dist import broadcast_object_list
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm
from torch import nn

T = TypeVar("T")
LAUNCHER = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A variable that holds a count.

    Raises:
        ValueError: it does not.
    """
    text = environment.get(name, "") or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r} is no number; unset it, or let a launcher set it")
    return int(text)


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this process as one of its ranks.

    Schedulers set ``WORLD_SIZE=1``, or the number of their pods, where nothing has started ranks: one process alone is
    no rank unless torchrun says so.

    Raises:
        ValueError: the variables contradict each other, or not all are there.
    """
    world, rank = (number(environment, name, default) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if rank >= max(1, world):
        raise ValueError(
            f"RANK={rank} and WORLD_SIZE={environment.get('WORLD_SIZE', 'unset')} contradict each other, ranks count "
            "from 0; unset both and use GPUS=, or start the command by torchrun"
        )
    missing = [name for name in LAUNCHER if name not in environment]
    if world > 1 and missing:
        raise ValueError(
            f"WORLD_SIZE={world}, but {', '.join(missing)} not set: a scheduler has started this process, not "
            "torchrun; unset WORLD_SIZE and RANK and use GPUS= on one machine, or start it by torchrun"
        )
    return world > 1 or "TORCHELASTIC_RUN_ID" in environment


def start() -> None:
    """Join the process group that torchrun's environment describes; nothing without it, nothing twice.

    Raises:
        ValueError: more ranks on this machine than GPUs.
    """
    if number(os.environ, "WORLD_SIZE", 1) <= 1 or torch.distributed.is_initialized():
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a launcher that is killed takes its ranks along
    gpu = torch.cuda.is_available()
    if gpu:
        check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]))
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Long: ranks wait while rank 0 alone generates videos or measures. A dead rank is the launcher's to notice.
    torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(hours=2))


def leave(failed: int = 0) -> None:
    """Leave the process group; nothing without one.

    Gloo's threads hold tensors of Python, and abort a process whose interpreter ends before they let go
    (pytorch/pytorch#179291). They end with the last reference to their group, and the model of a training that is over
    has one, in a cycle. NCCL would wait for the others: a rank that failed ends at once, without its interpreter.

    Args:
        failed: exit code of a rank that failed; 0 at an orderly end.
    """
    if torch.distributed.is_initialized():
        if failed:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failed)
        gc.collect()
        torch.distributed.destroy_process_group()


def check_gpus(wanted: int) -> None:
    """Raise a ValueError if this machine has fewer GPUs than are wanted."""
    if wanted > torch.cuda.device_count():
        raise ValueError(
            f"GPUS={wanted}, but this machine shows {torch.cuda.device_count()}; set GPUS= to what nvidia-smi lists, "
            "or check CUDA_VISIBLE_DEVICES"
        )


def agreed(value: T) -> T:
    """Rank 0's value, on all ranks; all must call it."""
    box = [value]
    broadcast_object_list(box)
    return box[0]


def distribute(model: nn.Module, sync_bn: str | None = None) -> nn.Module:
    """The model on this rank's device, its gradients averaged over ranks.

    Args:
        model: a VideoClassifier.
        sync_bn: ``torch``: batch norm's statistics are those of all ranks.

    Raises:
        ValueError: ``sync_bn`` on CPUs, for which torch has none.
    """
    if not torch.distributed.is_initialized():
        return model
    gpu = torch.cuda.is_available()
    if sync_bn and not gpu:
        raise ValueError(f"sync_bn={sync_bn!r} needs GPUs; on CPUs use `sub_batch`, whose statistics need no exchange")
    if sync_bn:
        model = convert_sync_batchnorm(model, sync_bn)
    # Of 1 × 1 kernels in channels-last order, where strides are a matter of taste.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    device = torch.cuda.current_device() if gpu else "cpu"
    # Buffers are not exchanged: rank 0's running statistics count (or precise BN's, which are equal on all ranks).
    return MMDistributedDataParallel(
        module=model.to(device), device_ids=[device] if gpu else None, broadcast_buffers=False
    )
