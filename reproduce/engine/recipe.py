"""What a recipe says, as mmengine takes it: learning rate, steps, passes, precision."""

from __future__ import annotations

import math

from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR

from reproduce.engine.classifier import VIEWS
from reproduce.engine.engines import NO_AMX, PRECISIONS, torch_is_safe
from reproduce.engine.runner import Bf16OptimWrapper
from reproduce.protocol import Protocol


def schedule(config: Config, videos: int) -> tuple[int, list[dict]]:
    """Steps of the training, and its learning rate, per step: a linear rise, then half a cosine to zero.

    With ``cosine_from_start``, as in PySlowFast by default, the cosine runs over the whole training, times the rise.
    With ``milestones``, shares of the training like ``warmup``, the rate falls to a tenth at each of them instead.
    """
    steps = math.ceil(config.epochs * videos / config.batch)
    warmup = max(1, round(config.warmup * steps))
    begin = 0 if config.get("cosine_from_start") else warmup
    fall = dict(type=CosineAnnealingLR, eta_min=0.0, begin=begin, end=steps, T_max=steps - begin, by_epoch=False)
    if config.get("milestones"):
        fall = dict(type=MultiStepLR, milestones=[round(m * steps) for m in config.milestones], by_epoch=False)
    return steps, [dict(type=LinearLR, start_factor=0.01, begin=0, end=warmup, by_epoch=False), fall]


def passes(config: Config, world: int) -> tuple[int, int]:
    """How a step's batch is dealt out: passes of each rank, and clips per pass.

    ``sub_batch`` in a recipe is the number of clips per pass: batch norm's statistics are over them and gradients are
    accumulated over the passes, so neither depends on the number of ranks. Without it, a rank takes its part at once.

    Raises:
        ValueError: the batch cannot be dealt out evenly.
    """
    clips = config.get("sub_batch") or max(1, config.batch // world)
    if config.batch % (world * clips):
        raise ValueError(
            f"batch {config.batch} is no multiple of {world} ranks × {clips} clips; choose another number of GPUs "
            "(GPUS=), or edit `batch` or `sub_batch` in the recipe"
        )
    return config.batch // (world * clips), clips


def optimiser(config: Config, accumulate: int) -> dict:
    """The optimiser's wrapper: its rate scaled from the batch that the recipe states it for, its precision.

    Raises:
        ValueError: an unknown precision, or one that torch cannot be trusted with here.
    """
    wrapper = config.optim_wrapper.to_dict()
    wrapper["accumulative_counts"] = accumulate
    if wrapper.get("paramwise_cfg"):
        wrapper["paramwise_cfg"]["bypass_duplicate"] = True  # a parameter of two names is one
    wrapper["optimizer"]["lr"] *= config.batch / config.get("reference_batch", config.batch)
    if config.get("amp") not in (None, "bf16"):
        raise ValueError(f"amp={config.amp!r} is unknown; known: 'bf16', or leave it out for fp32")
    if config.get("amp"):
        if not torch_is_safe():
            raise ValueError(f"amp={config.amp!r}: torch's bf16 is not safe on CPUs with AMX; set {NO_AMX}")
        wrapper["type"] = Bf16OptimWrapper
    return wrapper


def videos_at_once(config: Config, protocol: Protocol) -> int:
    """In a test: as many views as clips in a training step, no more than ``VIEWS``, one video at least."""
    return max(1, min(config.batch, VIEWS) // protocol.views)


def precision_of(config: Config) -> str:
    """Precision of a test: ``test_amp`` of the recipe, else fp32.

    Raises:
        ValueError: an unknown precision.
    """
    precision = config.get("test_amp") or "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"test_amp={precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    return precision
