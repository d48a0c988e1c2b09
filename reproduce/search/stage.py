"""The search stage of a run: an architecture, how it was found, and what that cost.

runs/<suite>/search-<strategy>-s<seed>-<hash>/
    train/last.pth → what the method leaves, architecture.json → search.json → search.png, search.svg

How a family is searched is a class, see ``reproduce.search.method``.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size

from autotsnet.architecture import Architecture
from autotsnet.registry import family
from reproduce.data.manifest import Manifest
from reproduce.engine.distributed import agreed
from reproduce.engine.runner import threads_of
from reproduce.lease import held
from reproduce.records import Search
from reproduce.search import assemblenet, e3d, evanet, pvnas, supernet, tiny_video_net  # noqa: F401  (registers methods)
from reproduce.search.method import METHODS, Method
from reproduce.spec import lasting, plain
from reproduce.suites import Entry, Suite


@dataclass(frozen=True)
class Found:
    """A finished search."""

    architecture: Architecture
    cost: Search
    folder: Path


def method(suite: Suite, config: Config) -> Method:
    """The method that a search recipe names.

    Raises:
        ValueError: an unknown one; the message lists the known ones.
    """
    return METHODS.named(config.method)(suite, config)


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
    how = method(suite, config)
    what = [how.identity(), seed, train.hash, suite.gmacs, config.get("threads")]
    if not (how.one_device or config.get("sub_batch")) and (ranks := get_world_size()) > 1:
        what.append(ranks)  # batch norm's statistics are over a rank's part of the batch
    identity = json.dumps(what, sort_keys=True)
    kind = config.strategy if config.progressive else f"{config.strategy}-joint"
    return runs / suite.name / f"search-{kind}-s{seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def check_searchable(suite: Suite, config: Config, seed: int, train: Manifest, runs: Path, ranks: int) -> None:
    """Raise a ValueError where a search is still to be done on more ranks than the one that it can use."""
    if ranks < 2 or not method(suite, config).one_device:
        return
    if not (folder_of(suite, config, seed, train, runs) / "search.json").exists():
        raise ValueError(
            f"GPUs: {ranks}, but the search of {config.method} runs on one; first, without --gpus or GPUS: "
            f"python -m reproduce search {suite.ref} --entry {config.entry} --seeds {seed}"
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
    how, folder = method(suite, config), folder_of(suite, config, seed, train, runs)
    check_searchable(suite, config, seed, train, runs, get_world_size())
    if not agreed((folder / "search.json").exists()):
        with held(folder) if get_rank() == 0 else nullcontext(), threads_of(config):
            how.find(seed, train, folder, folder.name.rpartition("-")[0])
    for path in (folder / "search.png", folder / "search.svg"):
        if get_rank() == 0 and not path.exists():
            how.picture(folder, path)
    cost = Search(**json.loads((folder / "search.json").read_text()) | {"recipe": lasting(plain(config))})
    found = family(config.net["type"]).architecture.load(folder / "architecture.json")
    return Found(found, cost, folder)


def resolved(
    suite: Suite, entry: Entry, seed: int, variant: int, train: Manifest, runs: Path
) -> tuple[Entry, Search | None]:
    """The entry with its architecture: searched for, drawn, or as it is."""
    if entry.search is None:
        return entry, None
    config = search_config(entry)
    if entry.variants > 1:
        return replace(entry, architecture=method(suite, config).draw(variant)), None
    found = search(suite, config, seed, train, runs)
    return replace(entry, architecture=found.architecture), found.cost
