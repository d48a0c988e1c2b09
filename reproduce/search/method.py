"""What a search method is: one class, one file; a search recipe names it in ``method``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import DataLoader

from autotsnet.architecture import Architecture
from autotsnet.meta import on_meta
from autotsnet.plugins import OpenRegistry
from autotsnet.registry import family
from reproduce.budget import BudgetError, memory_folder, solve
from reproduce.data.datasets import StreamSampler, TrainClips
from reproduce.data.manifest import Manifest, Video
from reproduce.engine.runner import ignore_sigterm
from reproduce.records import Search
from reproduce.suites import Suite
from reproduce.whole_files import write_atomic, write_json

METHODS = OpenRegistry("search method", "searches")


class Method(ABC):
    """How the architectures of a space are searched for at a suite's budget, and drawn from it.

    Args:
        suite: gives classes, budget and protocol.
        config: a search recipe, see ``reproduce.search.stage.search_config``.

    Attributes:
        one_device: it cannot use several ranks.
    """

    one_device = True

    def __init__(self, suite: Suite, config: Config) -> None:
        self.suite, self.config = suite, config

    @abstractmethod
    def identity(self) -> list:
        """What makes two searches the same, beside seed, videos and budget: plain data."""

    @abstractmethod
    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """Search, or go on; leave ``architecture.json`` and, last, ``search.json``, a ``reproduce.records.Search``.

        Args:
            seed: of weights, halves, order and strategy.
            manifest: the training videos.
            folder: of the search.
            name: for the progress line.
        """

    def check(self) -> None:
        """Find out before hours of work what can be found out: a ValueError says what is wrong.

        Widths are solved later; what the recipe's transforms do to a network is seen on any architecture.
        """
        net = dict(self.config.net)
        if net.get("transforms"):
            kind = family(net.pop("type"))
            on_meta(partial(kind.build, **self.size, **net | self.draw(0).arguments()))

    @abstractmethod
    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """What follows from the recipe for the fields of a record's ``Search``.

        Where chance has a part in it (how many architectures a step draws, how many graphs fail), the nearest number
        that the recipe allows.

        Args:
            said: what the record says.
            videos: of training.
        """

    @abstractmethod
    def picture(self, folder: Path, path: Path) -> None:
        """Draw the course of a search from what it left."""

    @abstractmethod
    def draw(self, seed: int) -> Architecture:
        """A random architecture of the space: the control."""

    def first_at_budget(self, drawn: Iterable[Architecture]) -> Architecture:
        """The first that the suite's budget can be met with by the knobs of its family; else the last."""
        fixed = {k: v for k, v in self.config.net.items() if k != "type"}
        kind = family(self.config.net["type"])
        for architecture in drawn:
            with suppress(BudgetError):
                made = fixed | architecture.arguments()
                found = solve(kind.build, kind.knobs, self.suite.gmacs, **self.size, fixed=made, memory=memory_folder())
                if found.matched:
                    break
        return architecture

    @property
    def size(self) -> dict[str, int]:
        """What a build function takes of the suite: classes, and frames and side of its clips."""
        protocol = self.suite.protocol
        return dict(num_classes=self.suite.classes, frames=protocol.sampling.frames, crop=protocol.crops.size)


def leave(folder: Path, journal: pd.DataFrame, architecture: dict[str, Any], record: Search) -> None:
    """Write what a finished search has in a folder, ``search.json`` last."""
    write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
    write_json(folder / "architecture.json", architecture)
    write_json(folder / "search.json", record.model_dump())


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
    dataset = TrainClips(half, suite.protocol, seed, inputs=family(config.net["type"]).inputs)
    return DataLoader(
        dataset,
        config.batch // world // passes,
        sampler=StreamSampler(dataset, config.batch // world, steps, get_rank(), world),
        num_workers=config.workers,
        worker_init_fn=ignore_sigterm,
        pin_memory=torch.cuda.is_available(),
    )
