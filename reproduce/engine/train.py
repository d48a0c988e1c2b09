"""Training: weights from a specification and videos."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from torch.utils.data import DataLoader

from autotsnet.inputs import channels
from autotsnet.registry import family
from reproduce.data.datasets import StreamSampler, TrainClips
from reproduce.data.manifest import Manifest
from reproduce.engine.compiled import check_compiler, compile_in_place, compiling
from reproduce.engine.distributed import agreed, distribute
from reproduce.engine.engines import has_bf16
from reproduce.engine.rebuild import config_of, model_of
from reproduce.engine.recipe import optimiser, passes, precision_of, schedule, videos_at_once
from reproduce.engine.runner import (
    LAST,
    PreciseBNHook,
    RunHook,
    StreamLoop,
    build_runner,
    check_shared_memory,
    ignore_sigterm,
    resume_from,
)
from reproduce.protocol import Protocol
from reproduce.records import Training
from reproduce.spec import RunSpec
from reproduce.whole_files import save_weights, write_json

SKIPPED = "train/skipped.txt"  # training videos that could not be decoded


def train(spec: RunSpec, protocol: Protocol, manifest: Manifest, folder: Path, hooks: Sequence[Hook] = ()) -> None:
    """Train a run, or go on; leave ``model.safetensors`` and ``training.json``. All ranks call it.

    Args:
        spec: the run.
        protocol: sampling and crops.
        manifest: training videos.
        folder: of the run.
        hooks: that look on, and change nothing.

    Raises:
        ValueError: the batch cannot be dealt out to the ranks, or the network not be compiled.
        DataError: the data cannot be trained on.
        CheckpointError: a checkpoint is damaged or unsafe.
        DivergedError: the loss is not finite.
    """
    config, world, alone = config_of(spec), get_world_size(), get_rank() == 0
    accumulate, clips = agreed(passes(config, world) if alone else None)  # one rank complains, not all
    precision_of(config)  # what the test would complain of, before hours of training
    wrapper, compiled = optimiser(config, accumulate), bool(config.get("compiled"))
    if compiled:
        agreed(check_compiler() if alone else None)
    if alone:
        rate = f"lr {wrapper['optimizer']['lr']:g}"
        if "reference_batch" in config:
            rate += f" ({config.optim_wrapper.optimizer.lr:g} per {config.reference_batch} clips)"
        dealt = f"batch {config.batch} = ranks {world} × passes {accumulate} × clips {clips}"
        how = (config.get("amp") or "fp32") + (", compiled" if compiled else "")
        if config.get("amp") and not has_bf16():
            how += " (this CPU has no bf16: it is emulated, which is slower than fp32)"
        print(f"  {spec.id} train: {dealt}, {rate}, {how}", file=sys.stderr)
    workers, crops = config.workers, protocol.crops
    inputs = family(spec.family).inputs
    views = videos_at_once(config, protocol) * protocol.views
    clip = protocol.sampling.frames * sum(channels(inputs))  # bytes a pixel
    check_shared_memory(workers, 2, clips * clip * crops.size**2, "train")
    check_shared_memory(workers, 1, views * clip * crops.test_size**2, "test")
    torch.manual_seed(spec.seed)
    steps, schedulers = schedule(config, len(manifest.videos))
    sampling = dict(sampler=config.get("sampler", "instance"), epochs=math.ceil(config.epochs))
    dataset = TrainClips(manifest, protocol, spec.seed, skipped=folder / SKIPPED, inputs=inputs, **sampling)
    sampler = StreamSampler(dataset, accumulate * clips, steps, get_rank(), world)
    hook = RunHook(spec.seed, f"{spec.id} train", interval=config.checkpoint)
    ema = EMAHook(momentum=config.ema) if config.ema else None
    precise = PreciseBNHook(config.precise_bn, ema, compiled) if config.precise_bn else None
    work, model = folder / "train", model_of(config)
    if compiled:
        compile_in_place(model.net)
    runner = build_runner(
        config,
        work,
        spec.id,
        quick=not compiled,
        model=distribute(model, config.get("sync_bn")),
        train_dataloader=DataLoader(
            dataset,
            batch_size=clips,
            sampler=sampler,
            num_workers=config.workers,
            worker_init_fn=ignore_sigterm,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        ),
        train_cfg=dict(type=StreamLoop, max_iters=steps, passes=accumulate),
        optim_wrapper=wrapper,
        param_scheduler=schedulers,
        custom_hooks=[h for h in (hook, ema, precise, *hooks) if h],
        randomness=dict(seed=spec.seed),
        **resume_from(work),
    )
    with compiling() if compiled else nullcontext():
        runner.train()
    if not alone:
        return
    training = Training(
        steps=steps,
        epochs=config.epochs,
        batch=config.batch,
        wall_s=hook.seconds_total,
        devices=world,
        final_loss=hook.loss,
    )
    write_json(folder / "training.json", training.model_dump())
    model = ema.ema_model.module if ema else getattr(runner.model, "module", runner.model)
    save_weights(folder / "model.safetensors", model.net.state_dict())
    (work / LAST).unlink()
