"""Search by short trainings: each candidate is as wide as the budget allows and is trained for a while; its held-out
likelihood is its fitness. Strategies are those of ``autotsnet.search``.

Leaves ``journal.parquet``: the candidates and their fitness.
"""

from __future__ import annotations

import itertools
import math
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from torch import Tensor, nn

from autotsnet.architecture import Architecture
from autotsnet.registry import family
from autotsnet.search import Evolution, EvolutionOptions, RandomSearch
from autotsnet.search.progressive import SearchError
from autotsnet.space import Domain
from reproduce.budget import Solution, solve
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes, schedule
from reproduce.engine.runner import DivergedError, RunHook, StreamLoop, build_runner, resume_from
from reproduce.search.method import Method, halves, stream
from reproduce.whole_files import write_atomic

STRATEGIES = ("evolution", "random")


class Candidates(Domain, Protocol):
    """A domain whose codes ``M`` stand for architectures."""

    def decode(self, code: Tensor) -> Architecture:
        """The architecture of a code."""
        ...

    def state_dict(self) -> Any:
        """What codes mean, where this grows; tensors and plain data only."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Continue as if never interrupted."""
        ...


class TrainingSearch(Method):
    """Evolution or random search with short trainings; the recipe's ``options`` say how many and how long.

    Attributes:
        family: whose networks are searched.
        space: name in records.
        what: a candidate, in messages.
        fixed: arguments of a candidate's network beside those of the recipe.
    """

    family: str
    space: str
    what = "network"
    fixed: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def candidates(self) -> Candidates:
        """A new domain to draw from."""

    def before(self, domain: Candidates, done: int) -> None:
        """Called before each question to the strategy, after so many trained candidates."""
        return  # most domains do not change

    def after(self, domain: Candidates, code: Tensor, net: nn.Module) -> None:
        """Called after each training with the candidate's code ``M``."""
        return  # most candidates are what they were

    @abstractmethod
    def row(self, candidate: Architecture) -> dict[str, Any]:
        """What the journal says of a candidate."""

    def evolve(
        self, seed: int, manifest: Manifest, folder: Path, name: str
    ) -> tuple[list[tuple[Architecture, float]], Architecture, pd.DataFrame, dict[str, Any]]:
        """Search, or go on.

        Returns:
            Candidates with their fitness in the order of their trainings, the best, the journal, and the cost for a
            ``reproduce.records.Search``.

        Raises:
            SearchError: no candidate has a finite likelihood.
        """
        suite, config = self.suite, self.config
        o, domain = config.options, self.candidates()
        strategy = RandomSearch(domain, _free, None, batch=1, seed=seed)
        if config.strategy == "evolution":
            strategy = Evolution(domain, _free, None, EvolutionOptions(o.population, o.tournament), batch=1, seed=seed)
        state, journal, seconds, steps = folder / "journal.pth", [], 0.0, 0
        if state.exists():
            saved = torch.load(state, weights_only=True)
            journal, seconds, steps = saved["journal"], saved["seconds"], saved["steps"]
            domain.load_state_dict(saved["domain"])
            strategy.load_state_dict(saved["strategy"])
        weights, held_out = halves(manifest, seed)
        batches = list(itertools.islice(stream(held_out, config, suite, seed), o.judge_batches))
        while len(journal) < o.evaluations:
            self.before(domain, len(journal))
            number, code = len(journal) + 1, strategy.ask()
            work = folder / "candidates" / str(number)
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
                strategy.tell(code, told, _free(code), config.batch * o.judge_batches)
            journal.append((code[0].tolist(), fitness))
            saved = dict(journal=journal, seconds=seconds, steps=steps)
            saved |= dict(domain=domain.state_dict(), strategy=strategy.state_dict())
            write_atomic(state, lambda path, saved=saved: torch.save(saved, path))
            shutil.rmtree(work)
        if not any(math.isfinite(fitness) for _, fitness in journal):
            raise SearchError(
                f"{name}: all {len(journal)} {self.what}s failed, the loss of none was finite; lower `lr` in the "
                "recipe's `optim_wrapper`, which makes it another search"
            )
        judged = [(domain.decode(torch.tensor(code)), fitness) for code, fitness in journal]
        rows = [dict(log_likelihood=fitness, **self.row(candidate)) for candidate, fitness in judged]
        clips = config.batch * (steps + o.judge_batches * len(rows))
        cost = dict(steps=steps, architectures=len(rows), clips=clips, wall_s=seconds)
        return judged, domain.decode(strategy.best()), pd.DataFrame(rows), cost

    def evolved_cost(self, steps: int, videos: int) -> tuple[int, int, int]:
        """Steps, candidates and clips that the recipe allows; ``steps`` is what a record says."""
        config, options = self.config, self.config.options
        judged, half = options.evaluations, (videos + self.suite.classes) / 2
        steps = min(steps, judged * math.ceil(options.epochs * half / config.batch))
        return steps, judged, (steps + options.judge_batches * judged) * config.batch

    def draw_evolution(self, journal: pd.DataFrame, path: Path) -> None:
        """The fitness of each candidate and of the best so far."""
        from reproduce.pictures.search import draw_curves  # matplotlib takes long to import

        fitness = journal.log_likelihood.to_numpy()
        curves = {"best so far": [np.fmax.accumulate(fitness)], f"each {self.what}": [fitness]}
        draw_curves(curves, path, self.what, "log-likelihood of held-out clips (nats per clip)")

    @property
    def _size(self) -> dict[str, int]:
        protocol = self.suite.protocol
        return dict(num_classes=self.suite.classes, frames=protocol.sampling.frames, crop=protocol.crops.size)

    def _solution(self, candidate: Architecture, **more: Any) -> Solution:
        """A candidate at the suite's budget."""
        fixed = {k: v for k, v in self.config.net.items() if k != "type"} | candidate.arguments() | more
        known = family(self.family)
        return solve(known.build, known.knobs, self.suite.gmacs, **self._size, fixed=fixed)

    def _fit(
        self, candidate: Architecture, seed: int, manifest: Manifest, epochs: float, folder: Path, name: str
    ) -> tuple[VideoClassifier, RunHook, int]:
        """Train a candidate at the suite's budget; resumes."""
        suite, config = self.suite, self.config
        solution = self._solution(candidate, **self.fixed)
        torch.manual_seed(seed)
        steps, schedulers = schedule(Config(dict(config, epochs=epochs)), len(manifest.videos))
        hook = RunHook(seed, name, interval=config.checkpoint)
        parts, _ = passes(config, 1)
        runner = build_runner(
            config,
            folder,
            name,
            model=VideoClassifier(
                family(self.family).build(**self._size, **solution.kwargs), label_smoothing=config.label_smoothing
            ),
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
