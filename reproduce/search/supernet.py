"""Search over one supernet, of any registered space, and that of Auto-TSNet's.

Leaves ``supernet.safetensors``, ``journal.parquet`` and ``trajectory.parquet``.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.optim import CosineAnnealingLR, LinearLR

from autotsnet.architecture import Architecture, TwoStreamArchitecture
from autotsnet.search.judges import JUDGES
from autotsnet.search.progressive import ProgressiveSearchLoop, SearchOptions
from autotsnet.space import Space, space_of
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes
from reproduce.engine.runner import LAST, RunHook, build_runner, resume_from
from reproduce.records import Search
from reproduce.search.method import METHODS, Method, halves, stream
from reproduce.whole_files import save_weights, write_atomic, write_json

PROCEDURE = 3  # to be raised when the same options find something else: an old search is not taken for a new one


@METHODS.register_module(name="supernet")
class SupernetSearch(Method):
    """Stage by stage, as the space has them. The recipe names the space; a ``judge`` where it is not the supernet."""

    one_device = False

    def identity(self) -> list:
        """See ``Method``: procedure, space, options, protocol and recipe."""
        config = self.config
        wrapper = Config(dict(o=config.optim_wrapper)).pretty_text
        recipe = [wrapper, config.batch, config.warmup, bool(config.get("fair")), config.label_smoothing]
        recipe += [config[key] for key in ("amp", "reference_batch", "judge") if config.get(key)]
        space = asdict(self.space) if is_dataclass(self.space) else config.space
        options = asdict(self.options)
        if not self.options.frozen:
            del options["frozen"]  # as it was before there was any
        return [PROCEDURE, space, options, asdict(self.suite.protocol), recipe]

    @cached_property
    def space(self) -> Space:
        """The space that the recipe names, on the suite's clips."""
        protocol = self.suite.protocol
        given = self.config.space if isinstance(self.config.space, dict) else dict(type=self.config.space)
        return space_of(dict(given, frames=protocol.sampling.frames, crop=protocol.crops.size))

    @cached_property
    def options(self) -> SearchOptions:
        """The options that the recipe sets, with the defaults of the others."""
        config = self.config
        recipe = {key: config.get(key) for key in ("strategy", "progressive", "sub_batch")}
        return SearchOptions.of(dict(recipe, fpnas=config.get("fpnas", {}), **config.options))

    def check(self) -> None:
        """See ``Method``: options and judge are known, and the budget is inside of what the space can cost."""
        super().check()
        judge = self.config.get("judge") or dict(type="supernet")
        kind = judge.get("type") if isinstance(judge, dict) else None
        if kind is None or (isinstance(kind, str) and JUDGES.get(kind) is None):
            known = ", ".join(sorted(JUDGES.module_dict))
            raise ValueError(
                f"{self.config.entry}: unknown judge {(kind or judge)!r}; known: {known}; give dict(type=name)"
            )
        self.space.stages(self.options, self.suite.classes)
        low, high = self.space.cost(self.suite.classes).range()
        if not low <= self.suite.gmacs <= high:
            raise ValueError(
                f"{self.config.entry}: a budget of {self.suite.gmacs:g} GMACs is outside of space {self.space.name!r}, "
                f"whose architectures cost {low:.3g} to {high:.3g}; choose another budget or space"
            )

    def loop(self, manifest: Manifest, seed: int) -> dict:
        """The loop's config: space, options and the data of both halves."""
        suite, config = self.suite, self.config
        weights, alpha = halves(manifest, seed)
        return dict(
            type=ProgressiveSearchLoop,
            dataloader=stream(weights, config, suite, seed),
            held_out=stream(alpha, config, suite, seed),
            space=self.space,
            num_classes=suite.classes,
            gmacs=suite.gmacs,
            judge=config.get("judge"),
            options=self.options,
            seed=seed,
        )

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        suite, config = self.suite, self.config
        passes(config, get_world_size())  # or it says what to change
        torch.manual_seed(seed)
        loop = self.loop(manifest, seed)
        dataloader = loop.pop("dataloader")
        hook = RunHook(seed, name, interval=config.checkpoint)
        net = self.space.supernet(suite.classes, **(dict(fair=True) if config.get("fair") else {}))
        stages = self.space.stages(self.options, suite.classes)
        trained = sum(s.warmup if self.options.frozen else s.warmup + s.steps for s in stages)
        rising = max(1, round(config.warmup * trained))
        rates = [dict(type=LinearLR, start_factor=0.01, begin=0, end=rising, by_epoch=False)]
        if self.options.frozen and trained > rising:
            rates.append(dict(type=CosineAnnealingLR, begin=rising, end=trained, eta_min=0, by_epoch=False))
        runner = build_runner(
            config,
            folder / "train",
            name,
            model=VideoClassifier(net, label_smoothing=config.label_smoothing),
            train_dataloader=dataloader,
            train_cfg=loop,
            optim_wrapper=optimiser(config, 1),
            param_scheduler=rates,
            custom_hooks=[hook],
            randomness=dict(seed=seed),
            **resume_from(folder / "train"),
        )
        runner.train()
        if get_rank() == 0:
            save_weights(folder / "supernet.safetensors", runner.model.net.state_dict())
            self._write(runner.train_loop, hook, seed, folder)
        barrier()

    def _write(self, loop: ProgressiveSearchLoop, hook: RunHook, seed: int, folder: Path) -> None:
        config = self.config
        journal, trajectory = loop.journals()
        write_atomic(folder / "journal.parquet", lambda p: journal.to_parquet(p, index=False))
        write_atomic(folder / "trajectory.parquet", lambda p: trajectory.to_parquet(p, index=False))
        write_atomic(folder / "architecture.json", loop.architecture.save)
        self.show(loop.architecture, seed, folder)
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

    def show(self, architecture: Architecture, seed: int, folder: Path) -> None:
        """Draw what was found; nothing, where nobody has said how."""

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        config, options = self.config, self.options
        stages = self.space.stages(options, self.suite.classes)
        warmup, learnt = sum(s.warmup for s in stages), sum(s.steps for s in stages)
        judged = max(said.architectures, learnt)
        # An architecture passes a batch of either half, or after the weights are frozen, all batches of the judge.
        passes = warmup + judged * (options.judge_batches if options.frozen else 2)
        finalists = round((said.clips / config.batch - passes) / options.judge_batches)
        finalists = min(max(finalists, len(stages)), len(stages) * options.finalists)
        other = (config.get("judge") or dict(type="supernet"))["type"] != "supernet"
        divides = said.devices > 0 and config.batch % said.devices == 0
        return dict(
            strategy=config.strategy if config.progressive else f"{config.strategy}, joint",
            space=self.space.name,
            steps=warmup + learnt,
            architectures=judged,
            # Another judge than the supernet says itself how many clips it saw.
            clips=said.clips if other else config.batch * (passes + options.judge_batches * finalists),
            devices=said.devices if divides else 1,
        )

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``."""
        from reproduce.pictures.search import draw_trajectory  # matplotlib takes long to import

        suite = self.suite
        aims = self.space.stages(self.options, suite.classes)
        journal = pd.read_parquet(folder / "journal.parquet")
        draw_trajectory(journal, path, {stage.name: stage.share * suite.gmacs for stage in aims})

    def draw(self, seed: int, tolerance: float = 0.02) -> Architecture:
        """An architecture drawn uniformly from those within ``tolerance`` of the suite's budget.

        Raises:
            ValueError: the budget is out of the space's range.
        """
        suite, space = self.suite, self.space
        cost, rng = space.cost(suite.classes), np.random.default_rng((seed, 3))
        for _ in range(1000):
            codes = space.sample(4096, rng)
            near = codes[(cost.gmacs(codes) / suite.gmacs - 1).abs() <= tolerance]
            if len(near):
                return space.decode(near[0])
        low, high = cost.range()
        raise ValueError(
            f"no architecture of space {space.name!r} within {tolerance:.0%} of {suite.gmacs:g} GMACs in 4 million "
            f"draws; the space spans {low:.3g} to {high:.3g}"
        )


@METHODS.register_module(name="auto_tsnet")
class AutoTSNetSearch(SupernetSearch):
    """Also leaves ``network.png``: the network as it will be trained, scaled to the budget."""

    def show(self, architecture: TwoStreamArchitecture, seed: int, folder: Path) -> None:
        """See ``SupernetSearch``."""
        from reproduce.pictures.architecture import draw_architecture  # matplotlib takes long to import

        suite = self.suite
        trained = suite.solution(replace(suite.entry(self.config.entry), architecture=architecture))
        scales = {name: trained.kwargs.get(name, scale) for name, scale in architecture.scales.items()}  # as trained
        title = f"Found on {suite.dataset}, seed {seed}, at the budget"
        draw_architecture(architecture.scaled(**scales), folder / "network.png", title=title, gmacs=trained.gmacs)
