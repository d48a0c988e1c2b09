"""The search stage of a run: an architecture, how it was found, and what that cost.

runs/<suite>/search-<strategy>-s<seed>-<hash>/
    train/last.pth → what the method leaves, architecture.json → search.json → search.png, search.svg

How a family is searched is a module of five functions, named by the recipe's ``method``: ``identity`` (what makes two
searches the same), ``find`` (search and leave the files), ``load`` (read what was found), ``picture`` (draw the
course of the search) and ``draw`` (a random architecture within the budget: the control).
"""

from __future__ import annotations

import hashlib
import importlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader

from reproduce.data.datasets import StreamSampler, TrainClips
from reproduce.data.manifest import Manifest, Video
from reproduce.engine.distributed import agreed
from reproduce.engine.runner import ignore_sigterm, threads_of
from reproduce.lease import held
from reproduce.records import Search
from reproduce.spec import lasting, plain
from reproduce.suites import Architecture, Entry, Suite


@dataclass(frozen=True)
class Found:
    """A finished search."""

    architecture: Architecture
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


def stream(half: Manifest, config: Config, suite: Suite, seed: int, steps: int = 10**9, passes: int = 1) -> DataLoader:
    """Batches of clips, ``config.batch`` over all ranks and so many passes.

    Raises:
        ValueError: the batch does not divide among the ranks.
    """
    world = get_world_size()
    if config.batch % world:
        raise ValueError(f"batch {config.batch} is no multiple of {world} ranks; change `batch` in the search recipe")
    dataset = TrainClips(half, suite.protocol, seed)
    return DataLoader(
        dataset,
        config.batch // world // passes,
        sampler=StreamSampler(dataset, config.batch // world, steps, get_rank(), world),
        num_workers=config.workers,
        worker_init_fn=ignore_sigterm,
        pin_memory=torch.cuda.is_available(),
    )


def method(config: Config) -> ModuleType:
    """The module that searches what a recipe says."""
    return importlib.import_module(f"reproduce.engine.search_{config.method}")


def search_config(entry: Entry, strategy: str = "", progressive: bool = True) -> Config:
    """An entry's search recipe and its network, with another strategy or without stages where asked for.

    Raises:
        ValueError: the entry is as it is, not searched for.
    """
    if entry.search is None:
        raise ValueError(f"entry {entry.name!r} is not searched for")
    config = entry.recipe(search=True)
    config.entry = entry.name
    config.strategy = strategy or config.strategy
    config.progressive = progressive
    return config


def folder_of(suite: Suite, config: Config, seed: int, train: Manifest, runs: Path) -> Path:
    """Where a search leaves what it finds: another for whatever changes the search."""
    how = method(config)
    what = [how.identity(suite, config), seed, train.hash, suite.gmacs, config.get("threads")]
    if not (how.ONE_DEVICE or config.get("sub_batch")) and (ranks := get_world_size()) > 1:
        what.append(ranks)  # batch norm's statistics are over a rank's part of the batch
    identity = json.dumps(what, sort_keys=True)
    kind = config.strategy if config.progressive else f"{config.strategy}-joint"
    return runs / suite.name / f"search-{kind}-s{seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_searchable(suite: Suite, config: Config, seed: int, train: Manifest, runs: Path, ranks: int) -> None:
    """Raise a ValueError where a search is still to be done on more ranks than the one that it can use."""
    if ranks < 2 or not method(config).ONE_DEVICE:
        return
    if not (folder_of(suite, config, seed, train, runs) / "search.json").exists():
        raise ValueError(
            f"GPUs: {ranks}, but the search of {config.method} runs on one; first, without --gpus or GPUS: "
            f"python -m reproduce search {suite.name} --entry {config.entry} --seeds {seed}"
        )


def search(suite: Suite, config: Config, seed: int, train: Manifest, runs: Path) -> Found:
    """Search at a suite's budget, or read what an equal search has left; ``search.png`` and ``.svg`` show its course.

    Args:
        suite: gives classes, budget and protocol.
        config: see ``search_config``.
        seed: of weights, halves, order and strategy.
        train: the training videos; only these are used.
        runs: folder of run folders.

    Raises:
        SearchError: the budget is out of the space's range, or no sampled architecture has a finite loss.
        OutputError: a folder cannot be written.
        ValueError: see ``check_searchable``.
    """
    how, folder = method(config), folder_of(suite, config, seed, train, runs)
    check_searchable(suite, config, seed, train, runs, get_world_size())
    if not agreed((folder / "search.json").exists()):
        with held(folder) if get_rank() == 0 else nullcontext(), threads_of(config):
            how.find(suite, config, seed, train, folder, folder.name.rpartition("-")[0])
    for path in (folder / "search.png", folder / "search.svg"):
        if get_rank() == 0 and not path.exists():
            how.picture(suite, config, folder, path)
    cost = Search(**json.loads((folder / "search.json").read_text()) | {"recipe": lasting(plain(config))})
    return Found(how.load(folder / "architecture.json"), cost, folder)


def resolved(
    suite: Suite, entry: Entry, seed: int, variant: int, train: Manifest, runs: Path
) -> tuple[Entry, Search | None]:
    """The entry with its architecture: searched for, drawn, or as it is."""
    if entry.search is None:
        return entry, None
    config = search_config(entry)
    if entry.variants > 1:
        return replace(entry, architecture=method(config).draw(suite, config, variant)), None
    found = search(suite, config, seed, train, runs)
    return replace(entry, architecture=found.architecture), found.cost
