"""``compiled = True`` in a recipe: the network of a training runs by ``torch.compile``.

It is compiled in place: parameters keep their names, checkpoints and weights fit both ways, copies are not compiled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from mmengine.device import get_device
from torch import nn

BACKEND = "inductor"


def check_compiler() -> None:
    """Find out before the first step whether this machine can compile, by a function of one line.

    Raises:
        ValueError: it cannot, or has no GPU: on one thread of a CPU, inductor of torch 2.11 takes convolutions of 1 × 1
            for other strides than they have, and its step is no faster than the quick layers'.
    """
    if BACKEND == "inductor" and get_device() == "cpu":
        raise ValueError(
            "compiled=True is for GPUs, and this training runs on a CPU, whose quick layers are as fast; take it out "
            "of the recipe"
        )
    new = time.time()  # what was compiled once needs no compiler
    try:
        torch.compile(lambda x: x + new, backend=BACKEND, dynamic=False)(torch.ones(8, device=get_device()))
    except Exception as error:
        raise ValueError(
            "compiled=True needs a C++ compiler, on a GPU also Triton, and this machine cannot compile "
            f"({_reason(error)}); install them, or take it out of the recipe"
        ) from error


def compile_in_place(net: nn.Module) -> None:
    """Let ``torch.compile`` run a network, for each shape of its clips anew; it compiles at the first pass.

    Raises:
        ValueError: it is one of torch's own modules, which ``torch.compile`` passes over in silence.
    """
    if type(net).__module__.startswith("torch.nn."):
        raise ValueError(
            f"compiled=True does nothing for a bare nn.{type(net).__name__}; make the network a class of its own, or "
            "take it out of the recipe"
        )
    net.compile(backend=BACKEND, dynamic=False)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """A network that cannot be compiled is a ValueError that says what to do."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ValueError(
            f"compiled=True: this network cannot be compiled ({_reason(error)}); take it out of the recipe"
        ) from error


def _reason(error: Exception) -> str:
    """The first line that says something, after ``backend='inductor' raised:``."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
