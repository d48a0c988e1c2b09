"""Search of Auto-TSNet's space: progressive, over one supernet.

Leaves ``supernet.safetensors``, ``journal.parquet``, ``trajectory.parquet`` and ``network.png``: the network as it
will be trained, scaled to the budget.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.optim import LinearLR

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.search.progressive import ProgressiveSearchLoop, SearchOptions
from autotsnet.spaces import SearchSpace, preset
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.local import optimiser, passes
from reproduce.engine.runner import LAST, RunHook, build_runner, resume_from
from reproduce.engine.searching import halves, stream
from reproduce.evidence.architecture_picture import draw_architecture
from reproduce.evidence.search_picture import draw_trajectory
from reproduce.files import save_weights, write_atomic, write_json
from reproduce.records import Search
from reproduce.suites import Suite

load = TwoStreamArchitecture.load
ONE_DEVICE = False
PROCEDURE = 3  # to be raised when the same options find something else: an old search is not taken for a new one


def identity(suite: Suite, config: Config) -> list:
    """Procedure, space, options, protocol and recipe."""
    wrapper = Config(dict(o=config.optim_wrapper)).pretty_text
    recipe = [wrapper, config.batch, config.warmup, config.fair, config.label_smoothing]
    recipe += [config[key] for key in ("amp", "reference_batch") if config.get(key)]
    return [PROCEDURE, asdict(space_of(suite, config)), asdict(search_options(config)), asdict(suite.protocol), recipe]


def space_of(suite: Suite, config: Config) -> SearchSpace:
    """The preset that a search recipe names, on the suite's clips."""
    return preset(config.space, suite.protocol.sampling.frames, suite.protocol.crops.size)


def search_options(config: Config) -> SearchOptions:
    """The options that a search recipe sets, with the defaults of the others."""
    recipe = {key: config.get(key) for key in ("strategy", "progressive", "sub_batch")}
    return SearchOptions.of(dict(recipe, fpnas=config.get("fpnas", {}), **config.options))


def search_loop(config: Config, suite: Suite, manifest: Manifest, seed: int) -> dict:
    """The loop's config: space, options and the data of both halves."""
    weights, alpha = halves(manifest, seed)
    return dict(
        type=ProgressiveSearchLoop,
        dataloader=stream(weights, config, suite, seed),
        held_out=stream(alpha, config, suite, seed),
        space=space_of(suite, config),
        num_classes=suite.classes,
        gmacs=suite.gmacs,
        options=search_options(config),
        seed=seed,
    )


def find(suite: Suite, config: Config, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
    """Search, or continue to; the files are whole when ``search.json`` is there."""
    passes(config, get_world_size())  # or it says what to change
    torch.manual_seed(seed)
    loop = search_loop(config, suite, manifest, seed)
    dataloader = loop.pop("dataloader")
    hook = RunHook(seed, name, interval=config.checkpoint)
    net = loop["space"].supernet(suite.classes, fair=config.fair)
    steps = sum(s.warmup + s.steps for s in loop["space"].stages(loop["options"], suite.classes))
    runner = build_runner(
        config,
        folder / "train",
        name,
        model=VideoClassifier(net, label_smoothing=config.label_smoothing),
        train_dataloader=dataloader,
        train_cfg=loop,
        optim_wrapper=optimiser(config, 1),
        param_scheduler=[
            dict(type=LinearLR, start_factor=0.01, begin=0, end=max(1, round(config.warmup * steps)), by_epoch=False)
        ],
        custom_hooks=[hook],
        randomness=dict(seed=seed),
        **resume_from(folder / "train"),
    )
    runner.train()
    if get_rank() == 0:
        save_weights(folder / "supernet.safetensors", runner.model.net.state_dict())
        _write(suite, runner.train_loop, hook, config, seed, folder)
    barrier()


def _write(suite: Suite, loop: ProgressiveSearchLoop, hook: RunHook, config: Config, seed: int, folder: Path) -> None:
    journal, trajectory = loop.journals()
    write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
    write_atomic(folder / "trajectory.parquet", lambda p: trajectory.to_parquet(p, index=False))
    write_atomic(folder / "architecture.json", loop.architecture.save)
    trained = suite.solution(replace(suite.entry(config.entry), architecture=loop.architecture))
    scales = {name: trained.kwargs.get(name, 1.0) for name in ("width", "expansion")}  # as trained, not as found
    title = f"Found on {suite.dataset}, seed {seed}, at the budget"
    draw_architecture(loop.architecture.scaled(**scales), folder / "network.png", title=title, gmacs=trained.gmacs)
    cost = Search(
        strategy=config.strategy if config.progressive else f"{config.strategy}, joint",
        space=loop.space.name,
        seed=seed,
        steps=loop.max_iters,
        architectures=len(journal),
        clips=loop.images,
        wall_s=hook.seconds_total,
        devices=get_world_size(),
    )
    write_json(folder / "search.json", cost.model_dump())
    (folder / "train" / LAST).unlink(missing_ok=True)


def picture(suite: Suite, config: Config, folder: Path, path: Path) -> None:
    """Draw the course of a search from what it left."""
    aims = space_of(suite, config).stages(search_options(config), suite.classes)
    journal = pd.read_parquet(folder / "journal.parquet")
    draw_trajectory(journal, path, {stage.name: stage.share * suite.gmacs for stage in aims})


def draw(suite: Suite, config: Config, seed: int, tolerance: float = 0.02) -> TwoStreamArchitecture:
    """An architecture drawn uniformly from those within ``tolerance`` of the suite's budget.

    Raises:
        ValueError: the budget is out of the space's range.
    """
    space = space_of(suite, config)
    cost, rng = space.cost(suite.classes), np.random.default_rng((seed, 3))
    for _ in range(1000):
        codes = space.sample(4096, rng)
        near = codes[(cost.gmacs(codes) / suite.gmacs - 1).abs() <= tolerance]
        if len(near):
            return space.decode(near[0])
    low, high = cost.range()
    raise ValueError(
        f"no architecture of space {space.name!r} within {tolerance:.0%} of {suite.gmacs:g} GMACs in 4 million draws; "
        f"the space spans {low:.3g} to {high:.3g}"
    )
