"""The search stage of a run: an architecture, how it was found, and what that cost.

runs/<suite>/search-<strategy>-s<seed>-<hash>/
    train/last.pth → supernet.safetensors, journal.parquet, trajectory.parquet, architecture.json, network.png,
    search.png → search.json
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.optim import LinearLR
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.cost import CostModel
from autotsnet.models import SuperNet
from autotsnet.search import FPNASOptions
from autotsnet.search.progressive import ProgressiveSearchLoop, SearchOptions, stages
from autotsnet.space import SearchSpace, preset
from reproduce.data.datasets import StreamSampler, TrainClips
from reproduce.data.manifest import Manifest, Video
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import LAST, RunHook, build_runner, resume_from
from reproduce.files import held, write_atomic, write_json
from reproduce.plots import draw_architecture, draw_trajectory
from reproduce.records import Search
from reproduce.suites import CONFIGS, Entry, Suite


@dataclass(frozen=True)
class Found:
    """A finished search."""

    architecture: TwoStreamArchitecture
    cost: Search
    folder: Path


def halves(manifest: Manifest, seed: int) -> tuple[Manifest, Manifest]:
    """Two disjoint halves of the training videos, class by class: one for the weights, one for alpha (FP-NAS)."""
    rng = np.random.default_rng((seed, 2))
    first, second = [], []
    by_label: list[list[Video]] = [[] for _ in manifest.classes]
    for video in manifest.videos:
        by_label[video.label].append(video)
    for mine in by_label:
        order = rng.permutation(len(mine))
        first += [mine[i] for i in order[::2]]
        second += [mine[i] for i in order[1::2]]
    return manifest.subset(tuple(first)), manifest.subset(tuple(second))


def search_config(entry: Entry, strategy: str = "", progressive: bool = True) -> Config:
    """An entry's search recipe, with another strategy or without stages where asked for."""
    config = Config.fromfile(str(CONFIGS / entry.search))
    config.strategy = strategy or config.strategy
    config.progressive = progressive
    return config


def search(suite: Suite, config: Config, seed: int, train: Manifest, runs: Path) -> Found:
    """Search a suite's space at its budget, or read what an equal search has left.

    Args:
        suite: gives classes, budget and protocol.
        config: see ``search_config``.
        seed: of supernet, halves, order and strategy.
        train: the training videos; only these are used.
        runs: folder of run folders.

    Raises:
        SearchError: the budget is out of the space's range, or no sampled architecture has a finite loss.
        OutputError: a folder cannot be written.
    """
    options = search_options(config)
    optimiser = Config(dict(o=config.optim_wrapper)).pretty_text
    recipe = [optimiser, config.batch, config.warmup, config.fair, config.label_smoothing]
    what = [asdict(space_of(suite, config)), asdict(options), asdict(suite.protocol), recipe]
    identity = json.dumps([what, seed, train.hash, suite.gmacs], sort_keys=True)
    kind = config.strategy if config.progressive else f"{config.strategy}-joint"
    name = f"search-{kind}-s{seed}"
    folder = runs / suite.name / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    if not (folder / "search.json").exists():
        with held(folder) if get_rank() == 0 else nullcontext():
            _search(suite, config, seed, train, folder, name)
    cost = Search(**json.loads((folder / "search.json").read_text()))
    return Found(TwoStreamArchitecture.load(folder / "architecture.json"), cost, folder)


def space_of(suite: Suite, config: Config) -> SearchSpace:
    """The preset that a search recipe names, on the suite's clips."""
    return preset(config.space).at(suite.protocol.sampling.frames, suite.protocol.crops.size)


def search_options(config: Config) -> SearchOptions:
    """The options that a search recipe sets, with the defaults of the others."""
    return SearchOptions(
        strategy=config.strategy,
        progressive=config.progressive,
        fpnas=FPNASOptions(**config.get("fpnas", {})),
        **config.options,
    )


def search_loop(config: Config, suite: Suite, manifest: Manifest, seed: int) -> dict:
    """The loop's config: space, options and the data of both halves."""
    space = space_of(suite, config)
    weights, alpha = halves(manifest, seed)
    world = get_world_size()
    if config.batch % world:
        raise ValueError(f"batch {config.batch} is no multiple of {world} ranks; change `batch` in the search recipe")

    def loader(half: Manifest) -> DataLoader:
        dataset = TrainClips(half, suite.protocol, seed)
        sampler = StreamSampler(dataset, config.batch // world, 10**9, get_rank(), world)
        return DataLoader(
            dataset,
            config.batch // world,
            sampler=sampler,
            num_workers=config.workers,
            pin_memory=torch.cuda.is_available(),
        )

    return dict(
        type=ProgressiveSearchLoop,
        dataloader=loader(weights),
        held_out=loader(alpha),
        space=space,
        num_classes=suite.classes,
        gmacs=suite.gmacs,
        options=search_options(config),
        seed=seed,
    )


def _search(suite: Suite, config: Config, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
    torch.manual_seed(seed)
    loop = search_loop(config, suite, manifest, seed)
    dataloader = loop.pop("dataloader")
    hook = RunHook(seed, name, interval=config.checkpoint)
    net = SuperNet(loop["space"], suite.classes, fair=config.fair)
    steps = sum(s.warmup + s.steps for s in stages(loop["space"], loop["options"], suite.classes))
    runner = build_runner(
        config,
        folder / "train",
        name,
        model=VideoClassifier(net, label_smoothing=config.label_smoothing),
        train_dataloader=dataloader,
        train_cfg=loop,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=[
            dict(type=LinearLR, start_factor=0.01, begin=0, end=max(1, round(config.warmup * steps)), by_epoch=False)
        ],
        custom_hooks=[hook],
        randomness=dict(seed=seed),
        **resume_from(folder / "train"),
    )
    runner.train()
    if get_rank() == 0:
        state = {k: v.contiguous() for k, v in runner.model.net.state_dict().items()}
        write_atomic(folder / "supernet.safetensors", lambda p: save_file(state, p))
        _write(suite, runner.train_loop, hook, config, seed, folder)
    barrier()


def _write(suite: Suite, loop: ProgressiveSearchLoop, hook: RunHook, config: Config, seed: int, folder: Path) -> None:
    journal, trajectory = loop.journals()
    write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
    write_atomic(folder / "trajectory.parquet", lambda p: trajectory.to_parquet(p, index=False))
    write_atomic(folder / "architecture.json", loop.architecture.save)
    gmacs = CostModel(loop.space, suite.classes).gmacs(loop.template[None])[0]
    draw_architecture(
        loop.architecture, folder / "network.png", title=f"Found on {suite.dataset}, seed {seed}", gmacs=float(gmacs)
    )
    draw_trajectory(journal, folder / "search.png", {s.name: s.share * suite.gmacs for s in loop.stages})
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


def random_architecture(suite: Suite, config: Config, seed: int, tolerance: float = 0.02) -> TwoStreamArchitecture:
    """An architecture drawn uniformly from those within ``tolerance`` of the suite's budget.

    Raises:
        ValueError: the budget is out of the space's range.
    """
    space = space_of(suite, config)
    cost, rng = CostModel(space, suite.classes), np.random.default_rng((seed, 3))
    for _ in range(1000):
        codes = space.sample(4096, rng)
        near = np.flatnonzero(np.abs(cost.gmacs(codes) / suite.gmacs - 1) <= tolerance)
        if near.size:
            return space.decode(codes[near[0]])
    low, high = cost.range()
    raise ValueError(
        f"no architecture of space {space.name!r} within {tolerance:.0%} of {suite.gmacs:g} GMACs in 4 million draws; "
        f"the space spans {low:.3g} to {high:.3g}"
    )


def resolved(
    suite: Suite, entry: Entry, seed: int, variant: int, train: Manifest, runs: Path
) -> tuple[Entry, Search | None]:
    """The entry with its architecture: searched for, drawn, or as it is."""
    if entry.search is None:
        return entry, None
    if entry.variants > 1:
        return replace(entry, architecture=random_architecture(suite, search_config(entry), variant)), None
    found = search(suite, search_config(entry), seed, train, runs)
    return replace(entry, architecture=found.architecture), found.cost
