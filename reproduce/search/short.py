"""Short trainings: what a candidate is worth that is trained for a while, alone."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes, schedule
from reproduce.engine.runner import RunHook, StreamLoop, build_runner, resume_from
from reproduce.search.method import stream
from reproduce.suites import Suite


def fit(
    net: nn.Module, suite: Suite, config: Config, seed: int, manifest: Manifest, epochs: float, folder: Path, name: str
) -> tuple[VideoClassifier, RunHook, int]:
    """Train a network by a search recipe for so many epochs; resumes. The model, its hook and its steps."""
    steps, schedulers = schedule(Config(dict(config, epochs=epochs)), len(manifest.videos))
    hook = RunHook(seed, name, interval=config.checkpoint)
    parts, _ = passes(config, 1)
    runner = build_runner(
        config,
        folder,
        name,
        model=VideoClassifier(net, label_smoothing=config.label_smoothing),
        train_dataloader=stream(manifest, config, suite, seed, steps, parts),
        train_cfg=dict(type=StreamLoop, max_iters=steps, passes=parts),
        optim_wrapper=optimiser(config, parts),
        param_scheduler=schedulers,
        custom_hooks=[hook],
        randomness=dict(seed=seed),
        **resume_from(folder),
    )
    runner.train()
    return runner.model, hook, steps


@torch.no_grad()
def log_likelihood(model: VideoClassifier, batches: list[dict]) -> float:
    """Mean per held-out clip; with the statistics of each batch, as those that training averaged are young."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    losses = [model(**model.data_preprocessor(b, True), mode="loss")["loss"].item() for b in batches]
    return -sum(losses) / len(losses)
