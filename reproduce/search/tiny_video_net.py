"""Evolution of Tiny Video Networks under a runtime: milliseconds of a forward pass on this device.

As the authors do, a candidate that takes longer is discarded before it is trained. Each other is trained for a short
while; its held-out log-likelihood is its fitness. Leaves ``journal.parquet``.
"""

from __future__ import annotations

import itertools
import math
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from autotsnet.registry import MODELS, family
from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from autotsnet.search.constraint import Runtime, forward_ms
from autotsnet.search.progressive import SearchError
from baselines.tiny_video_net import TinyVideoArchitecture, TinyVideoSpace
from reproduce.data.manifest import Manifest
from reproduce.engine.runner import DivergedError
from reproduce.records import Search, device_name
from reproduce.search.method import METHODS, Method, first_at_budget, halves, stream
from reproduce.search.short import fit, log_likelihood
from reproduce.whole_files import write_atomic, write_json

STRATEGIES = ("evolution", "random")
DRAWS = 20  # random candidates, until a width brings one to the budget


@METHODS.register_module(name="tiny_video_net")
class TinyVideoSearch(Method):
    """Evolution of what is fast enough here, or random search of it."""

    @cached_property
    def space(self) -> TinyVideoSpace:
        """On the suite's clips."""
        protocol = self.suite.protocol
        return TinyVideoSpace(protocol.sampling.frames, protocol.crops.size, self.config.options.width)

    @cached_property
    def limit(self) -> Runtime:
        """The runtime that the recipe names, or that of an entry of the suite, on this device.

        Raises:
            SearchError: the fastest candidate takes longer; the message says the range.
        """
        suite, o, most = self.suite, self.config.options, self.config.options.get("milliseconds")
        if most is None:
            net = MODELS.build(suite.config(suite.entry(o.reference)).net)
            clip = self.space.example().to(memory_format=torch.channels_last_3d)
            most = forward_ms(net, clip.cuda() if torch.cuda.is_available() else clip)
        found = Runtime(
            most, space=self.space, num_classes=suite.classes, warmup=1, repeats=5, hopeless=2.0, channels_last=True
        )
        low, high = found.range()
        if most < low:
            raise SearchError(
                f"a runtime of {most:.3g} ms is below the fastest candidate of space {self.space.name!r}; candidates "
                f"take {low:.3g} to {high:.3g} ms here, choose at least {low:.3g}"
            )
        return found

    def identity(self) -> list:
        """See ``Method``: strategy, recipe and the device, whose times decide."""
        config = self.config
        recipe = Config(dict(net=config.net, optim=config.optim_wrapper, options=config.options)).pretty_text
        more = [config.get(key) for key in ("label_smoothing", "milestones", "amp", "sub_batch", "reference_batch")]
        return [recipe, config.strategy, config.batch, config.warmup, repr(self.suite.protocol), more, device_name()]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        suite, config, space = self.suite, self.config, self.space
        o, limit = config.options, self.limit
        if config.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {config.strategy!r}; known: {', '.join(STRATEGIES)}")
        strategy = RandomSearch(space, limit.cost, limit.limit, batch=1, seed=seed)
        if config.strategy == "evolution":
            made = EvolutionOptions(o.population, o.tournament)
            strategy = Evolution(space, limit.cost, limit.limit, made, batch=1, seed=seed)
        strategy.at_once = 1  # each draw is measured
        fixed = {k: v for k, v in config.net.items() if k != "type"}
        size = dict(num_classes=suite.classes, frames=space.frames, crop=space.crop)
        state, journal, seconds, steps = folder / "journal.pth", [], 0.0, 0
        if state.exists():
            saved = torch.load(state, weights_only=True)
            journal, seconds, steps = saved["journal"], saved["seconds"], saved["steps"]
            strategy.load_state_dict(saved["strategy"])
        weights, held_out = halves(manifest, seed)
        batches = list(itertools.islice(stream(held_out, config, suite, seed), o.judge_batches))
        while len(journal) < o.evaluations:
            number, code = len(journal) + 1, strategy.ask()
            work, cost = folder / "candidates" / str(number), limit.cost(code)
            torch.manual_seed(seed)
            net = family("tiny_video_net").build(**size, **fixed, architecture=space.decode(code[0]).to_dict())
            label = f"{name}, candidate {number} of {o.evaluations}"
            try:
                model, hook, n = fit(net, suite, config, seed, weights, o.epochs, work, label)
                fitness = log_likelihood(model, batches)
                seconds, steps = seconds + hook.seconds_total, steps + n
            except DivergedError:
                fitness = math.nan
            if math.isfinite(fitness):  # what failed is never born
                told = torch.tensor([fitness], dtype=torch.float64)
                strategy.tell(code, told, cost, config.batch * o.judge_batches)
            journal.append((code[0].tolist(), fitness, cost.item()))
            saved = dict(journal=journal, seconds=seconds, steps=steps, strategy=strategy.state_dict())
            write_atomic(state, lambda path, saved=saved: torch.save(saved, path))
            shutil.rmtree(work)
        if not any(math.isfinite(fitness) for _, fitness, _ in journal):
            raise SearchError(
                f"{name}: all {len(journal)} candidates failed; lower `lr` in the recipe's `optim_wrapper`"
            )
        rows = [dict(code=code, log_likelihood=fitness, ms=ms) for code, fitness, ms in journal]
        write_atomic(folder / "journal.parquet", lambda p: pd.DataFrame(rows).to_parquet(p, index=False))
        write_json(folder / "architecture.json", space.decode(strategy.best()).to_dict())
        record = Search(**self._cost(steps), seed=seed, wall_s=seconds)
        write_json(folder / "search.json", record.model_dump())

    def _cost(self, steps: int) -> dict[str, Any]:
        o = self.config.options
        clips = self.config.batch * (steps + o.judge_batches * o.evaluations)
        return dict(
            strategy=self.config.strategy,
            space=self.space.name,
            steps=steps,
            architectures=o.evaluations,
            clips=clips,
            devices=1,
        )

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        config, half = self.config, (videos + self.suite.classes) / 2
        most = config.options.evaluations * math.ceil(config.options.epochs * half / config.batch)
        return self._cost(min(said.steps, most))

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``."""
        from reproduce.pictures.search import draw_curves  # matplotlib takes long to import

        fitness = pd.read_parquet(folder / "journal.parquet").log_likelihood.to_numpy()
        curves = {"best so far": [np.fmax.accumulate(fitness)], "each candidate": [fitness]}
        draw_curves(curves, path, "candidate", "log-likelihood of held-out clips (nats per clip)")

    def draw(self, seed: int) -> TinyVideoArchitecture:
        """A random candidate, the first that some width brings to the budget; not measured, so the same anywhere."""
        generator = torch.Generator().manual_seed(seed)
        return first_at_budget(
            (self.space.decode(self.space.sample(1, generator)[0]) for _ in range(DRAWS)), self.suite, self.config
        )
