"""Search by short trainings: each candidate is trained for a while, alone; its held-out likelihood is its fitness.
Strategies are those of ``autotsnet.search``.

Leaves ``journal.parquet``: the candidates and their fitness.
"""

from __future__ import annotations

import itertools
import math
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from torch import Tensor, nn

from autotsnet.architecture import Architecture
from autotsnet.registry import family
from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from autotsnet.search.encoding import Cost
from autotsnet.search.progressive import SearchError
from autotsnet.space import Domain
from reproduce.budget import Solution, memory_folder, solve
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes, schedule
from reproduce.engine.runner import DivergedError, RunHook, StreamLoop, build_runner, resume_from
from reproduce.records import Search
from reproduce.search.method import Method, halves, leave, stream
from reproduce.whole_files import write_atomic


class TrainingSearch(Method):
    """Evolution or random search with short trainings; the recipe's ``options`` say how many and how long.

    Attributes:
        family: whose networks are searched.
        space_name: in records.
        what: a candidate, in messages.
        strategies: that a recipe may name.
        at_once: draws of which the costs are asked together.
        fixed: arguments of a candidate's network beside those of the recipe.
    """

    family: str
    space_name: str
    what = "network"
    strategies: ClassVar[tuple[str, ...]] = ("evolution", "random")
    at_once = RandomSearch.at_once
    fixed: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def candidates(self) -> Domain:
        """A new domain to draw from, with ``decode``; where it grows, also ``state_dict`` and ``load_state_dict``."""

    def price(self) -> tuple[Cost, float | None]:
        """What codes cost, and the most that one may; as it is, nothing: each is as wide as the budget allows."""
        return _free, None

    def before(self, domain: Domain, done: int) -> None:
        """Called before each question to the strategy, after so many trained candidates."""
        return  # most domains do not change

    def after(self, domain: Domain, code: Tensor, net: nn.Module) -> None:
        """Called after each training with the candidate's code ``M``."""
        return  # most candidates are what they were

    @abstractmethod
    def row(self, candidate: Architecture, fitness: float, code: list[int], cost: float) -> dict[str, Any]:
        """What the journal says of a candidate."""

    def chosen(self, judged: list[tuple[Architecture, float]], best: Architecture) -> Architecture:
        """What is found, of candidates with their fitness in the order of their trainings: the best."""
        return best

    def what_trains(self) -> tuple[str, list]:
        """What of a recipe makes two searches the same: network, rates and options, and the rest."""
        config = self.config
        recipe = Config(dict(net=config.net, optim=config.optim_wrapper, options=config.options)).pretty_text
        keys = ("label_smoothing", "milestones", "amp", "sub_batch", "reference_batch")
        return recipe, [config.get(key) for key in keys]

    def identity(self) -> list:
        """See ``Method``: network, options and recipe."""
        config, (recipe, more) = self.config, self.what_trains()
        return [recipe, config.strategy, config.batch, config.warmup, repr(self.suite.protocol), more]

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``.

        Raises:
            SearchError: no candidate has a finite likelihood.
            ValueError: an unknown strategy.
        """
        suite, config = self.suite, self.config
        if config.strategy not in self.strategies:
            raise ValueError(
                f"unknown strategy {config.strategy!r} for {config.method}; known: {', '.join(self.strategies)}"
            )
        o, domain, (price, most) = config.options, self.candidates(), self.price()
        strategy = RandomSearch(domain, price, most, batch=1, seed=seed)
        if config.strategy == "evolution":
            made = EvolutionOptions(o.population, o.tournament)
            strategy = Evolution(domain, price, most, made, batch=1, seed=seed)
        strategy.at_once = self.at_once
        parts = dict(strategy=strategy) | (dict(domain=domain) if hasattr(domain, "state_dict") else {})
        state, journal, seconds, steps = folder / "journal.pth", [], 0.0, 0
        if state.exists():
            saved = torch.load(state, weights_only=True)
            journal, seconds, steps = saved["journal"], saved["seconds"], saved["steps"]
            for part, it in parts.items():
                it.load_state_dict(saved[part])
        weights, held_out = halves(manifest, seed)
        batches = list(itertools.islice(stream(held_out, config, suite, seed), o.judge_batches))
        while len(journal) < o.evaluations:
            self.before(domain, len(journal))
            number, code = len(journal) + 1, strategy.ask()
            work, cost = folder / "candidates" / str(number), price(code)
            try:
                label = f"{name}, {self.what} {number} of {o.evaluations}"
                model, hook, n = self._fit(domain.decode(code[0]), seed, weights, o.epochs, work, label)
                self.after(domain, code[0], model.net)
                fitness = _log_likelihood(model, batches)
                seconds, steps = seconds + hook.seconds_total, steps + n
            except DivergedError:
                fitness = math.nan
            if math.isfinite(fitness):  # what failed is never born
                told = torch.tensor([fitness], dtype=torch.float64)
                strategy.tell(code, told, cost, config.batch * o.judge_batches)
            journal.append((code[0].tolist(), fitness, cost.item()))
            saved = dict(journal=journal, seconds=seconds, steps=steps)
            saved |= {part: it.state_dict() for part, it in parts.items()}
            write_atomic(state, lambda path, saved=saved: torch.save(saved, path))
            shutil.rmtree(work)
        if not any(math.isfinite(fitness) for _, fitness, _ in journal):
            raise SearchError(
                f"{name}: all {len(journal)} {self.what}s failed, the loss of none was finite; lower `lr` in the "
                "recipe's `optim_wrapper`, which makes it another search"
            )
        judged = [(domain.decode(torch.tensor(code)), fitness) for code, fitness, _ in journal]
        found = self.chosen(judged, domain.decode(strategy.best()))
        rows = [
            self.row(candidate, fitness, code, cost)
            for (candidate, _), (code, fitness, cost) in zip(judged, journal, strict=True)
        ]
        record = Search(**self._cost(steps), seed=seed, wall_s=seconds)
        leave(folder, pd.DataFrame(rows), found.to_dict(), record)

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        options, half = self.config.options, (videos + self.suite.classes) / 2
        most = options.evaluations * math.ceil(options.epochs * half / self.config.batch)
        return self._cost(min(said.steps, most))

    def _cost(self, steps: int) -> dict[str, Any]:
        config, o = self.config, self.config.options
        clips = config.batch * (steps + o.judge_batches * o.evaluations)
        found = dict(strategy=config.strategy, space=self.space_name, devices=1)
        return found | dict(steps=steps, architectures=o.evaluations, clips=clips)

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``: the fitness of each candidate and of the best so far."""
        from reproduce.pictures.search import draw_curves  # matplotlib takes long to import

        fitness = pd.read_parquet(folder / "journal.parquet").log_likelihood.to_numpy()
        curves = {"best so far": [np.fmax.accumulate(fitness)], f"each {self.what}": [fitness]}
        draw_curves(curves, path, self.what, "log-likelihood of held-out clips (nats per clip)")

    def _solution(self, candidate: Architecture, **more: Any) -> Solution:
        """A candidate at the suite's budget."""
        fixed = {k: v for k, v in self.config.net.items() if k != "type"} | candidate.arguments() | more
        known = family(self.family)
        return solve(known.build, known.knobs, self.suite.gmacs, **self.size, fixed=fixed, memory=memory_folder())

    def network(self, candidate: Architecture, seed: int) -> nn.Module:
        """A candidate's network as it is trained, of weights that the seed draws: at the suite's budget."""
        solution = self._solution(candidate, **self.fixed)
        torch.manual_seed(seed)
        return family(self.family).build(**self.size, **solution.kwargs)

    def _fit(
        self, candidate: Architecture, seed: int, manifest: Manifest, epochs: float, folder: Path, name: str
    ) -> tuple[VideoClassifier, RunHook, int]:
        """Train a candidate; resumes. The model, its hook and its steps."""
        suite, config = self.suite, self.config
        net = self.network(candidate, seed)
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


def _free(codes: Tensor) -> Tensor:
    """No candidate costs more than another: each is as wide as the budget allows."""
    return torch.zeros(len(codes), dtype=torch.float64)


@torch.no_grad()
def _log_likelihood(model: VideoClassifier, batches: list[dict]) -> float:
    """Mean per held-out clip; with the statistics of each batch, as those that training averaged are young."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    losses = [model(**model.data_preprocessor(b, True), mode="loss")["loss"].item() for b in batches]
    return -sum(losses) / len(losses)
